"""Federated evaluation: confusion counts and log-loss and, in detail, AUC and calibration, all from sums."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator
from scipy.special import log_softmax

from foedus import metrics
from foedus.config import Section, validate
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.statistic import Arrays, Quantity, Settings, count

BINS, CLASS_BINS = 4096, 512
"""Bins of a score histogram: of two classes, and of each of more."""
LOGIT_LIMIT = 20.0
CONFUSION, NLL, SCORES = "confusion", "nll", "scores"
MAX_NLL = 50.0
"""One example's negative log-likelihood is cut here, so that its range can be declared."""


class _Settings(Section):
    n_heads: int
    n_classes: int
    dim: int
    temperatures: list[float]
    counts_only: bool
    detail: bool

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
        counts_only: Confusion counts and nothing else: in a private study, noise on fewer numbers.
        detail: AUC and calibration too, at the one temperature. Without it a question stays small
            enough for every round.
    """

    heads: Sequence[LinearHead]
    temperatures: Sequence[float] = (1.0,)
    counts_only: bool = False
    detail: bool = False
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
        return cls(heads, asked.temperatures, asked.counts_only, asked.detail)

    def declare(self) -> dict[str, Quantity]:
        n_heads, n_temperatures, n_classes, _ = self._shape
        confusion = count(n_heads, n_classes, n_classes, sensitivity=sqrt(n_heads))
        if self.counts_only:
            return {CONFUSION: confusion}
        light = {CONFUSION: confusion, NLL: Quantity((n_heads, n_temperatures), low=0.0)}
        if not self.detail:
            return light
        bins, n_columns = _n_bins(n_classes), len(metrics.columns(n_classes))
        return light | {
            SCORES: count(n_heads, n_columns, 2, bins),
            metrics.BRIER: Quantity((n_heads,), low=0.0),
            metrics.EXPECTED: Quantity((n_heads, n_classes), low=0.0),
            metrics.BIN_COUNTS: count(n_heads, 2, metrics.RELIABILITY_BINS),
            metrics.BIN_PROBABILITY: Quantity((n_heads, metrics.RELIABILITY_BINS), low=0.0),
        }

    def measure(self, examples: Examples) -> Arrays:
        one = [self._measure(head, examples) for head in self.heads]
        return {key: np.stack([found[key] for found in one]) for key in one[0]}

    def _measure(self, head: LinearHead, examples: Examples) -> Arrays:
        """The sums of one head."""
        n_classes, rows, labels = len(head.bias), np.arange(len(examples)), examples.labels
        weights = examples.weights.astype(np.int64 if examples.units is None else np.float64)
        scores = head.scores(examples.features).astype(np.float64)
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
            _histogram(_logit(scores, logs, c), labels == c, weights, bins=_n_bins(n_classes))
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
        found = metrics.from_sums(
            one[CONFUSION].astype(np.int64),
            nll=float(one[NLL][t]) if NLL in one else None,
            aucs=[metrics.histogram_auc(counts.astype(np.float64)) for counts in one[SCORES]]
            if self.detail
            else (),
            calibration=one if self.detail else None,
        )
        return Candidate(self.heads[h], float(self.temperatures[t]), found)


def _n_bins(n_classes: int) -> int:
    return BINS if n_classes == 2 else CLASS_BINS


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
