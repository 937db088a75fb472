from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from fairness.counts import AuditCounts, GroupTable
from fairness.edges import AuditEdges, scores
from fairness.groups import GroupPlan
from fairness.metrics import auc, difference, group_metrics, ratio
from fairness.oracle import fairlearn_rates
from foedus.examples import Examples
from foedus.head import LinearHead

Four = tuple[int, int, int, int]
ORACLES: dict[str, dict[str, Four]] = {  # tn, fp, fn, tp
    "compas": {"african_american": (990, 805, 532, 1369), "caucasian": (1139, 349, 461, 505)},
    "german": {"young": (38, 42, 24, 86), "old": (108, 112, 59, 531)},
    "adult": {"female": (4720, 111, 275, 315), "male": (6881, 723, 1301, 1955)},
    "hmda": {"black": (74, 22, 78, 165), "other": (105, 84, 247, 1605)},
    "heart": {"female": (118, 26, 14, 36), "male": (193, 74, 85, 374)},
    "switzerland": {"female": (0, 0, 2, 8), "male": (5, 3, 20, 85)},
}


def expand(groups: dict[str, Four]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One row per person: labels, decisions, group codes."""
    cells = [(y, p, g, c) for g, (tn, fp, fn, tp) in enumerate(groups.values())
             for y, p, c in ((0, 0, tn), (0, 1, fp), (1, 0, fn), (1, 1, tp))]  # fmt: skip
    return tuple(np.repeat([cell[i] for cell in cells], [cell[3] for cell in cells]) for i in range(3))  # type: ignore[return-value]


@pytest.mark.parametrize("name", ORACLES)
def test_every_rate_equals_fairlearns_where_it_is_defined(
    name: str, table_of: Callable[..., GroupTable]
) -> None:
    ours = group_metrics(table_of("g", **ORACLES[name]).confusion, 1)
    theirs = fairlearn_rates(*expand(ORACLES[name]), positive=1)
    assert set(theirs) <= set(ours)
    for metric, by_group in theirs.items():
        for code, value in by_group.items():
            mine = ours[metric][code]
            assert np.isnan(mine) or abs(mine - value) <= 1e-12


def test_no_one_in_the_denominator_is_undefined_where_fairlearn_says_zero(
    table_of: Callable[..., GroupTable],
) -> None:
    groups = ORACLES["switzerland"]
    ours = group_metrics(table_of("g", **groups).confusion, 1)
    assert np.isnan(ours["fpr"][0])
    assert np.isnan(ours["tnr"][0])
    assert np.isnan(ours["balanced_accuracy"][0])
    assert ours["tpr"][0] == 0.8
    assert fairlearn_rates(*expand(groups), positive=1)["fpr"][0] == 0.0
    assert np.isnan(difference(ours["fpr"]))
    assert np.isnan(ratio(ours["fpr"]))


def test_published_figures(table_of: Callable[..., GroupTable]) -> None:
    compas = group_metrics(table_of("race", **ORACLES["compas"]).confusion, 1)
    assert compas["fpr"] == pytest.approx([0.4485, 0.2345], abs=5e-5)  # ProPublica 44.9, 23.5
    assert compas["fnr"] == pytest.approx([0.2799, 0.4772], abs=5e-5)  # ProPublica 28.0, 47.7
    assert difference(compas["selection_rate"]) == pytest.approx(0.240200, abs=5e-7)
    assert max(difference(compas["tpr"]), difference(compas["fpr"])) == pytest.approx(0.213925, abs=5e-7)
    adult = group_metrics(table_of("sex", **ORACLES["adult"]).confusion, 1)
    assert difference(adult["selection_rate"]) == pytest.approx(0.168010, abs=5e-7)
    assert ratio(adult["selection_rate"]) == pytest.approx(0.318676, abs=5e-7)
    assert max(difference(adult["tpr"]), difference(adult["fpr"])) == pytest.approx(0.072105, abs=5e-7)
    german = group_metrics(table_of("age", **ORACLES["german"]).confusion, 1)
    assert ratio(german["selection_rate"]) == pytest.approx(0.848654, abs=5e-7)
    assert german["base_rate"] == pytest.approx([0.5789, 0.7284], abs=5e-5)
    hmda = group_metrics(table_of("race", **ORACLES["hmda"]).confusion, 1)
    assert ratio(hmda["selection_rate"]) == pytest.approx(0.666585, abs=5e-7)
    heart = group_metrics(table_of("sex", **ORACLES["heart"]).confusion, 1)
    assert max(difference(heart["tpr"]), difference(heart["fpr"])) == pytest.approx(0.096598, abs=5e-7)


def test_more_than_two_classes_match_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 3, 200), rng.integers(0, 3, 200)
    confusion = np.bincount(y * 3 + p, minlength=9).reshape(1, 3, 3).astype(np.int64)
    found = group_metrics(confusion, 2)
    assert found["accuracy"][0] == pytest.approx(np.mean(y == p), abs=1e-12)
    assert found["balanced_accuracy"][0] == pytest.approx(balanced_accuracy_score(y, p), abs=1e-12)
    assert found["f1"][0] == pytest.approx(f1_score(y == 2, p == 2), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 64), st.floats(0.2, 3))
def test_auc_is_always_within_its_bound(seed: int, n_bins: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    y = np.r_[0, 1, (rng.random(120) < 0.3).astype(int)]
    s = rng.normal(size=len(y)) + shift * y
    edges = np.quantile(s, np.arange(1, n_bins) / n_bins)
    histogram = np.zeros((1, 2, n_bins), np.int64)
    np.add.at(histogram[0], (y, np.searchsorted(edges, s, side="right")), 1)
    found = auc(histogram)
    assert abs(found.value[0] - roc_auc_score(y, s)) <= found.bound[0] + 1e-12


@pytest.mark.parametrize(("share", "scale"), [(0.5, 1.0), (0.05, 1.0), (0.3, 30.0)])
@pytest.mark.parametrize("n", [1000, 20_000])
def test_auc_of_two_passes_is_within_a_thousandth_and_its_bound(n: int, share: float, scale: float) -> None:
    """Balanced, rare and overconfident scores, through the sites' own two requests."""
    rng = np.random.default_rng(5)
    labels = (rng.random(n) < share).astype(np.int64)
    features = (rng.normal(size=(n, 1)) + labels[:, None]).astype(np.float32)
    head = LinearHead(np.array([[0.0], [scale]], np.float32), np.zeros(2, np.float32))
    groups = {"sex": np.full(n, "f")}
    examples, plan = Examples(features, labels, groups), GroupPlan.of({"sex": ["f", "m"]}, [])
    first = AuditEdges(head, 1)
    edges = first.read(first.measure(examples))
    assert len(edges) == 127
    second = AuditCounts(plan, head, 1, 0.5, edges)
    found = auc(second.read(second.measure(examples)).tables["sex"].scores[:1])
    error = abs(found.value[0] - roc_auc_score(labels, scores(head, features)[:, 1]))
    assert error <= min(1e-3, found.bound[0])


def test_auc_without_a_class_is_undefined() -> None:
    found = auc(np.array([[[0, 0], [3, 4]], [[1, 0], [0, 0]]]))
    assert np.isnan(found.value).all()
    assert np.isnan(found.bound).all()
    assert np.isnan(found.variance).all()


def test_auc_and_its_bound_by_hand() -> None:
    # 2 x 3 of the 5 x 6 pairs share a bin; in every other pair the positive is higher.
    found = auc(np.array([[[3, 2, 0], [0, 3, 3]]]))
    assert found.value[0] == pytest.approx((30 - 6 / 2) / 30)
    assert found.bound[0] == pytest.approx(6 / 60)
