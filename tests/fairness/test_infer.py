from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from fairness.counts import GroupTable
from fairness.infer import (
    Limits,
    auc_limits,
    detectable_gap,
    largest_difference,
    limits,
    needed_per_group,
    simultaneous_z,
    smallest_ratio,
    wilson,
)
from fairness.metrics import PROPORTIONS, auc


def both(table: GroupTable, metric: str) -> tuple[list[float], list[float]]:
    found = limits(metric, table, 1, z=simultaneous_z(len(table.groups), 0.05))
    gap, share = largest_difference(found), smallest_ratio(found)
    return [gap.value, gap.low, gap.high], [share.value, share.low, share.high]


def test_wilson_equals_scipy() -> None:
    for x, n in ((0, 20), (1, 20), (7, 10), (20, 20), (311, 2000)):
        found = wilson(np.array([x]), np.array([n]), z=simultaneous_z(2, 0.05))
        scipys = binomtest(x, n).proportion_ci(0.95, method="wilson")
        assert [found.low[0], found.high[0]] == pytest.approx([scipys.low, scipys.high], abs=1e-12)


def test_wilson_without_trials_is_undefined() -> None:
    found = wilson(np.array([0]), np.array([0]), z=1.96)
    assert np.isnan([found.value[0], found.low[0], found.high[0]]).all()


def test_published_gaps_and_ratios(table_of: Callable[..., GroupTable]) -> None:
    """Measured for reference/fairness.md, section 5."""
    compas = table_of("race", a=(990, 805, 532, 1369), b=(1139, 349, 461, 505))
    assert both(compas, "tpr")[0] == pytest.approx([0.197, 0.160, 0.235], abs=5e-4)
    adult = table_of("sex", f=(4720, 111, 275, 315), m=(6881, 723, 1301, 1955))
    assert both(adult, "tpr")[0] == pytest.approx([0.067, 0.023, 0.110], abs=5e-4)
    assert both(adult, "selection_rate")[1] == pytest.approx([0.319, 0.289, 0.351], abs=5e-4)
    german = table_of("age", young=(38, 42, 24, 86), old=(108, 112, 59, 531))
    assert both(german, "selection_rate")[1] == pytest.approx([0.849, 0.757, 0.935], abs=5e-4)
    hmda = table_of("race", b=(74, 22, 78, 165), o=(105, 84, 247, 1605))
    assert both(hmda, "selection_rate")[1] == pytest.approx([0.667, 0.601, 0.731], abs=5e-4)
    heart = table_of("sex", f=(118, 26, 14, 36), m=(193, 74, 85, 374))
    assert both(heart, "tpr")[0] == pytest.approx([0.095, 0.0, 0.235], abs=5e-4)


def test_two_groups_are_newcombes_interval() -> None:
    """Newcombe 1998, method 10, 56/70 against 48/80: 0.2000 [0.0524, 0.3339]."""
    found = largest_difference(wilson(np.array([56, 48]), np.array([70, 80]), z=simultaneous_z(2, 0.05)))
    assert [found.value, found.low, found.high] == pytest.approx([0.2, 0.0524, 0.3339], abs=5e-5)


@pytest.mark.parametrize(("groups", "positives"), [(2, 100), (5, 50)])
def test_equal_groups_are_covered(groups: int, positives: int) -> None:
    rng = np.random.default_rng(0)
    z = simultaneous_z(groups, 0.05)
    covered = [
        largest_difference(
            wilson(rng.binomial(positives, 0.7, groups), np.full(groups, positives), z=z)
        ).low == 0
        for _ in range(600)
    ]  # fmt: skip
    assert np.mean(covered) >= 0.92


def test_a_rate_of_zero_has_a_ratio_of_zero_with_an_upper_limit() -> None:
    found = smallest_ratio(wilson(np.array([0, 20]), np.array([40, 40]), z=1.96))
    assert (found.value, found.low) == (0.0, 0.0)
    assert 0 < found.high < 0.5


@given(
    st.lists(st.lists(st.integers(0, 12), min_size=4, max_size=4), min_size=1, max_size=4),
    st.sampled_from([*PROPORTIONS, "auc"]),
)
@settings(deadline=None)
def test_no_count_however_small_makes_numpy_divide_by_zero_or_take_its_logarithm(
    counts: list[list[int]], metric: str
) -> None:
    """Each group has tn, fp, fn, tp; the scores are the decisions."""
    confusion = np.array(counts, np.int64).reshape(-1, 2, 2)
    names = tuple(f"g{i}" for i in range(len(confusion)))
    table = GroupTable("sex", names, confusion, confusion, np.ones(len(confusion), np.int64))
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        found = limits(metric, table, 1, z=1.96)
        gap, share = largest_difference(found), smallest_ratio(found)
    assert not gap.high > 1
    assert not share.low > share.value


def test_a_ratio_beside_a_rate_of_zero_is_that_of_the_pair_alone() -> None:
    """Three groups, one of them at 0: the pair of the others must not take its logarithm."""
    found = wilson(np.array([0, 20, 30]), np.array([40, 40, 40]), z=1.96)
    with np.errstate(all="raise"):
        assert smallest_ratio(found).value == 0.0


def test_fewer_than_two_defined_groups_are_not_compared() -> None:
    nan = np.nan
    one = Limits(np.array([0.5, nan]), np.array([0.4, nan]), np.array([0.6, nan]))
    assert np.isnan(largest_difference(one).value)
    assert np.isnan(smallest_ratio(one).high)
    zeros = wilson(np.array([0, 0]), np.array([40, 40]), z=1.96)
    assert np.isnan(smallest_ratio(zeros).value)


def rows_delong(y: np.ndarray, s: np.ndarray) -> float:
    above = (s[y == 1][:, None] > s[y == 0][None, :]).astype(float)
    return float(
        np.sqrt(above.mean(1).var(ddof=1) / (y == 1).sum() + above.mean(0).var(ddof=1) / (y == 0).sum())
    )


def test_auc_interval_has_delongs_standard_error() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(1000) % 4 == 0
    s = rng.normal(size=1000) + y
    edges = np.quantile(s, np.arange(1, 128) / 128)
    histogram = np.zeros((1, 2, 128), np.int64)
    np.add.at(histogram[0], (y.astype(int), np.searchsorted(edges, s, side="right")), 1)
    found = auc(histogram)
    assert found.variance[0] ** 0.5 == pytest.approx(rows_delong(y.astype(int), s), rel=0.01)
    within = auc_limits(histogram, z=1.0)
    assert (within.high - within.low)[0] / 2 == pytest.approx(
        found.variance[0] ** 0.5 + found.bound[0], rel=0.01
    )


def test_a_perfect_auc_of_few_people_is_not_certain() -> None:
    found = auc_limits(np.array([[[3, 0], [0, 3]]]), z=1.96)
    assert found.value[0] == 1
    assert found.low[0] < 0.6


def test_detectable_gap_is_that_of_the_reference() -> None:
    """Section 2.3: power 0.8, reference group ten times larger, rate 0.7."""
    published = {2: {50: 0.195, 100: 0.138, 500: 0.061, 5000: 0.019}, 15: {50: 0.291, 1000: 0.065}}
    for groups, row in published.items():
        z = simultaneous_z(groups, 0.05)
        for n, gap in row.items():
            assert detectable_gap(0.21 / n, 0.021 / n, z=z) == pytest.approx(gap, rel=0.035)
    assert detectable_gap(0.5, 0.5, z=5.0) == 1.0


def test_needed_people_are_those_of_the_reference() -> None:
    """Section 2.3, found by simulation there: our closed form is within a tenth of it."""
    for tolerance, row in {0.05: (1722, 4058, 6788), 0.10: (410, 972, 1722), 0.15: (195, 461, 730)}.items():
        for groups, n in zip((2, 5, 15), row, strict=True):
            assert needed_per_group(0.21**0.5, tolerance, groups, alpha=0.05) == pytest.approx(n, rel=0.1)
    for p, row in {0.3: (1089, 2164, 3833), 0.1: (4058, 8531, 15109)}.items():
        for groups, n in zip((2, 5, 15), row, strict=True):
            se = ((1 - p) / p) ** 0.5
            assert needed_per_group(se, -np.log(0.8), groups, alpha=0.05) == pytest.approx(n, rel=0.1)
