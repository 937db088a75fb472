"""Group metrics as exact functions of counts. NaN means undefined; it is never replaced by 0.

Where fairlearn defines a metric these are the same numbers; where a group has no one the
metric is about (no positives for a true-positive rate), fairlearn says 0.0 and we say NaN.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Reals = NDArray[np.float64]


@dataclass(frozen=True)
class Outcomes:
    """Confusion counts of the positive class against the rest; every array is (n_groups,).

    Attributes:
        tp: Positive, decided positive.
        fp: Not positive, decided positive.
        fn: Positive, not decided positive.
        tn: Not positive, not decided positive.
        correct: Decided for their own class, whichever it is.
    """

    tp: Counts
    fp: Counts
    fn: Counts
    tn: Counts
    correct: Counts

    @classmethod
    def of(cls, confusion: Counts, positive: int) -> "Outcomes":
        """From (n_groups, n_classes, n_classes) counts, label by decision."""
        tp = confusion[:, positive, positive]
        labelled, decided = confusion[:, positive, :].sum(axis=1), confusion[:, :, positive].sum(axis=1)
        n = confusion.sum(axis=(1, 2))
        correct = np.trace(confusion, axis1=1, axis2=2)
        return cls(tp, decided - tp, labelled - tp, n - labelled - decided + tp, correct)

    @property
    def n(self) -> Counts:
        return np.asarray(self.tp + self.fp + self.fn + self.tn, np.int64)

    @property
    def positives(self) -> Counts:
        return np.asarray(self.tp + self.fn, np.int64)

    @property
    def negatives(self) -> Counts:
        return np.asarray(self.fp + self.tn, np.int64)

    @property
    def selected(self) -> Counts:
        return np.asarray(self.tp + self.fp, np.int64)

    @property
    def rejected(self) -> Counts:
        return np.asarray(self.fn + self.tn, np.int64)

    @property
    def wrong(self) -> Counts:
        return np.asarray(self.n - self.correct, np.int64)


Proportion = Callable[[Any], tuple[Counts, Counts]]
"""Of anything that has the counts by name: `Outcomes`, or the `Facts` that are released."""

PROPORTIONS: dict[str, Proportion] = {
    "base_rate": lambda o: (o.positives, o.n),
    "selection_rate": lambda o: (o.selected, o.n),
    "tpr": lambda o: (o.tp, o.positives),
    "fnr": lambda o: (o.fn, o.positives),
    "fpr": lambda o: (o.fp, o.negatives),
    "tnr": lambda o: (o.tn, o.negatives),
    "ppv": lambda o: (o.tp, o.selected),
    "npv": lambda o: (o.tn, o.rejected),
    "accuracy": lambda o: (o.correct, o.n),
}
"""Metric to (successes, trials): a rate, and how many people it is taken over."""


def quotient(successes: NDArray[np.number], trials: NDArray[np.number]) -> Reals:
    """successes / trials, NaN where there are no trials."""
    top, bottom = successes.astype(np.float64), trials.astype(np.float64)
    return np.asarray(np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0), np.float64)


def group_metrics(confusion: Counts, positive: int) -> dict[str, Reals]:
    """Every metric of the decisions, each (n_groups,).

    More than two classes: accuracy and balanced accuracy over all of them, the rest for the
    positive class against the others.
    """
    outcomes = Outcomes.of(confusion, positive)
    found = {name: quotient(*count(outcomes)) for name, count in PROPORTIONS.items()}
    recalls = quotient(np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(axis=2))
    found["balanced_accuracy"] = recalls.mean(axis=1)
    hits = 2 * outcomes.tp
    found["f1"] = quotient(hits, hits + outcomes.fp + outcomes.fn)
    return found


def difference(values: Reals) -> float:
    """Largest minus smallest defined value; NaN with fewer than two."""
    defined = values[~np.isnan(values)]
    return float(defined.max() - defined.min()) if len(defined) > 1 else float("nan")


def ratio(values: Reals) -> float:
    """Smallest over largest defined value; NaN with fewer than two, or when all are 0."""
    defined = values[~np.isnan(values)]
    if len(defined) < 2 or defined.max() == 0:
        return float("nan")
    return float(defined.min() / defined.max())


@dataclass(frozen=True)
class Auc:
    """Areas under the ROC curve from score histograms; every array is (n_groups,).

    Attributes:
        value: Ties within a bin counted half; NaN without positives or without negatives.
        bound: The area of the unbinned scores is within value ± bound, always.
        variance: DeLong variance of value; NaN where value is, or with a single case on a side.
    """

    value: Reals
    bound: Reals
    variance: Reals


def auc(histogram: Counts) -> Auc:
    """Areas from (n_groups, 2, n_bins) counts: other classes, then the positive class.

    DeLong et al. 1988 with the placement values of the bins; the bound is half the share of
    pairs that fall into one bin, sum_b p_b n_b / (2 P N).
    """
    n, p = histogram[:, 0].astype(np.float64), histogram[:, 1].astype(np.float64)
    total_n, total_p = n.sum(axis=1), p.sum(axis=1)
    below = np.cumsum(n, axis=1) - n / 2
    above = np.cumsum(p[:, ::-1], axis=1)[:, ::-1] - p / 2
    pairs = total_p * total_n
    value = quotient((p * below).sum(axis=1), pairs)
    bound = quotient((p * n).sum(axis=1), 2 * pairs)
    placed_p, placed_n = quotient(below, _like(total_n, n)), quotient(above, _like(total_p, p))
    variance = _variance_of_mean(p, placed_p, value) + _variance_of_mean(n, placed_n, value)
    return Auc(value, bound, variance)


def _like(totals: Reals, cells: Reals) -> Reals:
    return np.asarray(np.broadcast_to(totals[:, None], cells.shape))


def _variance_of_mean(weight: Reals, placed: Reals, mean: Reals) -> Reals:
    total = weight.sum(axis=1)
    squares = (weight * (placed - mean[:, None]) ** 2).sum(axis=1)
    return quotient(quotient(squares, total - 1), total)
