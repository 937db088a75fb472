"""One-round heads for private studies: prototypes and ridge from sums that one unit can hardly move.

Features have length one at most, a unit counts once (foedus.privacy.rows), and each statistic is a
single array. Least squares and prototypes are where differential privacy costs least (Mehta et
al. 2022; Wahdany et al. 2025).

The noise on every entry is in proportion to the most one unit can add to all of them, so entries
that matter less travel smaller. A unit of features x (length 1) and label y adds, with w below 1:

    prototypes   [x, w] in row y:                              sqrt(1 + w²)
    ridge        z zᵀ and z onehot(y)ᵀ with z = [x, w]:        sqrt(s²/2 + s),  s = 1 + w²

Of z zᵀ only the upper triangle travels, its diagonal over sqrt(2): Σ_i z_i⁴/2 + Σ_(i<j) z_i² z_j²
is |z|⁴/2 whatever z is. The noise on the matrix is then that of the Gaussian orthogonal ensemble.
With w = 1 and the plain triangle the two would be sqrt(2) and sqrt(6).

Where a record may have any number of L labels, ridge has 1 (yes) and -1 (no) in place of onehot(y):
sqrt(s²/2 + L s). Zero then stands for "as likely as not", which is what noise shrinks a score to.
"""

from dataclasses import dataclass
from math import hypot, sqrt
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from fewshot.prototypical import PrototypeTotals
from fewshot.ridge import sum_settings
from foedus.errors import FewShotError
from foedus.examples import Examples
from foedus.gradient import unit_weight
from foedus.head import LinearHead
from foedus.labels import several
from foedus.privacy import rows
from foedus.privacy.clipping import SLACK
from foedus.statistic import Arrays, Quantity, Settings

SUMS = "private-sums"
CLIP = 1.0
"""Features of a private study have length one (foedus.backbones.Standardiser)."""


@dataclass(frozen=True)
class _PrivateSums:
    n_classes: int
    dim: int
    multilabel: bool = False

    def settings(self) -> Settings:
        """Small parameters, sent as configuration."""
        several = {"multilabel": True} if self.multilabel else {}
        return {"n_classes": self.n_classes, "dim": self.dim, "classes": [], "min_count": 0, **several}

    def arrays(self) -> Arrays:
        """No array parameter."""
        return {}

    @classmethod
    def from_wire(cls, settings: Settings, arrays: Arrays) -> Self:
        """The same statistic, from what arrived at the site."""
        parsed = sum_settings(settings, arrays)
        return cls(parsed.n_classes, parsed.dim, parsed.multilabel)

    def _check(self, examples: Examples) -> None:
        if examples.features.ndim != 2 or examples.features.shape[1] != self.dim:
            raise FewShotError(
                f"features have shape {examples.features.shape}, expected (n, {self.dim}); use the study's backbone"
            )


@dataclass(frozen=True)
class PrivatePrototypes(_PrivateSums):
    """The statistic "private-prototypes": class sums, and in the last column `unit_weight` for each unit."""

    name: ClassVar[str] = "private-prototypes"

    def declare(self) -> dict[str, Quantity]:
        """One array, (n_classes, dim + 1)."""
        sensitivity = hypot(CLIP, unit_weight(self.dim)) * (1 + SLACK)
        return {SUMS: Quantity((self.n_classes, self.dim + 1), sensitivity=sensitivity)}

    def measure(self, examples: Examples) -> Arrays:
        """One site's sums."""
        self._check(examples)
        found = rows.clipped_prototypes(
            examples.features, examples.labels, n_classes=self.n_classes, clip=CLIP, units=examples.units
        )
        return {SUMS: np.column_stack([found.sums, found.counts * unit_weight(self.dim)])}

    def read(self, total: Arrays) -> PrototypeTotals:
        """The class sums; noise may leave a count below zero, see `prototype_head`."""
        sums = np.asarray(total[SUMS], np.float64)
        count = np.rint(sums[:, -1] / unit_weight(self.dim))
        return PrototypeTotals(sums[:, :-1], count.astype(np.int64))


def prototype_head(totals: PrototypeTotals, *, deviation: float) -> LinearHead:
    """The head of noisy prototypes, corrected for the noise that is known.

    Up to a constant, -‖x - μ‖² is 2 δ·(x - m) - ‖δ‖² with m the mean of all examples and δ = μ - m. In
    this form m, which all classes share and hardly any noise moves, cancels whatever else is done.
    Noise of variance v on each entry of μ raises ‖δ‖² by d v on average (most where the count is
    small, so a rare class would hardly be chosen) and gives it a variance of 2 d v² + 4 v ‖δ‖². The
    first is taken off; counts and ‖δ‖² are drawn to their means by as much of their spread as is noise.

    Args:
        totals: With noise.
        deviation: Standard deviation of the noise on each entry of a class sum.

    Returns:
        Zeros if no class can be told from noise. A class that cannot has no weights and lies 1 below
        the others' lowest bias at m: it hardly wins, but rounds of training can still raise it.
    """
    n_classes, dim = totals.class_sum.shape
    counts = _settled(totals.class_count, deviation=deviation / unit_weight(dim))
    here = counts > 0
    if not here.any():
        return LinearHead.zeros(n_classes, dim)
    sums, counts = totals.class_sum[here], counts[here]
    mean = sums.sum(axis=0) / counts.sum()
    apart = sums / counts[:, None] - mean
    noise = np.square(deviation / counts)
    lengths = np.maximum((apart**2).sum(axis=1) - dim * noise, 0.0)
    lengths, _ = _drawn(lengths, float((2 * dim * noise**2 + 4 * noise * lengths).mean()))
    weight, bias = np.zeros((n_classes, dim)), np.full(n_classes, -float(lengths.max()) - CLIP**2)
    weight[here], bias[here] = 2 * apart, -2 * apart @ mean - lengths
    return LinearHead(weight.astype(np.float32), bias.astype(np.float32))


def _settled(counts: NDArray[np.int64], *, deviation: float) -> NDArray[np.int64]:
    """Counts without the noise in their spread; 0 where one is not twice its own uncertainty.

    Such a class may have no unit at all, and its sum be nothing but noise.
    """
    found, kept = _drawn(counts.astype(np.float64), deviation**2)
    uncertain = deviation * sqrt(kept + (1 - kept) / len(counts))
    return np.where(found >= 2 * uncertain, np.rint(found), 0).astype(np.int64)


def _drawn(values: NDArray[np.float64], variance: float) -> tuple[NDArray[np.float64], float]:
    """Values drawn to their mean, and the share of their spread that is kept (Efron & Morris 1973)."""
    spread = float(values.var(ddof=1)) if len(values) > 1 else 0.0
    kept = max(0.0, 1 - variance / spread) if spread > 0 else 0.0
    return values.mean() + kept * (values - values.mean()), kept


@dataclass(frozen=True)
class PrivateRidge(_PrivateSums):
    """The statistic "private-ridge": zzᵀ (upper triangle, diagonal / sqrt(2)) and zyᵀ end to end.

    z = [x, w] with w = `unit_weight`: see the head of this file.
    """

    name: ClassVar[str] = "private-ridge"

    @property
    def _triangle(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        return np.triu_indices(self.dim + 1)

    def declare(self) -> dict[str, Quantity]:
        """One array: (d+1)(d+2)/2 numbers of the triangle, then (d+1) x n_classes."""
        side = self.dim + 1
        size = side * (side + 1) // 2 + side * self.n_classes
        squared = CLIP**2 + unit_weight(self.dim) ** 2
        n_labels = self.n_classes if self.multilabel else 1
        sensitivity = sqrt(squared**2 / 2 + n_labels * squared) * (1 + SLACK)
        return {SUMS: Quantity((size,), sensitivity=sensitivity)}

    def measure(self, examples: Examples) -> Arrays:
        """One site's sums."""
        self._check(examples)
        if several(examples.labels) != self.multilabel:
            raise FewShotError("the request and the study differ in how many labels a record may have")
        found = rows.clipped_ridge(
            examples.features, examples.labels, n_classes=self.n_classes, clip=CLIP, units=examples.units
        )
        scale = np.append(np.ones(self.dim), unit_weight(self.dim))
        gram = found.gram * np.outer(scale, scale)
        np.fill_diagonal(gram, np.diagonal(gram) / sqrt(2))
        return {SUMS: np.concatenate([gram[self._triangle], (found.xty * scale[:, None]).ravel()])}

    def read(self, total: Arrays) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Σ z zᵀ, (d+1, d+1), and Σ z yᵀ, (d+1, n_classes)."""
        sums, side = np.asarray(total[SUMS], np.float64), self.dim + 1
        cut = side * (side + 1) // 2
        gram = np.zeros((side, side))
        gram[self._triangle] = sums[:cut]
        np.fill_diagonal(gram, np.diagonal(gram) * sqrt(2))
        gram = gram + np.triu(gram, 1).T
        return gram, sums[cut:].reshape(side, self.n_classes)


def ridge_head(
    gram: NDArray[np.float64], xty: NDArray[np.float64], *, deviation: float, penalty: float = 1.0
) -> LinearHead:
    """The ridge head of noisy sums.

    Minimises Σ‖y - W x - b‖² + strength (‖W‖² + ‖b‖²/w²). Noise makes the Gram matrix indefinite: a
    symmetric Gaussian matrix of this deviation has eigenvalues up to 2 deviation √d. Eigenvalues are
    cut at zero and the strength is at least deviation √d, the scale below which a direction is noise.

    Args:
        gram: (d+1, d+1), Σ z zᵀ with noise, z = [x, w].
        xty: (d+1, n_classes), Σ z yᵀ with noise; one-hot targets or, of several labels, 1 and -1.
        deviation: Standard deviation of the noise on each entry (off the diagonal).
        penalty: Least strength.
    """
    values, vectors = np.linalg.eigh((gram + gram.T) / 2)
    strength = max(penalty, deviation * np.sqrt(len(gram)))
    solution = vectors @ ((vectors.T @ xty) / (np.maximum(values, 0.0) + strength)[:, None])
    weight, bias = solution[:-1].T, solution[-1] * unit_weight(len(gram) - 1)
    return LinearHead(weight.astype(np.float32), bias.astype(np.float32))
