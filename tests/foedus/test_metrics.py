import json

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    balanced_accuracy_score,
    brier_score_loss,
    log_loss,
    precision_recall_fscore_support,
    roc_auc_score,
)

from foedus.metrics import RELIABILITY_BINS, SCALARS, from_rows, from_sums


def _rows(n_classes: int, n: int = 400, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, n)
    scores = rng.normal(size=(n, n_classes)) + 1.5 * np.eye(n_classes)[labels]
    return labels, log_softmax(scores, axis=1)


@pytest.mark.parametrize("n_classes", [2, 3, 7])
def test_figures_equal_scikit_learns(n_classes: int) -> None:
    labels, logs = _rows(n_classes)
    found, p, guess = from_rows(labels, logs), np.exp(logs), logs.argmax(axis=1)
    per_class = found["per_class"]
    oracle = precision_recall_fscore_support(labels, guess, zero_division=np.nan)
    for key, values in zip(("precision", "recall", "f1"), oracle, strict=False):
        np.testing.assert_allclose(per_class[key], values, rtol=0, atol=1e-12)  # type: ignore[literal-required]
    means = precision_recall_fscore_support(labels, guess, average="macro", zero_division=np.nan)
    for key, value in zip(("macro_precision", "macro_recall", "macro_f1"), means, strict=False):
        assert found[key] == pytest.approx(value, abs=1e-12)  # type: ignore[literal-required]
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, guess), abs=1e-12)
    assert found["log_loss"] == pytest.approx(log_loss(labels, p), abs=1e-12)
    scores = p[:, 1] if n_classes == 2 else p
    assert found["brier"] == pytest.approx(brier_score_loss(labels, scores), abs=1e-12)
    auc = roc_auc_score(labels, scores, multi_class="ovr", average="macro")
    assert found["auc"] == pytest.approx(auc, abs=1e-12)
    expected = np.bincount(labels, minlength=n_classes) / p.sum(axis=0)
    np.testing.assert_allclose(per_class["observed_expected"], expected, rtol=1e-12)
    assert found["observed_expected"] == (per_class["observed_expected"][1] if n_classes == 2 else None)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_the_reliability_curve_is_scikit_learns(n_classes: int) -> None:
    labels, logs = _rows(n_classes, seed=1)
    p = np.exp(logs)
    shown = p[:, 1] if n_classes == 2 else p.max(axis=1)
    came_true = labels == (1 if n_classes == 2 else p.argmax(axis=1))
    found = from_rows(labels, logs)
    curve = [b for b in found["reliability"] or [] if b["n"]]
    observed, predicted = calibration_curve(came_true, shown, n_bins=RELIABILITY_BINS)
    np.testing.assert_allclose([b["observed"] for b in curve], observed, rtol=0, atol=1e-12)
    np.testing.assert_allclose([b["predicted"] for b in curve], predicted, rtol=0, atol=1e-12)
    weights = np.array([b["n"] for b in curve]) / len(labels)
    gap = float((weights * np.abs(observed - predicted)).sum())
    assert found["calibration_error"] == pytest.approx(gap, abs=1e-12)


def test_a_hand_computed_binary_case() -> None:
    p = np.array([0.05, 0.15, 0.85, 0.95])
    found = from_rows(np.array([0, 1, 0, 1]), np.log(np.column_stack([1 - p, p])))
    assert found["confusion"] == [[1, 1], [1, 1]]
    assert found["brier"] == pytest.approx((0.05**2 + 0.85**2 + 0.85**2 + 0.05**2) / 4)
    assert found["observed_expected"] == pytest.approx(1.0)
    assert found["calibration_error"] == pytest.approx((0.05 + 0.85 + 0.85 + 0.05) / 4)
    assert [b["n"] for b in found["reliability"] or []] == [1, 1, 0, 0, 0, 0, 0, 0, 1, 1]


def test_what_is_undefined_is_none_and_left_out_of_means() -> None:
    labels = np.array([0, 0, 1])
    scores = np.log([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.7, 0.2, 0.1]])
    found = from_rows(labels, scores)
    assert found["per_class"]["precision"] == [pytest.approx(2 / 3), None, None]
    assert found["per_class"]["recall"] == [1.0, 0.0, None]
    assert found["per_class"]["f1"] == [pytest.approx(0.8), 0.0, None]
    assert found["per_class"]["auc"][2] is None
    assert (found["macro_precision"], found["macro_recall"]) == (pytest.approx(2 / 3), 0.5)
    empty = from_rows(np.zeros(0, np.int64), np.zeros((0, 3)))
    assert empty["n"] == 0
    assert all(empty[key] is None for key in SCALARS)  # type: ignore[literal-required]
    json.dumps([found, empty], allow_nan=False)


def test_a_confusion_alone_gives_what_it_can() -> None:
    labels, logs = _rows(3)
    whole = from_rows(labels, logs)
    found = from_sums(np.array(whole["confusion"]))
    counted = {"accuracy", "balanced_accuracy", "macro_f1", "macro_precision", "macro_recall"}
    for key in SCALARS:
        assert found[key] == (whole[key] if key in counted else None)  # type: ignore[literal-required]
    assert found["per_class"]["f1"] == whole["per_class"]["f1"]
    assert found["per_class"]["auc"] == found["per_class"]["observed_expected"] == [None] * 3
    assert found["reliability"] is None
