"""None of these: a query farther from every prototype than the support cases are.

The distance is Euclidean in the features as the head reads them, so after `Whitening` it is the
Mahalanobis distance of the raw ones (Lee et al. 2018). What is usual follows from the support: each
case's squared distance to the nearest prototype, its own computed without it and brought to what a
query sees (`fewshot.closed_form.left_out_distances`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewshot.calibration import Floats, Integers
from fewshot.closed_form import left_out_distances, squared_distances
from fewshot.prototypical import prototypes
from foedus.errors import FewShotError

NONE_OF_THESE = "none of these"
RATE = 0.05
"""Queries of the known classes that are rejected, at most about."""


@dataclass(frozen=True)
class Rejection:
    """Prototypes, and how far from them cases of the known classes lie.

    Attributes:
        centres: (n_classes, d), class means of the support.
        usual: (m,), ascending, squared leave-one-out distances of the support cases whose class has another.
    """

    centres: Floats
    usual: Floats

    @classmethod
    def of(cls, support: NDArray[np.floating], labels: Integers) -> "Rejection":
        """From support features (n, d) and labels (n,) in 0..n_classes-1, every value present."""
        exact = np.asarray(support, np.float64)
        centres, count = prototypes(exact, labels), np.bincount(labels)
        distances = left_out_distances(exact, labels, centres, count)
        return cls(centres, np.sort(distances.min(1)[count[labels] > 1]))

    def distances(self, query: NDArray[np.floating]) -> Floats:
        """(q,), squared distance of each query (q, d) to the nearest prototype."""
        return np.asarray(squared_distances(np.asarray(query, np.float64), self.centres).min(1))

    def threshold(self, rate: float = RATE) -> float:
        """The squared distance beyond which a query is none of these.

        It is the ⌈(1 - rate)(m + 1)⌉-th of the m usual distances; the largest where m is too small for
        the rate, when about 1 in m + 1 queries of the known classes is rejected.

        Raises:
            FewShotError: If rate is not between 0 and 1, or no class has two cases.
        """
        if not 0 < rate < 1:
            raise FewShotError(f"rate is {rate}, expected a number between 0 and 1 such as {RATE}")
        if len(self.usual) == 0:
            raise FewShotError(
                "no class has 2 cases, so how far a case lies from its class is not known; "
                "add cases, or predict without rejection"
            )
        place = int(np.ceil((1 - rate) * (len(self.usual) + 1)))
        return float(self.usual[min(place, len(self.usual)) - 1])

    def rejects(self, query: NDArray[np.floating], *, rate: float = RATE) -> NDArray[np.bool_]:
        """(q,), whether a query is none of these."""
        return np.asarray(self.distances(query) > self.threshold(rate))
