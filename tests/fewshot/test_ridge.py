import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from fewshot.ridge import CLASS_COUNT, GRAM, XTY, RidgeSums, RidgeTotals
from foedus.errors import ConfigError, FewShotError
from foedus.examples import Examples
from foedus.statistic import add


def make(n: int, dim: int, n_classes: int, seed: int) -> Examples:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, n)
    features = rng.normal(size=(n, dim)) + rng.normal(size=(n_classes, dim))[labels] + 2
    return Examples(features.astype(np.float32), labels)


def test_sums_equal_hand_computed_numbers() -> None:
    examples = Examples(np.array([[1, 2], [3, 4]], np.float32), np.array([1, 0]))
    sums = RidgeSums(2, 2).measure(examples)
    assert sums[GRAM].tolist() == [[10, 14, 4], [14, 20, 6], [4, 6, 2]]
    assert sums[XTY].tolist() == [[3, 1], [4, 2], [1, 1]]
    assert sums[CLASS_COUNT].tolist() == [1, 1]
    assert sums[CLASS_COUNT].dtype == np.int64


def test_measure_returns_what_it_declares() -> None:
    statistic = RidgeSums(3, 4, (0, 2))
    sums = statistic.measure(make(20, 4, 3, 0))
    declared = statistic.declare()
    assert sums.keys() == declared.keys()
    assert all(sums[key].shape == declared[key].shape for key in sums)
    assert sums[CLASS_COUNT][1] == 0


@pytest.mark.parametrize("penalty", [1e-3, 0.05, 3.0])
def test_solve_equals_sklearn_ridge_on_pooled_rows(penalty: float) -> None:
    examples = make(200, 30, 4, 1)
    statistic = RidgeSums(4, 30)
    weight, bias = statistic.read(statistic.measure(examples)).solve(penalty)
    oracle = Ridge(alpha=penalty * 200).fit(examples.features.astype(np.float64), np.eye(4)[examples.labels])
    np.testing.assert_allclose(weight, oracle.coef_, atol=1e-6)
    np.testing.assert_allclose(bias, oracle.intercept_, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=60, max_size=60), st.randoms(use_true_random=False))
def test_any_partition_in_any_order_gives_the_pooled_head(sites: list[int], random: object) -> None:
    examples = make(60, 8, 3, 2)
    statistic = RidgeSums(3, 8)
    parts = [statistic.measure(examples.take(np.flatnonzero(np.array(sites) == s))) for s in range(5)]
    random.shuffle(parts)  # type: ignore[attr-defined]
    total = parts[0]
    for part in parts[1:]:
        total = add(total, part)
    weight, bias = statistic.read(total).solve(0.05)
    pooled_weight, pooled_bias = statistic.read(statistic.measure(examples)).solve(0.05)
    np.testing.assert_allclose(weight, pooled_weight, atol=1e-6)
    np.testing.assert_allclose(bias, pooled_bias, atol=1e-6)


def test_class_without_examples_never_wins() -> None:
    examples = make(50, 6, 2, 3)
    statistic = RidgeSums(3, 6)
    head = statistic.read(statistic.measure(examples)).head(0.05)
    assert head.weight[2].tolist() == [0] * 6
    assert 2 not in head.scores(examples.features * 10).argmax(1)


def test_scatters_equal_numpy() -> None:
    examples = make(40, 5, 3, 4)
    statistic = RidgeSums(3, 5)
    totals = statistic.read(statistic.measure(examples))
    x = examples.features.astype(np.float64)
    within = sum(np.cov(x[examples.labels == c].T, ddof=0) * (examples.labels == c).sum() for c in range(3))
    np.testing.assert_allclose(totals.within_scatter(), within, atol=1e-9)
    np.testing.assert_allclose(totals.scatter(), np.cov(x.T, ddof=0) * 40, atol=1e-9)


def test_from_wire_returns_the_same_statistic() -> None:
    statistic = RidgeSums(5, 7, (1, 2), min_count=9)
    assert RidgeSums.from_wire(statistic.settings(), statistic.arrays()) == statistic


def test_from_wire_refuses_what_is_unexpected() -> None:
    with pytest.raises(ConfigError, match="dimm is not a known key; did you mean 'dim'"):
        RidgeSums.from_wire({"n_classes": 2, "dimm": 3}, {})
    with pytest.raises(ConfigError, match=r"classes holds \[7\], expected indices in 0..1"):
        RidgeSums.from_wire({"n_classes": 2, "dim": 3, "classes": [7]}, {})
    with pytest.raises(ConfigError, match="weight is not a known array"):
        RidgeSums.from_wire({"n_classes": 2, "dim": 3}, {"weight": np.zeros(2)})


def test_errors_say_what_was_found() -> None:
    with pytest.raises(FewShotError, match=r"features have shape \(9, 4\), expected \(n, 5\)"):
        RidgeSums(2, 5).measure(make(9, 4, 2, 0))
    with pytest.raises(FewShotError, match=r"a label is outside 0\.\.1"):
        RidgeSums(2, 4).measure(make(30, 4, 3, 0))
    empty = RidgeTotals(np.zeros((3, 3)), np.zeros((3, 2)), np.zeros(2, np.int64))
    with pytest.raises(FewShotError, match="hold no example"):
        empty.solve(0.1)
    statistic = RidgeSums(2, 4)
    with pytest.raises(FewShotError, match="penalty is 0, expected a positive number"):
        statistic.read(statistic.measure(make(9, 4, 2, 0))).solve(0)
