"""Metrics of a classifier on rows at hand: what a site reports to itself, and the pooled reference."""

import math
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata


class Metrics(TypedDict):
    """Undefined metrics are None, never 0."""

    n: int
    accuracy: float | None
    balanced_accuracy: float | None
    macro_f1: float | None
    auc: float | None
    log_loss: float | None


def from_rows(labels: NDArray[np.int64], log_probabilities: NDArray[np.float64]) -> Metrics:
    """Metrics of (n, n_classes) log-probabilities against (n,) labels."""
    n_classes = log_probabilities.shape[1]
    confusion = np.zeros((n_classes, n_classes), np.int64)
    np.add.at(confusion, (labels, log_probabilities.argmax(axis=1)), 1)
    nll = -float(log_probabilities[np.arange(len(labels)), labels].sum())
    return from_confusion(confusion, nll=nll, auc=_auc(labels, log_probabilities))


def from_confusion(confusion: NDArray[np.int64], *, nll: float | None, auc: float | None) -> Metrics:
    """Metrics of confusion[label, prediction] counts and, where known, a summed negative log-likelihood.

    Classes without an example are left out of the balanced accuracy; classes neither
    present nor predicted are left out of the macro F1.
    """
    n = int(confusion.sum())
    if n == 0:
        return Metrics(n=0, accuracy=None, balanced_accuracy=None, macro_f1=None, auc=None, log_loss=None)
    hits = np.diag(confusion).astype(np.float64)
    labelled, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    present = labelled > 0
    seen = (labelled + predicted) > 0
    return Metrics(
        n=n,
        accuracy=float(hits.sum() / n),
        balanced_accuracy=float((hits[present] / labelled[present]).mean()),
        macro_f1=float((2 * hits[seen] / (labelled + predicted)[seen]).mean()),
        auc=auc,
        log_loss=None if nll is None else nll / n,
    )


def _auc(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> float | None:
    """Binary: AUC of the last class. More classes: mean one-vs-rest AUC over classes with both sides."""
    n_classes = scores.shape[1]
    columns = [1] if n_classes == 2 else list(range(n_classes))
    values = [_binary_auc(labels == c, scores[:, c]) for c in columns]
    defined = [v for v in values if not math.isnan(v)]
    return float(np.mean(defined)) if defined else None


def _binary_auc(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if n_positive == 0 or n_negative == 0:
        return math.nan
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))
