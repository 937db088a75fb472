"""How sure a served answer is: model/serving.json, and how its thresholds follow from sums over sites."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from foedus.config import Section


class PredictionSets(Section):
    """Sets of classes that hold the truth with probability 1 - alpha, over records like the test's."""

    alpha: float
    least_probability: float
    """A class is in the set from here on (of the audited, not the calibrated probabilities)."""
    n: int
    """Test records behind it."""


class Serving(Section):
    """model/serving.json; null where a private study left nothing to learn it from."""

    format: Literal["foedus-serving/1"] = "foedus-serving/1"
    temperature: float = 1.0
    """Calibrated probabilities are the softmax of the scores times this; chosen on the validation examples."""
    prediction_sets: PredictionSets | None = None
    abstain_below: float | None = None
    """The service abstains where the winning class's (audited) probability is lower."""
    abstain_rate: float | None = None
    """Share of the test records below it."""


def cover(truths: NDArray[np.generic], alpha: float) -> float | None:
    """The smallest probability a class may have to be in a set that misses the truth with at most `alpha`.

    Split conformal prediction (Vovk, Gammerman & Shafer 2005; Sadinle, Lei & Wasserman 2019, the class's
    own probability as score), rounded down to a bin's edge, which only makes sets larger.

    Args:
        truths: (bins,), examples by the probability of their true class, in equal bins.
        alpha: Share that may be missed.

    Returns:
        The probability; None where so few examples cannot promise it.
    """
    n = int(np.sum(truths))
    allowed = int(np.floor(alpha * (n + 1)))
    if allowed < 1:
        return None
    return int(np.searchsorted(np.cumsum(truths), allowed)) / len(truths)


def least_sure(top: NDArray[np.generic], rate: float) -> float:
    """The probability below which at most `rate` of the examples' winning classes lie; an equal bin's edge."""
    share = np.cumsum(top) / max(1, int(np.sum(top)))
    return int(np.searchsorted(share, rate, side="right")) / len(top)
