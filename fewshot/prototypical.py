"""Prototypes (Snell et al. 2017), and the same from sums over sites: exact in one round."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from fewshot.ridge import CLASS_COUNT, MIN_COUNT, kept_rows, sum_settings
from foedus.errors import FewShotError
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.statistic import Arrays, Quantity, Settings, count

CLASS_SUM = "class-sum"
NEVER_WINS = -1e9
"""Bias of a class without examples: far below any score of a class that has one."""


def class_sums(
    features: NDArray[np.floating], labels: NDArray[np.int64], *, n_classes: int
) -> NDArray[np.float64]:
    """(n_classes, d), float64: sum of the features ((n, d)) of each class."""
    one_hot = np.zeros((n_classes, len(labels)))
    one_hot[labels, np.arange(len(labels))] = 1
    return np.asarray(one_hot @ features.astype(np.float64))


def prototypes(features: NDArray[np.floating], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean feature of each class (Snell et al. 2017, eq. 1).

    Args:
        features: (n_support, d).
        labels: (n_support,), every value in 0..n_way-1 present.

    Returns:
        (n_way, d), float64; row c belongs to class c.

    Raises:
        FewShotError: If a class has no example (its prototype would be NaN).
    """
    if len(labels) == 0 or labels.min() < 0:
        raise FewShotError("the support set is empty or has a negative label; give labels 0..n_way-1")
    count = np.bincount(labels)
    if (count == 0).any():
        raise FewShotError(
            f"{int((count == 0).sum())} of {len(count)} classes have no example in the support set; "
            "give labels 0..n_way-1 with at least one example each"
        )
    return class_sums(features, labels, n_classes=len(count)) / count[:, None]


@dataclass(frozen=True)
class PrototypeTotals:
    """Pooled class sums over every site.

    Attributes:
        class_sum: (n_classes, d), float64.
        class_count: (n_classes,), int64.
    """

    class_sum: NDArray[np.float64]
    class_count: NDArray[np.int64]

    @property
    def present(self) -> NDArray[np.bool_]:
        """(n_classes,), whether a class has an example."""
        return self.class_count > 0

    @property
    def prototypes(self) -> NDArray[np.float64]:
        """(n_classes, d), float64; the row of a class without examples is 0, see `present`."""
        return np.asarray(self.class_sum / np.maximum(self.class_count, 1)[:, None])

    def head(self) -> LinearHead:
        """The linear head whose softmax is that of -‖x - μ‖² (Snell et al. 2017, eq. 8).

        A class without examples gets weight 0 and bias -1e9, so it never wins.

        Raises:
            FewShotError: If no class has an example.
        """
        if not self.present.any():
            raise FewShotError("the class sums hold no example; ask sites that have the study's classes")
        centres = self.prototypes
        bias = np.where(self.present, -(centres**2).sum(1), NEVER_WINS)
        return LinearHead((2 * centres).astype(np.float32), bias.astype(np.float32))


@dataclass(frozen=True)
class PrototypeSums:
    """The statistic "prototypes"; `classes` restricts it, all classes when empty."""

    n_classes: int
    dim: int
    classes: tuple[int, ...] = ()
    min_count: int = MIN_COUNT
    name: ClassVar[str] = "prototypes"

    def settings(self) -> Settings:
        """Small parameters, sent as configuration."""
        return {
            "n_classes": self.n_classes,
            "dim": self.dim,
            "classes": list(self.classes),
            "min_count": self.min_count,
        }

    def arrays(self) -> Arrays:
        """No array parameter."""
        return {}

    @classmethod
    def from_wire(cls, settings: Settings, arrays: Arrays) -> Self:
        """The same statistic, from what arrived at the site; the least count may be asked higher, not lower."""
        parsed = sum_settings(settings, arrays)
        return cls(parsed.n_classes, parsed.dim, tuple(parsed.classes), max(parsed.min_count, MIN_COUNT))

    def declare(self) -> dict[str, Quantity]:
        """Shapes and kinds of the two sums."""
        return {
            CLASS_SUM: Quantity((self.n_classes, self.dim), min_count=self.min_count),
            CLASS_COUNT: replace(count(self.n_classes, behind="sum"), min_count=self.min_count),
        }

    def measure(self, examples: Examples) -> Arrays:
        """Feature sums and examples of each class."""
        kept = kept_rows(examples, dim=self.dim, n_classes=self.n_classes, classes=list(self.classes))
        n_each = np.bincount(kept.labels, minlength=self.n_classes).astype(np.int64)
        return {
            CLASS_SUM: class_sums(kept.features, kept.labels, n_classes=self.n_classes),
            CLASS_COUNT: n_each,
        }

    def read(self, total: Arrays) -> PrototypeTotals:
        """The pooled class sums."""
        return PrototypeTotals(
            np.asarray(total[CLASS_SUM], np.float64), np.asarray(total[CLASS_COUNT], np.int64)
        )
