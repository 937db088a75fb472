"""Federated evaluation: confusion counts, log-loss and a score histogram, summed over sites."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from foedus import metrics
from foedus.config import Section, validate
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.statistic import Arrays, Quantity, Settings, count

BINS = 4096
LOGIT_LIMIT = 20.0
MAX_NLL = 50.0
"""One example's negative log-likelihood is cut here, so that its range can be declared."""


class _Settings(Section):
    n_heads: int
    n_classes: int
    dim: int
    temperatures: list[float]
    counts_only: bool


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
    """

    heads: Sequence[LinearHead]
    temperatures: Sequence[float] = (1.0,)
    counts_only: bool = False
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
        return cls(heads, asked.temperatures, asked.counts_only)

    def declare(self) -> dict[str, Quantity]:
        n_heads, n_temperatures, n_classes, _ = self._shape
        confusion = count(n_heads, n_classes, n_classes, sensitivity=sqrt(n_heads))
        if self.counts_only:
            return {"confusion": confusion}
        return {
            "confusion": confusion,
            "nll": Quantity((n_heads, n_temperatures), low=0.0),
            "scores": count(n_heads, 2, BINS if n_classes == 2 else 0),
        }

    def measure(self, examples: Examples) -> Arrays:
        n_heads, n_temperatures, n_classes, _ = self._shape
        rows, labels = np.arange(len(examples)), examples.labels
        weights, kind = examples.weights, np.int64 if examples.units is None else np.float64
        confusion = np.zeros((n_heads, n_classes, n_classes), kind)
        nll = np.zeros((n_heads, n_temperatures), np.float64)
        histogram = np.zeros((n_heads, 2, BINS if n_classes == 2 else 0), kind)
        for h, head in enumerate(self.heads):
            scores = head.scores(examples.features).astype(np.float64)
            np.add.at(confusion[h], (labels, scores.argmax(axis=1)), weights.astype(kind))
            for t, temperature in enumerate(self.temperatures):
                losses = -log_softmax(scores * temperature, axis=1)[rows, labels]
                nll[h, t] = (weights * np.minimum(losses, MAX_NLL)).sum()
            if n_classes == 2:
                place = _bins(scores[:, 1] - scores[:, 0])
                np.add.at(histogram[h], (labels, place), weights.astype(kind))
        if self.counts_only:
            return {"confusion": confusion}
        return {"confusion": confusion, "nll": nll, "scores": histogram}

    def read(self, total: Arrays) -> list[list[Candidate]]:
        """[head][temperature] candidates with their metrics over all sites."""
        return [
            [self._candidate(total, h, t) for t in range(len(self.temperatures))]
            for h in range(len(self.heads))
        ]

    def _candidate(self, total: Arrays, h: int, t: int) -> Candidate:
        confusion = total["confusion"][h].astype(np.int64)
        if self.counts_only:
            found = metrics.from_confusion(confusion, nll=None, auc=None)
            return Candidate(self.heads[h], float(self.temperatures[t]), found)
        nll = float(total["nll"][h, t])
        auc = _histogram_auc(total["scores"][h].astype(np.float64)) if total["scores"].size else None
        result = metrics.from_confusion(confusion, nll=nll, auc=auc)
        return Candidate(self.heads[h], float(self.temperatures[t]), result)


def _bins(logits: NDArray[np.float64]) -> NDArray[np.int64]:
    place = (np.clip(logits, -LOGIT_LIMIT, LOGIT_LIMIT) + LOGIT_LIMIT) / (2 * LOGIT_LIMIT)
    return np.minimum((place * BINS).astype(np.int64), BINS - 1)


def _histogram_auc(histogram: NDArray[np.float64]) -> float | None:
    """AUC of (2, n_bins) counts [negative, positive]; ties within a bin count one half."""
    negative, positive = histogram
    pairs = negative.sum() * positive.sum()
    if pairs == 0:
        return None
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / pairs)
