"""The cases an adapted head was fitted on, kept with it: prediction sets, "none of these", what they can promise.

The features of the cases are those of patients or customers: a file that holds them stays at the site.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewshot.calibration import Floats, Integers
from fewshot.closed_form import Heads, left_out_ridge, squared_distances
from fewshot.conformal import ConformalSets
from fewshot.open_set import RATE, Rejection
from fewshot.prototypical import prototypes
from foedus.errors import FewShotError
from foedus.statistic import Arrays

FEATURES, LABELS, RIGHT = "support-features", "support-labels", "support-right"


@dataclass(frozen=True)
class SupportSet:
    """Support cases as the head reads them.

    Attributes:
        features: (n, d), float32.
        labels: (n,), int64, every value in 0..n_classes-1 present.
        right: How many leave-one-out classifies correctly, or None.
    """

    features: NDArray[np.float32]
    labels: Integers
    right: int | None = None

    def sets(self, query: NDArray[np.floating], *, alpha: float, per_class: bool) -> NDArray[np.bool_]:
        """(q, n_classes), the classes that cannot be ruled out (`fewshot.conformal`)."""
        return ConformalSets.of(self.features, self.labels).sets(query, alpha=alpha, per_class=per_class)

    def rejects(self, query: NDArray[np.floating], *, rate: float = RATE) -> NDArray[np.bool_]:
        """(q,), whether a query is none of these (`fewshot.open_set`)."""
        return Rejection.of(self.features, self.labels).rejects(query, rate=rate)

    def arrays(self) -> Arrays:
        """As named arrays; `right` is -1 where leave-one-out could not say."""
        right = np.array([-1 if self.right is None else self.right], np.int64)
        return {FEATURES: self.features, LABELS: self.labels, RIGHT: right}

    @classmethod
    def from_arrays(cls, arrays: Arrays, *, n_classes: int) -> "SupportSet | None":
        """The cases in `arrays()`, or None where there are none.

        Raises:
            FewShotError: If they do not fit each other or the classes.
        """
        if FEATURES not in arrays:
            return None
        features, labels, right = (arrays.get(key, np.empty(0)) for key in (FEATURES, LABELS, RIGHT))
        fits = features.ndim == 2 and labels.shape == features.shape[:1] and right.shape == (1,)
        if not fits or sorted(set(labels.tolist())) != list(range(n_classes)):
            raise FewShotError("the cases kept with the head do not fit it; fit it again")
        known = int(right.item())
        return cls(features.astype(np.float32), labels.astype(np.int64), None if known < 0 else known)


def count_right(method: str, features: Floats, labels: Integers, *, heads: Heads) -> int | None:
    """Cases that the method classifies correctly without having seen them.

    Args:
        method: Of the study.
        features: (n, d), as the head reads them.
        labels: (n,), 0..n_classes-1.
        heads: What it made of them, a batch of one.

    Returns:
        None where a class has one case, or a method has no such scores in closed form.
    """
    count = np.bincount(labels)
    if count.min() < 2:
        return None
    if method == "ridge":
        scores = left_out_ridge(features, labels, heads)
    elif method == "prototypical":
        # The own prototype moves away from the case it loses by n/(n-1).
        distances = squared_distances(features, prototypes(features, labels))
        distances[np.arange(len(labels)), labels] *= (count[labels] / (count[labels] - 1)) ** 2
        scores = -distances
    else:
        return None
    return int((scores.argmax(1) == labels).sum())
