"""Sums over the classes of several sites on one axis: which label is where."""

import numpy as np
from numpy.typing import NDArray

from fewshot.calibration import Integers
from foedus.errors import FewShotError
from foedus.statistic import Arrays

AXES = {"class-sum": 0, "class-count": 0, "xty": 1}
"""The axis of a sum that counts classes; sums not named have none."""


def places(labels: NDArray[np.generic], classes: NDArray[np.generic]) -> Integers:
    """(n,), where each label is among the classes."""
    order = np.argsort(classes, kind="stable")
    at = np.minimum(np.searchsorted(classes, labels, sorter=order), len(classes) - 1)
    found = order[at]
    if n_strange := int((classes[found] != labels).sum()):
        raise FewShotError(
            f"{n_strange} of {len(labels)} labels are not among the {len(classes)} classes given; name them all"
        )
    return np.asarray(found, np.int64)


def take(key: str, value: NDArray[np.generic], kept: Integers) -> NDArray[np.generic]:
    """A sum with the classes at `kept` alone, in that order."""
    return np.take(value, kept, axis=AXES[key]) if key in AXES else value


def spread(totals: Arrays, place: Integers, n_classes: int) -> Arrays:
    """The sums with every class at its place among more classes."""
    found = dict(totals)
    for key in AXES.keys() & totals.keys():
        axis, value = AXES[key], totals[key]
        shape = tuple(n_classes if i == axis else size for i, size in enumerate(value.shape))
        found[key] = np.zeros(shape, value.dtype)
        found[key][(slice(None),) * axis + (place,)] = value
    return found
