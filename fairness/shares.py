"""Shares of people where counts may be hidden: the lowest, the middle and the highest they can be."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairness.metrics import PROPORTIONS
from fairness.tables import FACTS, Counts, Facts, Released

COMPLEMENTS = {
    "base_rate": "negatives",
    "selection_rate": "rejected",
    "tpr": "fn",
    "fnr": "tp",
    "fpr": "tn",
    "tnr": "fp",
    "ppv": "fp",
    "npv": "fn",
    "accuracy": "wrong",
}
"""Metric to the count that is left of its trials without its successes."""


@dataclass(frozen=True)
class Shares:
    """Successes and trials at three points; every array is (n_groups,).

    Attributes:
        low: (successes, trials) of the lowest share the released counts allow.
        middle: Of one in between; the exact one where nothing is hidden.
        high: Of the highest.
        hidden: True where low and high differ.
        between: Fewest and most successes.
    """

    low: tuple[Counts, Counts]
    middle: tuple[Counts, Counts]
    high: tuple[Counts, Counts]
    hidden: NDArray[np.bool_]
    between: tuple[Counts, Counts]


def shares(metric: str, released: Released) -> Shares:
    """The share a metric in PROPORTIONS is, in every group."""
    x_low, n_low = PROPORTIONS[metric](released.low)
    x_high, n_high = PROPORTIONS[metric](released.high)
    rest_low, rest_high = (_rest(metric, facts) for facts in (released.low, released.high))
    x_low = np.maximum(x_low, n_low - rest_high)
    x_high = np.minimum(x_high, n_high - rest_low)
    hidden = np.asarray((x_low != x_high) | (n_low != n_high), np.bool_)
    n_middle = (n_low + n_high) // 2
    middle = np.minimum((x_low + x_high) // 2, n_middle), n_middle
    highest = (np.minimum(x_high, n_low), n_low)
    return Shares((x_low, n_high), middle, highest, hidden, (x_low, x_high))


def _rest(metric: str, facts: Facts) -> Counts:
    return np.asarray(getattr(facts, COMPLEMENTS[metric]), np.int64)


SUMS = (
    ("n", "positives", "negatives"),
    ("n", "selected", "rejected"),
    ("positives", "tp", "fn"),
    ("negatives", "fp", "tn"),
    ("selected", "tp", "fp"),
    ("rejected", "fn", "tn"),
    ("n", "correct", "wrong"),
)
"""A count and the two that add up to it."""
SUMS_OF_TWO_CLASSES = (("correct", "tp", "tn"), ("wrong", "fp", "fn"))
SWEEPS = 8


def narrowed(low: Counts, high: Counts, *, two_classes: bool) -> Released:
    """What follows from ranges of counts for the others: every count between the values its sums leave.

    Args:
        low: (n_facts, n_groups), in the order of FACTS.
        high: The same.
        two_classes: Whether who is wrong is in the other class.
    """
    low, high = low.copy(), high.copy()
    sums = (*SUMS, *SUMS_OF_TWO_CLASSES) if two_classes else SUMS
    places = [tuple(FACTS.index(name) for name in names) for names in sums]
    for _ in range(SWEEPS):
        for whole, one, other in places:
            low[whole] = np.maximum(low[whole], low[one] + low[other])
            high[whole] = np.minimum(high[whole], high[one] + high[other])
            for part, rest in ((one, other), (other, one)):
                low[part] = np.maximum(low[part], low[whole] - high[rest])
                high[part] = np.minimum(high[part], high[whole] - low[rest])
    return Released(Facts.from_array(low), Facts.from_array(high))
