"""What goes through a model, as histograms: of each standardised feature, of its scores, of what it decides.

Measured once on the test examples of all sites, beside the audit, and again on live requests: the
same additive statistic, so both can be compared bin by bin and sites can pool what they see.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from foedus.config import Section, validate
from foedus.errors import ConfigError
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.metrics import columns
from foedus.statistic import Arrays, Quantity, Settings, count

FEATURES, SCORES, DECISIONS, TOP, TRUTHS = "features", "scores", "decisions", "top", "truths"
FEATURE_EDGES: NDArray[np.float64] = ndtri(np.arange(1, 16) / 16)
"""Cut a feature that is normal into sixteen equal parts."""
SCORE_EDGES: NDArray[np.float64] = np.linspace(-8, 8, 63)
"""Log-odds of a class against the others."""
TOP_BINS, TRUTH_BINS = 64, 512
"""Equal bins of a probability: of the class that is decided for, of the true class."""
MIN_COUNT = 5
"""Examples a released total needs."""
UNLABELLED = -1


class _Asked(Section):
    dim: int
    n_classes: int


@dataclass(frozen=True)
class Histograms:
    """Statistic "histograms": histograms of standardised features and of a head's scores.

    Attributes:
        head: On standardised features.
    """

    head: LinearHead
    name: ClassVar[str] = "histograms"

    def settings(self) -> Settings:
        """Small parameters, sent as configuration."""
        n_classes, dim = self.head.weight.shape
        return {"dim": dim, "n_classes": n_classes}

    def arrays(self) -> Arrays:
        """The head."""
        return self.head.arrays()

    @classmethod
    def from_wire(cls, settings: Settings, arrays: Arrays) -> Self:
        """The same statistic, from what arrived at the site."""
        asked = validate(_Asked, settings, source="the histograms asked for")
        head = LinearHead.from_arrays(arrays)
        if set(arrays) != {"weight", "bias"} or head.weight.shape != (asked.n_classes, asked.dim):
            raise ConfigError("the histograms asked for", ["the head does not fit its settings"])
        return cls(head)

    def declare(self) -> dict[str, Quantity]:
        """Counts; every example is in `decisions` once."""
        n_classes, dim = self.head.weight.shape
        n_each = count(n_classes, behind="sum")
        return {
            FEATURES: count(dim, len(FEATURE_EDGES) + 1),
            SCORES: count(len(columns(n_classes)), len(SCORE_EDGES) + 1),
            DECISIONS: Quantity(n_each.shape, "count", 0, n_each.high, 1.0, MIN_COUNT, behind="sum"),
            TOP: count(TOP_BINS),
            TRUTHS: count(TRUTH_BINS),
        }

    def measure(self, examples: Examples) -> Arrays:
        """Histograms of these examples; a label of -1 counts in no truth."""
        features, labels = examples.features, examples.labels
        logs = self.head.log_probabilities(features)
        chances = np.exp(logs)
        known = labels != UNLABELLED
        return {
            FEATURES: _rows(np.searchsorted(FEATURE_EDGES, features.T, side="right"), len(FEATURE_EDGES) + 1),
            SCORES: _rows(np.searchsorted(SCORE_EDGES, log_odds(logs).T, side="right"), len(SCORE_EDGES) + 1),
            DECISIONS: np.bincount(chances.argmax(axis=1), minlength=chances.shape[1]),
            TOP: _counts(chances.max(axis=1), TOP_BINS),
            TRUTHS: _counts(chances[known, labels[known]], TRUTH_BINS),
        }

    def read(self, total: Arrays) -> Arrays:
        """The histograms of all sites together."""
        return total


def log_odds(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, columns) from (n, n_classes) log-probabilities: each ranked class against the others."""
    chosen = logs[:, columns(logs.shape[1])]
    with np.errstate(divide="ignore"):
        return np.asarray(chosen - np.log1p(-np.exp(np.minimum(chosen, -1e-12))))


def _counts(values: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    places = np.minimum((values * bins).astype(np.int64), bins - 1)
    return np.bincount(places, minlength=bins)


def _rows(places: NDArray[np.int64], bins: int) -> NDArray[np.int64]:
    """(rows, bins) counts of (rows, n) bin numbers."""
    flat = places + bins * np.arange(len(places))[:, None]
    return np.bincount(flat.ravel(), minlength=bins * len(places)).reshape(-1, bins)
