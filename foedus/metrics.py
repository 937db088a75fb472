"""Metrics of a classifier: from rows at hand, or from sums over sites that give the same numbers.

What a site reports to itself and the pooled reference come from rows; the federation's come from
sums (`foedus.evaluation`). Both take the same path from sums to figures. AUC alone differs: exact
from rows, to the width of a histogram's bin from sums.
"""

import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from foedus.statistic import Arrays

RELIABILITY_BINS = 10
BRIER, EXPECTED = "brier", "expected"
BIN_COUNTS, BIN_PROBABILITY = "bin-counts", "bin-probability"
Figure = float | None


class PerClass(TypedDict):
    """One figure for each class, in the study's order; None where it is undefined.

    precision, recall, f1: Of the class against the others.
    auc: One class against the others.
    observed_expected: Examples of the class over the sum of its probability.
    """

    precision: list[Figure]
    recall: list[Figure]
    f1: list[Figure]
    auc: list[Figure]
    observed_expected: list[Figure]


class Bin(TypedDict):
    """A tenth of the range of a probability: how many, what was predicted, what was seen."""

    n: int
    predicted: Figure
    observed: Figure


class Metrics(TypedDict):
    """Undefined metrics are None, never 0.

    The probability behind `reliability` and `calibration_error` is the last class's where there are two
    classes, and the winning class's where there are more; `observed_expected` is of the last of two
    classes, and None with more. `confusion[label][prediction]` counts examples. Averages leave out
    classes for which the figure is undefined. Of several labels a record: `foedus.label_metrics`.
    """

    n: int
    accuracy: Figure
    balanced_accuracy: Figure
    macro_f1: Figure
    auc: Figure
    log_loss: Figure
    macro_precision: Figure
    macro_recall: Figure
    brier: Figure
    observed_expected: Figure
    calibration_error: Figure
    per_class: PerClass
    confusion: list[list[int]] | list[list[list[int]]]
    reliability: list[Bin] | None


SCALARS = (
    "accuracy", "balanced_accuracy", "macro_f1", "auc", "log_loss",
    "macro_precision", "macro_recall", "brier", "observed_expected", "calibration_error",
)  # fmt: skip
"""Keys of the figures that are one number and no count."""


def from_rows(labels: NDArray[np.int64], log_probabilities: NDArray[np.float64]) -> Metrics:
    """Metrics of (n, n_classes) log-probabilities against (n,) labels."""
    n_classes = log_probabilities.shape[1]
    confusion = np.zeros((n_classes, n_classes), np.int64)
    np.add.at(confusion, (labels, log_probabilities.argmax(axis=1)), 1)
    nll = -float(log_probabilities[np.arange(len(labels)), labels].sum())
    aucs = [_exact_auc(labels == c, log_probabilities[:, c]) for c in columns(n_classes)]
    sums = calibration_sums(labels, log_probabilities, np.ones(len(labels), np.int64))
    return from_sums(confusion, nll=nll, aucs=aucs, calibration=sums)


def from_sums(
    confusion: NDArray[np.int64],
    *,
    nll: float | None = None,
    aucs: Sequence[float | None] = (),
    calibration: Arrays | None = None,
) -> Metrics:
    """Metrics of counts and, where known, of other sums over the same examples.

    Args:
        confusion: (n_classes, n_classes), [label, prediction].
        nll: Summed negative log-likelihood.
        aucs: One for each of `columns`.
        calibration: The sum of `calibration_sums`.
    """
    n, n_classes = int(confusion.sum()), len(confusion)
    hits = np.diag(confusion).astype(np.float64)
    labelled, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    precision, recall = _ratios(hits, predicted), _ratios(hits, labelled)
    f1 = _ratios(2 * hits, labelled + predicted)
    defined = list(aucs) or [None]
    sums = calibration or {}
    expected = sums.get(EXPECTED, np.zeros(n_classes)).astype(np.float64)
    observed_expected = _ratios(labelled.astype(np.float64), expected)
    curve = _reliability(sums) if calibration else None
    return Metrics(
        n=n,
        accuracy=float(hits.sum() / n) if n else None,
        balanced_accuracy=mean(recall),
        macro_f1=mean(f1),
        auc=mean(defined),
        log_loss=nll / n if n and nll is not None else None,
        macro_precision=mean(precision),
        macro_recall=mean(recall),
        brier=float(sums[BRIER]) / n if n and calibration else None,
        observed_expected=observed_expected[1] if n_classes == 2 else None,
        calibration_error=calibration_error(curve, n),
        per_class=PerClass(
            precision=precision,
            recall=recall,
            f1=f1,
            auc=defined if len(defined) == n_classes else defined * n_classes,
            observed_expected=observed_expected,
        ),
        confusion=[[int(cell) for cell in row] for row in confusion],
        reliability=curve,
    )


def columns(n_classes: int) -> list[int]:
    """The classes whose probability is ranked: the last of two, else each against the others."""
    return [1] if n_classes == 2 else list(range(n_classes))


def calibration_sums(
    labels: NDArray[np.int64], log_probabilities: NDArray[np.float64], weights: NDArray[np.generic]
) -> Arrays:
    """What calibration is computed from, in sums over rows.

    Args:
        labels: (n,), int64.
        log_probabilities: (n, n_classes), float64.
        weights: (n,), what each row counts; of the type that counts shall have.

    Returns:
        "brier": (), squared distance of the probabilities from the label, as scikit-learn has it:
        of the last class where there are two, over all classes where there are more.
        "expected": (n_classes,), sums of the probabilities.
        "bin-counts": (2, 10), examples in each tenth of the probability, and those that came true.
        "bin-probability": (10,), sums of the probability there.
    """
    n_classes = log_probabilities.shape[1]
    probabilities = np.exp(log_probabilities)
    real = weights.astype(np.float64)
    away = probabilities.copy()
    away[np.arange(len(labels)), labels] -= 1
    squares = np.square(away[:, 1]) if n_classes == 2 else np.square(away).sum(axis=1)
    top = np.ones(len(labels), np.int64) if n_classes == 2 else log_probabilities.argmax(axis=1)
    shown = probabilities[np.arange(len(labels)), top]
    place = np.searchsorted(np.linspace(0, 1, RELIABILITY_BINS + 1)[1:-1], shown)
    counts = np.zeros((2, RELIABILITY_BINS), weights.dtype)
    np.add.at(counts[0], place, weights)
    np.add.at(counts[1], place, np.where(labels == top, weights, 0))
    probability = np.bincount(place, weights=real * shown, minlength=RELIABILITY_BINS)
    return {
        BRIER: np.asarray((real * squares).sum()),
        EXPECTED: real @ probabilities,
        BIN_COUNTS: counts,
        BIN_PROBABILITY: probability,
    }


def histogram_auc(histogram: NDArray[np.float64]) -> float | None:
    """AUC of (2, n_bins) counts [others, class]; ties within a bin count one half.

    It differs from the exact one by at most half the share of pairs that lie in one bin.
    """
    negative, positive = histogram
    pairs = negative.sum() * positive.sum()
    if pairs == 0:
        return None
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / pairs)


def _exact_auc(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> float | None:
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if n_positive == 0 or n_negative == 0:
        return None
    _, place, many = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(many) - (many - 1) / 2)[place]  # equal scores share their mean rank
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def _ratios(above: NDArray[np.float64], below: NDArray[np.generic]) -> list[Figure]:
    return [float(a / b) if b > 0 else None for a, b in zip(above, below, strict=True)]


def mean(values: Sequence[Figure]) -> Figure:
    """Over the figures that are defined."""
    defined = [value for value in values if value is not None]
    return math.fsum(defined) / len(defined) if defined else None


def _reliability(sums: Arrays) -> list[Bin]:
    counts, probability = sums[BIN_COUNTS].astype(np.float64), sums[BIN_PROBABILITY].astype(np.float64)
    predicted, observed = _ratios(probability, counts[0]), _ratios(counts[1], counts[0])
    rows = zip(counts[0], predicted, observed, strict=True)
    return [Bin(n=int(n), predicted=p, observed=o) for n, p, o in rows]


def calibration_error(curve: list[Bin] | None, n: int) -> Figure:
    """Expected calibration error (Naeini et al. 2015): the mean gap of a bin, weighted by its examples."""
    if not curve or n == 0:
        return None
    gaps = [
        b["n"] * abs(b["observed"] - b["predicted"])
        for b in curve
        if b["observed"] is not None and b["predicted"] is not None
    ]
    return math.fsum(gaps) / n
