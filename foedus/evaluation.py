"""Federated evaluation: confusion counts and log-loss and, in detail, AUC and calibration, all from sums.

Of several labels a record, each label has the sums of two classes, in a second axis behind the heads'.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod, sqrt
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator
from scipy.special import log_softmax

from foedus import metrics
from foedus.config import Section, validate
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.label_metrics import exact, over_labels
from foedus.labels import yes_or_no
from foedus.statistic import Arrays, Quantity, Settings, count

BINS, CLASS_BINS = 4096, 512
"""Bins of a score histogram: of two classes, and of each of more."""
LOGIT_LIMIT = 20.0
CONFUSION, NLL, SCORES, EXACT = "confusion", "nll", "scores", "exact"
MAX_NLL = 50.0
"""One example's negative log-likelihood is cut here, so that its range can be declared."""


class _Settings(Section):
    n_heads: int
    n_classes: int
    dim: int
    temperatures: list[float]
    counts_only: bool
    detail: bool
    multilabel: bool = False

    @model_validator(mode="after")
    def _one_temperature(self) -> Self:
        if self.detail and (self.counts_only or len(self.temperatures) != 1):
            raise ValueError("detail is given at one temperature, and not with counts_only")
        return self


@dataclass(frozen=True)
class Candidate:
    """One head at one temperature, and how it did on all sites together."""

    head: LinearHead
    temperature: float
    metrics: metrics.Metrics


@dataclass(frozen=True)
class Evaluation:
    """Statistic "evaluation": any number of heads, each at every temperature.

    Attributes:
        heads: Heads with the same shape.
        temperatures: Factors on the scores; the log-loss is reported for each.
        counts_only: Confusion counts and nothing else: in a private study, noise on fewer numbers. One unit
            changes each head's, and of several labels each label's, by at most 1.
        detail: AUC and calibration too, at the one temperature. Without it a question stays small
            enough for every round.
        multilabel: A record may have any number of labels (foedus.labels).
    """

    heads: Sequence[LinearHead]
    temperatures: Sequence[float] = (1.0,)
    counts_only: bool = False
    detail: bool = False
    multilabel: bool = False
    name: ClassVar[str] = "evaluation"

    @property
    def _shape(self) -> tuple[int, int, int, int]:
        n_classes, dim = self.heads[0].weight.shape
        return len(self.heads), len(self.temperatures), n_classes, dim

    def settings(self) -> Settings:
        n_heads, _, n_classes, dim = self._shape
        temperatures = [float(t) for t in self.temperatures]
        return {
            "n_heads": n_heads,
            "n_classes": n_classes,
            "dim": dim,
            "temperatures": temperatures,
            "counts_only": self.counts_only,
            "detail": self.detail,
            **({"multilabel": True} if self.multilabel else {}),
        }

    def arrays(self) -> Arrays:
        weights = np.stack([head.weight for head in self.heads])
        return {"weights": weights, "biases": np.stack([head.bias for head in self.heads])}

    @classmethod
    def from_wire(cls, settings: Settings, arrays: Arrays) -> "Evaluation":
        asked = validate(_Settings, settings, source="the evaluation asked for")
        shape = (asked.n_heads, asked.n_classes, asked.dim)
        weights = arrays["weights"].astype(np.float32).reshape(shape)
        biases = arrays["biases"].astype(np.float32).reshape(shape[:2])
        heads = [LinearHead(w, b) for w, b in zip(weights, biases, strict=True)]
        return cls(heads, asked.temperatures, asked.counts_only, asked.detail, asked.multilabel)

    def declare(self) -> dict[str, Quantity]:
        n_heads, n_temperatures, n_classes, _ = self._shape
        each = (n_heads, n_classes) if self.multilabel else (n_heads,)
        whole = {EXACT: count(n_heads)} if self._counts_exact else {}
        n_classes = 2 if self.multilabel else n_classes
        confusion = count(*each, n_classes, n_classes, sensitivity=sqrt(prod(each)))
        if self.counts_only:
            return {CONFUSION: confusion}
        light = {CONFUSION: confusion, NLL: Quantity((*each, n_temperatures), low=0.0), **whole}
        if not self.detail:
            return light
        return light | {
            SCORES: count(*each, len(metrics.columns(n_classes)), 2, self._n_bins),
            metrics.BRIER: Quantity(each, low=0.0),
            metrics.EXPECTED: Quantity((*each, n_classes), low=0.0),
            metrics.BIN_COUNTS: count(*each, 2, metrics.RELIABILITY_BINS),
            metrics.BIN_PROBABILITY: Quantity((*each, metrics.RELIABILITY_BINS), low=0.0),
        }

    @property
    def _counts_exact(self) -> bool:
        return self.multilabel and not self.counts_only

    @property
    def _n_bins(self) -> int:
        return BINS if len(self.heads[0].bias) == 2 and not self.multilabel else CLASS_BINS

    def measure(self, examples: Examples) -> Arrays:
        one = [self._measure(head, examples) for head in self.heads]
        return {key: np.stack([found[key] for found in one]) for key in one[0]}

    def _measure(self, head: LinearHead, examples: Examples) -> Arrays:
        """The sums of one head."""
        scores = head.scores(examples.features).astype(np.float64)
        if not self.multilabel:
            return self._sums(scores, examples)
        each = [
            self._sums(yes_or_no(scores, label), examples.of_label(label)) for label in range(scores.shape[1])
        ]
        found = {key: np.stack([one[key] for one in each]) for key in each[0]}
        if not self._counts_exact:
            return found
        return found | {EXACT: np.asarray(exact(examples.labels, scores).sum(), np.int64)}

    def _sums(self, scores: NDArray[np.float64], examples: Examples) -> Arrays:
        """The sums of (n, n_classes) scores."""
        n_classes, rows, labels = scores.shape[1], np.arange(len(examples)), examples.labels
        weights = examples.weights.astype(np.int64 if examples.units is None else np.float64)
        confusion = np.zeros((n_classes, n_classes), weights.dtype)
        np.add.at(confusion, (labels, scores.argmax(axis=1)), weights)
        if self.counts_only:
            return {CONFUSION: confusion}
        losses = [
            np.minimum(-log_softmax(scores * temperature, axis=1)[rows, labels], MAX_NLL)
            for temperature in self.temperatures
        ]
        counted = weights if examples.importance is None else weights * examples.importance
        light = {CONFUSION: confusion, NLL: np.array([(counted * loss).sum() for loss in losses])}
        if not self.detail:
            return light
        scores = scores * self.temperatures[0]
        logs = np.asarray(log_softmax(scores, axis=1))
        histograms = [
            _histogram(_logit(scores, logs, c), labels == c, weights, bins=self._n_bins)
            for c in metrics.columns(n_classes)
        ]
        return light | {SCORES: np.stack(histograms), **metrics.calibration_sums(labels, logs, weights)}

    def read(self, total: Arrays) -> list[list[Candidate]]:
        """[head][temperature] candidates with their metrics over all sites."""
        return [
            [self._candidate(total, h, t) for t in range(len(self.temperatures))]
            for h in range(len(self.heads))
        ]

    def _candidate(self, total: Arrays, h: int, t: int) -> Candidate:
        one = {key: value[h] for key, value in total.items()}
        found = self._over_labels(one, t) if self.multilabel else self._metrics(one, t)
        return Candidate(self.heads[h], float(self.temperatures[t]), found)

    def _over_labels(self, one: Arrays, t: int) -> metrics.Metrics:
        n_right, n_labels = one.pop(EXACT, None), len(self.heads[0].bias)
        each = [{key: value[label] for key, value in one.items()} for label in range(n_labels)]
        known = None if n_right is None else int(n_right.astype(np.int64))
        return over_labels([self._metrics(sums, t) for sums in each], exact=known)

    def _metrics(self, one: Arrays, t: int) -> metrics.Metrics:
        return metrics.from_sums(
            one[CONFUSION].astype(np.int64),
            nll=float(one[NLL][t]) if NLL in one else None,
            aucs=[metrics.histogram_auc(counts.astype(np.float64)) for counts in one[SCORES]]
            if self.detail
            else (),
            calibration=one if self.detail else None,
        )


def _logit(scores: NDArray[np.float64], logs: NDArray[np.float64], of_class: int) -> NDArray[np.float64]:
    """(n,), log-odds of a class against the others."""
    if scores.shape[1] == 2:
        return np.asarray(scores[:, of_class] - scores[:, 1 - of_class])
    with np.errstate(divide="ignore"):
        return np.asarray(logs[:, of_class] - np.log1p(-np.exp(logs[:, of_class])))


def _histogram(
    logits: NDArray[np.float64], positive: NDArray[np.bool_], weights: NDArray[np.generic], *, bins: int
) -> NDArray[np.generic]:
    """(2, bins): examples of the other classes, and of the class, by log-odds."""
    place = (np.clip(logits, -LOGIT_LIMIT, LOGIT_LIMIT) + LOGIT_LIMIT) / (2 * LOGIT_LIMIT)
    histogram = np.zeros((2, bins), weights.dtype)
    where = np.minimum((place * bins).astype(np.int64), bins - 1)
    np.add.at(histogram, (positive.astype(np.int64), where), weights)
    return histogram
