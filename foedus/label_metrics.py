"""Metrics of several labels at once: each label's own, as of two classes, and what they say together.

Names and definitions are scikit-learn's: accuracy asks for all labels of a record to be right, micro
figures count every label of every record alike, macro figures are means over the labels.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from foedus import labels as layout
from foedus.metrics import Bin, Figure, Metrics, PerClass, calibration_error, from_rows, mean


class PerLabel(PerClass):
    """As `PerClass`, of each label; its log-loss (nats) and reliability curve, too."""

    log_loss: list[Figure]
    reliability: list[list[Bin] | None]


class LabelMetrics(Metrics):
    """`Metrics` where a record may have any number of labels.

    accuracy: Records with every label right (subset accuracy, exact match).
    balanced_accuracy, macro_*, auc: Means over the labels for which they are defined.
    log_loss, brier: Of a record, summed over its labels.
    observed_expected, reliability, calibration_error: Of all labels of all records together.
    confusion: [label][truth][decision], as scikit-learn's `multilabel_confusion_matrix`.
    hamming_loss: Share of wrong answers among all labels of all records.
    """

    hamming_loss: Figure
    micro_precision: Figure
    micro_recall: Figure
    micro_f1: Figure


LABEL_SCALARS = ("hamming_loss", "micro_precision", "micro_recall", "micro_f1")
"""Keys of the figures that are one number, beside those of `foedus.metrics.SCALARS`."""


def from_scores(labels: layout.Labels, scores: NDArray[np.floating]) -> Metrics:
    """Metrics of (n, n_classes) scores against labels of either layout."""
    wide = scores.astype(np.float64)
    if not layout.several(labels):
        return from_rows(labels, np.asarray(log_softmax(wide, axis=1)))
    each = [
        from_rows(labels[:, label], np.asarray(log_softmax(layout.yes_or_no(wide, label), axis=1)))
        for label in range(labels.shape[1])
    ]
    return over_labels(each, exact=int(exact(labels, wide).sum()))


def exact(labels: layout.Labels, scores: NDArray[np.floating]) -> NDArray[np.bool_]:
    """(n,), whether every label of a record is decided right."""
    return np.asarray((layout.decided(scores) == labels).all(axis=1))


def over_labels(each: Sequence[Metrics], *, exact: int | None) -> LabelMetrics:
    """Metrics of all labels from each one's own, on the same records.

    Args:
        each: Of two classes, no and yes; at least one.
        exact: Records with every label right, where that is known.
    """
    n = round(sum(found["n"] for found in each) / len(each))  # noise in a private study makes them differ
    cells = np.array([found["confusion"] for found in each], np.int64)
    _, fp, fn, tp = cells.sum(axis=0).ravel().tolist()
    curve = _together([found["reliability"] for found in each])
    expected = math.fsum(b["n"] * b["predicted"] for b in curve or [] if b["predicted"] is not None)
    positive = {key: [found["per_class"][key][1] for found in each] for key in PerClass.__annotations__}  # type: ignore[literal-required]
    answers = n * len(each)
    return LabelMetrics(
        n=n,
        accuracy=None if exact is None else _ratio(exact, n),
        balanced_accuracy=mean([found["balanced_accuracy"] for found in each]),
        macro_f1=mean(positive["f1"]),
        auc=mean(positive["auc"]),
        log_loss=_sum([found["log_loss"] for found in each]),
        macro_precision=mean(positive["precision"]),
        macro_recall=mean(positive["recall"]),
        brier=_sum([found["brier"] for found in each]),
        observed_expected=_ratio(tp + fn, expected),
        calibration_error=calibration_error(curve, answers),
        hamming_loss=_ratio(fp + fn, answers),
        micro_precision=_ratio(tp, tp + fp),
        micro_recall=_ratio(tp, tp + fn),
        micro_f1=_ratio(2 * tp, 2 * tp + fp + fn),
        per_class=PerLabel(
            **positive,  # type: ignore[typeddict-item]
            log_loss=[found["log_loss"] for found in each],
            reliability=[found["reliability"] for found in each],
        ),
        confusion=cells.tolist(),
        reliability=curve,
    )


def _together(curves: Sequence[list[Bin] | None]) -> list[Bin] | None:
    """One reliability curve of all labels; None where one is not known."""
    known = [curve for curve in curves if curve is not None]
    if len(known) < len(curves):
        return None
    found = []
    for bins in zip(*known, strict=True):
        n = sum(each["n"] for each in bins)
        predicted, observed = (
            math.fsum(each["n"] * (each[key] or 0.0) for each in bins) for key in ("predicted", "observed")
        )
        found.append(Bin(n=n, predicted=_ratio(predicted, n), observed=_ratio(observed, n)))
    return found


def _ratio(above: float, below: float) -> Figure:
    return above / below if below > 0 else None


def _sum(values: Sequence[Figure]) -> Figure:
    known = [value for value in values if value is not None]
    return math.fsum(known) if len(known) == len(values) else None
