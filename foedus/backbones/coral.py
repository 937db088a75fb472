"""CORAL: every site's features brought to one covariance, without labels (Sun, Feng & Saenko, AAAI 2016).

Each site whitens its own standardised features with its own covariance and recolours them with the
federation's mean within-site covariance: x -> (x - site mean) C_site^(-1/2) C_fed^(1/2). The colour
C_fed^(1/2) comes from one sum; a site's own mean and covariance never leave it. A site that joins
later aligns itself with unlabelled examples alone.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from foedus.backbones.moments import MomentSettings
from foedus.config import validate
from foedus.errors import BackboneError, ConfigError
from foedus.examples import Examples
from foedus.statistic import Arrays, Quantity, Settings, count

SCATTER, COUNT = "scatter", "scatter-count"
MIN_COUNT = 5
"""Examples a released total needs: the scatter of two cases is their difference."""
SHRINKAGE = 0.1
"""Least weight of the scaled identity: a feature that is all but constant at a site must not blow up."""


@dataclass(frozen=True)
class Covariance:
    """Where one site's standardised features lie, and how they vary.

    Attributes:
        mean: (d,), float64.
        matrix: (d, d), float64, positive definite.
    """

    mean: NDArray[np.float64]
    matrix: NDArray[np.float64]

    @classmethod
    def of(cls, features: NDArray[np.float32]) -> Self | None:
        """Of (n, d) features, shrunk as `shrinkage` says; None where nothing varies."""
        x = features.astype(np.float64)
        if len(x) < 2:
            return None
        mean = x.mean(axis=0)
        centred = x - mean
        matrix, dim = centred.T @ centred / len(x), x.shape[1]
        scale = float(np.trace(matrix)) / dim
        if scale < 1e-12:
            return None
        weight = max(SHRINKAGE, shrinkage(centred, matrix))
        return cls(mean, (1 - weight) * matrix + weight * scale * np.eye(dim))

    def align(self, features: NDArray[np.float32], colour: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, d) features of the same site in the federation's colour, float32."""
        move = _power(self.matrix, -0.5) @ colour
        return np.asarray((features - self.mean) @ move, np.float32)


def shrinkage(centred: NDArray[np.float64], matrix: NDArray[np.float64]) -> float:
    """Weight of the scaled identity, 0..1, that comes nearest to the true covariance (Ledoit & Wolf 2004).

    Args:
        centred: (n, d), with mean 0.
        matrix: (d, d), their covariance.
    """
    n, dim = centred.shape
    squared, scale = float(np.square(matrix).sum()), float(np.trace(matrix)) / dim
    away = squared - dim * scale**2
    noise = (float(np.square(np.square(centred).sum(axis=1)).sum()) / n - squared) / n
    return min(1.0, max(0.0, noise) / away) if away > 0 else 1.0


@dataclass(frozen=True)
class Scatter:
    """Statistic "scatter": n times each site's own covariance, as it will whiten with it, and n."""

    dim: int
    name: ClassVar[str] = "scatter"

    def settings(self) -> Settings:
        """Small parameters, sent as configuration."""
        return {"dim": self.dim}

    def arrays(self) -> Arrays:
        """No array parameter."""
        return {}

    @classmethod
    def from_wire(cls, settings: Settings, arrays: Arrays) -> Self:
        """The same statistic, from what arrived at the site."""
        if arrays:
            raise ConfigError("the request received", [f"{key} is not a known array" for key in arrays])
        return cls(validate(MomentSettings, settings, source="the request received").dim)

    def declare(self) -> dict[str, Quantity]:
        """The upper triangle of a symmetric matrix, and a count."""
        return {
            SCATTER: Quantity((self.dim * (self.dim + 1) // 2,), min_count=MIN_COUNT),
            COUNT: count(1, behind="sum"),
        }

    def measure(self, examples: Examples) -> Arrays:
        """One site's scatter; nothing where nothing varies.

        Raises:
            BackboneError: If the features have another width.
        """
        if examples.features.ndim != 2 or examples.features.shape[1] != self.dim:
            raise BackboneError(f"features have shape {examples.features.shape}, expected (n, {self.dim}).")
        own = Covariance.of(examples.features)
        n = 0 if own is None else len(examples)
        matrix = np.zeros((self.dim, self.dim)) if own is None else own.matrix
        return {SCATTER: n * matrix[np.triu_indices(self.dim)], COUNT: np.array([n])}

    def read(self, total: Arrays) -> NDArray[np.float32] | None:
        """The colour, (d, d), float32: root of the mean within-site covariance; None if nothing varies."""
        n = int(total[COUNT][0])
        if n == 0:
            return None
        matrix = np.zeros((self.dim, self.dim))
        matrix[np.triu_indices(self.dim)] = np.asarray(total[SCATTER], np.float64) / n
        return _power(matrix + np.triu(matrix, 1).T, 0.5).astype(np.float32)


def _power(matrix: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.maximum(values, 1e-12) ** exponent) @ vectors.T)
