"""Poisson samples at a site: units, not records, each on its own, at the rate that is charged."""

import numpy as np
import pytest
from scipy.stats import binom

from clients.private_tuning import drawn_units
from foedus import gradient
from foedus.errors import PrivacyError
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.model import Model


def test_all_units_are_in_at_a_rate_of_one() -> None:
    assert drawn_units(np.array(["b", "a", "b"]), 1.0).tolist() == [0, 1, 2]
    assert drawn_units(np.array([], np.str_), 0.5).tolist() == []


def test_a_unit_is_in_with_all_its_records_or_with_none() -> None:
    units = np.repeat(np.arange(200), 3)[np.random.default_rng(0).permutation(600)].astype(np.str_)
    found = drawn_units(units, 0.3)
    assert (np.diff(found) > 0).all()
    inside, counts = np.unique(units[found], return_counts=True)
    assert 0 < len(inside) < 200
    assert set(counts) == {3}


@pytest.mark.parametrize("rate", [0.01, 0.2, 0.9])
def test_the_rate_is_the_one_that_was_asked_for_and_draws_differ(rate: float) -> None:
    units = np.arange(20_000).astype(np.str_)
    one, other = (drawn_units(units, rate) for _ in range(2))
    for found in (one, other):
        assert 1e-9 < binom.cdf(len(found), len(units), rate) < 1 - 1e-9
    assert set(one) != set(other)
    both = len(set(one) & set(other))
    assert 1e-9 < binom.cdf(both, len(units), rate**2) < 1 - 1e-9


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, float("nan")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(PrivacyError, match="expected above 0 and at most 1"):
        drawn_units(np.array(["a"]), rate)


def test_a_sampled_step_is_right_on_average() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 4)).astype(np.float32)
    head = LinearHead(rng.normal(size=(2, 4)).astype(np.float32), np.zeros(2, np.float32))
    units = rng.integers(0, 25, 60).astype(np.str_)
    examples = Examples(x, rng.integers(0, 2, 60), {}, units)
    rate, n, sums = 0.3, len(set(units)), []
    for _ in range(4000):
        some = examples.take(drawn_units(units, rate))
        sums.append(gradient.contribution(head, some, clip_norm=0.5)[gradient.GRADIENT])
    mean = gradient.read(Model(head), {gradient.GRADIENT: np.mean(sums, axis=0)}, lr=1.0, n=n * rate)
    whole = gradient.contribution(head, examples, clip_norm=0.5)
    full = gradient.read(Model(head), whole, lr=1.0, n=n)
    np.testing.assert_allclose(mean.model.head.weight, full.model.head.weight, atol=0.01)
