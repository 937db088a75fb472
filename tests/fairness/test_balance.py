"""Reweighing: hand-computed weights, marginals that stay, and training that listens to them."""

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clients.training import Descent, train
from fairness.balance import MOST, Balance, GroupLabels, balance_request, reweighing
from fairness.groups import GroupPlan
from foedus.errors import ConfigError
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.statistic import Arrays
from foedus.study import FederationSection

Gather = Callable[..., Arrays]


def test_weights_are_those_of_kamiran_and_calders() -> None:
    # Their example: 10 people, 5 men and 5 women, 6 hired, 4 of them men.
    counts = np.array([[1, 4], [3, 2]])
    np.testing.assert_allclose(reweighing(counts), [[2.0, 0.75], [2 / 3, 1.5]])
    np.testing.assert_allclose(reweighing(counts, strength=0.5), [[1.5, 0.875], [5 / 6, 1.25]])


@given(arrays(np.int64, (3, 2), elements=st.integers(5, 200)))
def test_groups_and_labels_keep_their_totals_and_become_independent(counts: np.ndarray) -> None:
    weighted = counts * reweighing(counts)
    if (reweighing(counts) >= MOST).any():
        return
    np.testing.assert_allclose(weighted.sum(axis=0), counts.sum(axis=0))
    np.testing.assert_allclose(weighted.sum(axis=1), counts.sum(axis=1))
    rates = weighted[:, 1] / weighted.sum(axis=1)
    np.testing.assert_allclose(rates, rates[0])


def test_a_rare_cell_counts_at_most_ten_and_an_empty_one_nothing_special() -> None:
    weights = reweighing(np.array([[1, 500], [500, 0]]))
    assert weights[0, 0] == MOST
    assert weights[1, 1] == 1


@pytest.fixture
def request_() -> GroupLabels:
    return balance_request(
        FederationSection(balance="group", balance_groups={"sex": ["female", "male"]}), n_classes=2
    )


def test_sites_are_asked_for_counts_and_told_weights(
    request_: GroupLabels, sites: list[Examples], gather: Gather
) -> None:
    total = gather(request_, sites)
    pooled = np.concatenate([site.labels for site in sites])
    women = np.concatenate([site.groups["sex"] for site in sites]) == "female"
    assert total["counts"][0].tolist() == np.bincount(pooled[women], minlength=2).tolist()
    found = request_.read(total)
    np.testing.assert_allclose(found.weights[:2], reweighing(total["counts"][:2]))
    assert found.weights[2].tolist() == [1, 1]
    there = Balance.from_json(found.to_json(), n_classes=2)
    np.testing.assert_array_equal(there.weights, found.weights)
    balanced = there.apply(sites[0])
    assert balanced.importance is not None
    first = ["female", "male"].index(str(sites[0].groups["sex"][0])) if sites[0].groups["sex"][0] else 2
    assert balanced.importance[0] == found.weights[first, sites[0].labels[0]]
    np.testing.assert_array_equal(balanced.take(np.array([0])).importance, balanced.importance[:1])


def test_attributes_are_crossed() -> None:
    section = FederationSection(balance="group", balance_groups={"sex": ["f", "m"], "age": ["old"]})
    found = balance_request(section, n_classes=3)
    assert found.declare()["counts"].shape == (3 * 2, 3)


def test_few_of_a_kind_at_a_site_count_one() -> None:
    plan = GroupPlan.of({"sex": ["f", "m"]}, [])
    balance = Balance(plan, np.array([[2.0, 3.0], [4.0, 5.0], [1.0, 1.0]]))
    sex = np.array(["f", "f", "f", "m"])
    examples = Examples(np.zeros((4, 1), np.float32), np.array([0, 0, 1, 1]), {"sex": sex})
    found = balance.apply(examples, fewest=2).importance
    assert found is not None
    assert found.tolist() == [2.0, 2.0, 1.0, 1.0]


@pytest.mark.parametrize("weights", [[[1.0, 0.0]] * 3, [[1.0, 11.0]] * 3, [[1.0, 1.0]] * 2, [["a", 1.0]] * 3])
def test_a_site_refuses_weights_that_single_people_out(weights: list[list[float]]) -> None:
    plan = GroupPlan.of({"sex": ["f", "m"]}, [])
    text = json.dumps({"groups": plan.to_json(), "weights": weights})
    with pytest.raises(ConfigError, match="the balance received"):
        Balance.from_json(text, n_classes=2)


def test_training_with_weights_is_training_on_repeated_rows(sites: list[Examples]) -> None:
    site = sites[0].take(np.arange(40))
    twice = site.take(np.concatenate([np.arange(40), np.arange(20)]))
    importance = np.where(np.arange(40) < 20, 2.0, 1.0)
    weighted = Examples(site.features, site.labels, site.groups, importance=importance * 40 / 60)
    head, rng = LinearHead.zeros(2, 5), np.random.default_rng
    one, _ = train(head, weighted, Descent(3, 100, 0.3), rng=rng(0))
    other, _ = train(head, twice, Descent(3, 100, 0.3), rng=rng(0))
    np.testing.assert_allclose(one.weight, other.weight, rtol=1e-4, atol=1e-6)
