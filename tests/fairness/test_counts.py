import json
from collections.abc import Callable
from functools import reduce

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairness.counts import AuditCounts
from fairness.groups import GroupPlan
from foedus.errors import AuditError, ConfigError, DataError
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.statistic import Arrays, add

PLAN = GroupPlan.of({"sex": ["f", "m"]}, [])


def two_class(plan: GroupPlan = PLAN, threshold: float = 0.5) -> AuditCounts:
    head = LinearHead(np.array([[0], [1]], np.float32), np.zeros(2, np.float32))
    return AuditCounts(plan, head, 1, threshold, np.array([-1.0, 0.0, 1.0]))


def examples(x: list[float], y: list[int], sex: list[str]) -> Examples:
    return Examples(np.array(x, np.float32)[:, None], np.array(y, np.int64), {"sex": np.array(sex, np.str_)})


def test_counts_by_hand() -> None:
    found = two_class().measure(examples([2, -2, 0.5, -0.5, 0], [1, 1, 0, 0, 1], ["f", "f", "f", "m", "x"]))
    assert found["confusion:sex"].tolist() == [[[0, 1], [1, 1]], [[1, 0], [0, 0]], [[0, 0], [0, 1]]]
    assert found["scores:sex"].tolist() == [
        [[0, 0, 1, 0], [1, 0, 0, 1]],
        [[0, 1, 0, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0, 0, 1, 0]],
    ]
    assert found["sites:sex"].tolist() == [1, 1, 1]
    assert {a.dtype for a in found.values()} == {np.dtype(np.int64)}


def test_threshold_moves_the_decision() -> None:
    rows = examples([1.0], [1], ["f"])  # probability 0.731
    assert two_class(threshold=0.73).measure(rows)["confusion:sex"][0].tolist() == [[0, 0], [0, 1]]
    assert two_class(threshold=0.74).measure(rows)["confusion:sex"][0].tolist() == [[0, 0], [1, 0]]


def test_more_classes_decide_by_highest_score() -> None:
    head = LinearHead(np.eye(3, dtype=np.float32), np.zeros(3, np.float32))
    statistic = AuditCounts(PLAN, head, 2, 0.9, np.array([0.0]))
    rows = Examples(np.eye(3, dtype=np.float32), np.array([0, 2, 2]), {"sex": np.array(["f", "f", "f"])})
    assert statistic.measure(rows)["confusion:sex"][0].tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 1]]


def test_an_attribute_the_site_lacks_is_unknown() -> None:
    rows = Examples(np.ones((2, 1), np.float32), np.array([0, 1]), {})
    assert two_class().measure(rows)["confusion:sex"].sum(axis=(1, 2)).tolist() == [0, 0, 2]


def test_intersections_are_counted_in_the_order_of_their_names() -> None:
    plan = GroupPlan.of({"sex": ["f", "m"], "age": ["young", "old"]}, [["sex", "age"]])
    rows = Examples(
        np.ones((2, 1), np.float32),
        np.array([1, 1]),
        {"sex": np.array(["m", "f"]), "age": np.array(["old", "?"])},
    )
    counted = two_class(plan).measure(rows)["confusion:sex|age"].sum(axis=(1, 2))
    names = plan.tables()["sex|age"]
    assert [names[i] for i in np.flatnonzero(counted)] == ["f|unknown", "m|old"]


def test_an_empty_site_contributes_zeros() -> None:
    rows = Examples(np.zeros((0, 1), np.float32), np.zeros(0, np.int64), {"sex": np.zeros(0, np.str_)})
    assert all(int(a.sum()) == 0 for a in two_class().measure(rows).values())


def test_measure_returns_what_declare_promises(request_: AuditCounts, sites: list[Examples]) -> None:
    declared, found = request_.declare(), request_.measure(sites[0])
    assert declared.keys() == found.keys()
    for key, quantity in declared.items():
        assert found[key].shape == quantity.shape
        assert quantity.low <= found[key].min() <= found[key].max() <= quantity.high


def test_a_label_outside_the_classes_is_refused() -> None:
    with pytest.raises(DataError, match="outside the study's 2 classes"):
        two_class().measure(examples([1.0], [2], ["f"]))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 6), min_size=60, max_size=60), st.randoms(use_true_random=False))
def test_spreading_and_shuffling_rows_changes_nothing(
    request_: AuditCounts, sites: list[Examples], where: list[int], random: object
) -> None:
    pooled = sites[2].take(np.arange(60))
    order = np.array(sorted(range(60), key=lambda _: random.random()))  # type: ignore[attr-defined]
    place = np.array(where)[order]
    parts = [request_.measure(pooled.take(order[place == s])) for s in range(7)]
    total, whole = reduce(add, parts), request_.measure(pooled)
    for key in whole:
        if not key.startswith(("sites", "within")):
            assert np.array_equal(total[key], whole[key])


def test_counts_are_those_of_pooled_rows(
    request_: AuditCounts, sites: list[Examples], gather: Callable[..., Arrays]
) -> None:
    pooled = Examples(
        np.concatenate([s.features for s in sites]),
        np.concatenate([s.labels for s in sites]),
        {name: np.concatenate([s.groups[name] for s in sites]) for name in sites[0].groups},
    )
    total, whole = gather(request_, sites), request_.measure(pooled)
    assert all(np.array_equal(total[k], whole[k]) for k in whole if not k.startswith(("sites", "within")))
    assert total["sites"].tolist() == [4]


def test_read_refuses_sums_that_contradict_each_other(request_: AuditCounts, sites: list[Examples]) -> None:
    total = request_.measure(sites[0])
    total["confusion:sex"] = total["confusion:sex"] + 1
    with pytest.raises(AuditError, match="contradict each other"):
        request_.read(total)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"extra": 1}, "extra is not a known key"),
        ({"threshold": 1.0}, "threshold"),
        ({"positive": 2}, "positive is 2 but the head has 2 classes"),
        ({"groups": "{"}, "not valid JSON"),
        ({"groups": "[]"}, "not a table"),
        ({"groups": json.dumps({"attributes": {"a": [1]}, "intersections": []})}, r"attributes\.a"),
        ({"groups": json.dumps({"attributes": {"a|b": ["x"]}, "intersections": []})}, "printable"),
        ({"groups": json.dumps({"attributes": {"a": ["x"]}, "intersections": [["a", "b"]]})}, "two or more"),
    ],
)
def test_a_request_with_bad_settings_is_refused(change: dict[str, object], problem: str) -> None:
    statistic = two_class()
    with pytest.raises(ConfigError, match=problem):
        AuditCounts.from_wire({**statistic.settings(), **change}, statistic.arrays())  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"edges": np.array([1.0, 0.0])}, "do not ascend"),
        ({"edges": np.array([np.nan])}, "do not ascend"),
        ({"edges": np.array([1], np.int64)}, "edges are int64"),
        ({"weight": np.full((2, 1), np.inf, np.float32)}, "not finite"),
        ({"weight": np.zeros((3, 1), np.float32)}, "not a head"),
        ({"bias": np.zeros(2)}, "expected float32"),
        ({"more": np.zeros(2)}, "expected"),
    ],
)
def test_a_request_with_bad_arrays_is_refused(change: Arrays, problem: str) -> None:
    statistic = two_class()
    with pytest.raises(ConfigError, match=problem):
        AuditCounts.from_wire(statistic.settings(), {**statistic.arrays(), **change})
