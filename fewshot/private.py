"""One-round heads for private studies: prototypes and ridge from sums that one unit can hardly move.

Features have length one at most, a unit counts once, and each statistic is a single array whose
L2 sensitivity foedus.privacy.rows derives. Least squares and prototypes are where differential
privacy costs least (Mehta et al. 2022; Wahdany et al. 2025).
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from fewshot.prototypical import PrototypeTotals
from fewshot.ridge import sum_settings
from foedus.errors import FewShotError
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.privacy import rows
from foedus.statistic import Arrays, Quantity, Settings

SUMS = "private-sums"
CLIP = 1.0
"""Features of a private study have length one (foedus.backbones.Standardiser)."""


@dataclass(frozen=True)
class _PrivateSums:
    n_classes: int
    dim: int

    def settings(self) -> Settings:
        """Small parameters, sent as configuration."""
        return {"n_classes": self.n_classes, "dim": self.dim, "classes": [], "min_count": 0}

    def arrays(self) -> Arrays:
        """No array parameter."""
        return {}

    @classmethod
    def from_wire(cls, settings: Settings, arrays: Arrays) -> Self:
        """The same statistic, from what arrived at the site."""
        parsed = sum_settings(settings, arrays)
        return cls(parsed.n_classes, parsed.dim)

    def _check(self, examples: Examples) -> None:
        if examples.features.ndim != 2 or examples.features.shape[1] != self.dim:
            raise FewShotError(
                f"features have shape {examples.features.shape}, expected (n, {self.dim}); use the study's backbone"
            )


@dataclass(frozen=True)
class PrivatePrototypes(_PrivateSums):
    """The statistic "private-prototypes": class sums, and in the last column the classes' units."""

    name: ClassVar[str] = "private-prototypes"

    def declare(self) -> dict[str, Quantity]:
        """One array, (n_classes, dim + 1)."""
        sensitivity = rows.prototype_sensitivity(CLIP)
        return {SUMS: Quantity((self.n_classes, self.dim + 1), sensitivity=sensitivity)}

    def measure(self, examples: Examples) -> Arrays:
        """One site's sums."""
        self._check(examples)
        found = rows.clipped_prototypes(
            examples.features, examples.labels, n_classes=self.n_classes, clip=CLIP, units=examples.units
        )
        return {SUMS: np.column_stack([found.sums, found.counts])}

    def read(self, total: Arrays) -> PrototypeTotals:
        """The class sums; a class whose count the noise has eaten counts as absent."""
        sums = np.asarray(total[SUMS], np.float64)
        return PrototypeTotals(sums[:, :-1], np.maximum(np.rint(sums[:, -1]), 0).astype(np.int64))


@dataclass(frozen=True)
class PrivateRidge(_PrivateSums):
    """The statistic "private-ridge": XᵀX (upper triangle) and XᵀY of [x, 1], end to end."""

    name: ClassVar[str] = "private-ridge"

    @property
    def _triangle(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        return np.triu_indices(self.dim + 1)

    def declare(self) -> dict[str, Quantity]:
        """One array: (d+1)(d+2)/2 numbers of the triangle, then (d+1) x n_classes."""
        side = self.dim + 1
        size = side * (side + 1) // 2 + side * self.n_classes
        return {SUMS: Quantity((size,), sensitivity=rows.ridge_sensitivity(CLIP))}

    def measure(self, examples: Examples) -> Arrays:
        """One site's sums."""
        self._check(examples)
        found = rows.clipped_ridge(
            examples.features, examples.labels, n_classes=self.n_classes, clip=CLIP, units=examples.units
        )
        return {SUMS: np.concatenate([found.gram[self._triangle], found.xty.ravel()])}

    def read(self, total: Arrays) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(d+1, d+1) and (d+1, n_classes)."""
        sums, side = np.asarray(total[SUMS], np.float64), self.dim + 1
        cut = side * (side + 1) // 2
        gram = np.zeros((side, side))
        gram[self._triangle] = sums[:cut]
        gram = gram + np.triu(gram, 1).T
        return gram, sums[cut:].reshape(side, self.n_classes)


def ridge_head(
    gram: NDArray[np.float64], xty: NDArray[np.float64], *, deviation: float, penalty: float = 1.0
) -> LinearHead:
    """The ridge head of noisy sums.

    Noise makes the Gram matrix indefinite: a symmetric Gaussian matrix of this deviation has
    eigenvalues up to 2 deviation √d. Eigenvalues are cut at zero and the penalty is at least
    deviation √d, the scale below which a direction is noise.

    Args:
        gram: (d+1, d+1), with noise.
        xty: (d+1, n_classes), with noise; one-hot targets.
        deviation: Standard deviation of the noise on each entry.
        penalty: Least penalty.
    """
    values, vectors = np.linalg.eigh((gram + gram.T) / 2)
    strength = max(penalty, deviation * np.sqrt(len(gram)))
    solution = vectors @ ((vectors.T @ xty) / (np.maximum(values, 0.0) + strength)[:, None])
    weight, bias = solution[:-1].T, solution[-1]
    return LinearHead(weight.astype(np.float32), bias.astype(np.float32))
