"""Sums of clipped rows for one-round heads: prototypes and ridge, each with its sensitivity.

Every feature vector is first scaled to an L2 norm of at most `clip`. A unit then counts as one,
however many records it has: record i of a unit with m records has weight 1/m. So a unit's part
is the mean of what its records would each add alone, and, a norm being convex, no longer than
the longest of those. Adding or removing one unit moves the sums by its part, so the L2
sensitivity of all arrays of a release together is the largest norm of what ONE clipped record
x with label y can add, raised by SLACK for rounding (as in `clipping`):

    prototypes   x in row y of `sums`, 1 in `counts[y]`:           sqrt(clip² + 1)
    ridge        z zᵀ and z onehot(y)ᵀ with z = [x, 1]:            sqrt(s² + s),  s = clip² + 1

because |z zᵀ| (Frobenius) = |z|² <= s and |z onehot(y)ᵀ| = |z| <= sqrt(s). By itself `sums` has
clip, `counts` 1, `gram` s and `xty` sqrt(s). Swapping one unit for another moves them by at most
twice as much.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foedus.errors import PrivacyError
from foedus.privacy.clipping import SLACK, Features, Matrix


@dataclass(frozen=True)
class ClippedPrototypes:
    """Weighted class sums of clipped features; a prototype is a row of `sums` over its count.

    Attributes:
        sums: (n_classes, d), float64.
        counts: (n_classes,), float64; whole numbers when every record is its own unit.
        sensitivity: L2, of both together, to adding or removing one unit.
    """

    sums: Matrix
    counts: Matrix
    sensitivity: float


@dataclass(frozen=True)
class ClippedRidge:
    """What the ridge head needs, from clipped features; z = [x, 1].

    Attributes:
        gram: (d+1, d+1), float64, weighted Σ z zᵀ. The upper triangle alone has the same
            sensitivity; after noise on the whole of it, average it with its transpose.
        xty: (d+1, n_classes), float64, weighted Σ z onehot(y)ᵀ; its last row counts the classes.
        sensitivity: L2, of both together, to adding or removing one unit.
    """

    gram: Matrix
    xty: Matrix
    sensitivity: float


def prototype_sensitivity(clip: float) -> float:
    """sqrt(clip² + 1): see the head of this file."""
    return math.hypot(clip, 1) * (1 + SLACK)


def ridge_sensitivity(clip: float) -> float:
    """sqrt(s² + s) with s = clip² + 1: see the head of this file."""
    squared = clip**2 + 1
    return math.sqrt(squared**2 + squared) * (1 + SLACK)


def clipped_prototypes(
    features: Features,
    labels: NDArray[np.int64],
    *,
    n_classes: int,
    clip: float,
    units: NDArray[np.generic] | None = None,
) -> ClippedPrototypes:
    """Per-class sums and counts of clipped features, each unit of weight one.

    Args:
        features: (n, d).
        labels: (n,), in 0..n_classes-1.
        n_classes: Rows of the result.
        clip: Largest norm of a feature vector; above 0.
        units: (n,), who each record belongs to; each record its own unit when None.

    Raises:
        PrivacyError: If clip, a label or a feature would leave the sums unbounded.
    """
    x = _clipped(features, clip)
    weighted = _weighted_onehot(labels, n_classes, units)
    return ClippedPrototypes(weighted.T @ x, weighted.sum(axis=0), prototype_sensitivity(clip))


def clipped_ridge(
    features: Features,
    labels: NDArray[np.int64],
    *,
    n_classes: int,
    clip: float,
    units: NDArray[np.generic] | None = None,
) -> ClippedRidge:
    """Gram matrix and class sums of clipped features with a 1 appended, each unit of weight one.

    Args:
        features: (n, d).
        labels: (n,), in 0..n_classes-1.
        n_classes: Columns of `xty`.
        clip: Largest norm of a feature vector; above 0.
        units: (n,), who each record belongs to; each record its own unit when None.

    Raises:
        PrivacyError: If clip, a label or a feature would leave the sums unbounded.
    """
    x = _clipped(features, clip)
    weighted = _weighted_onehot(labels, n_classes, units)
    z = np.column_stack([x, np.ones(len(x))])
    gram = z.T @ (z * weighted.sum(axis=1, keepdims=True))
    return ClippedRidge((gram + gram.T) / 2, z.T @ weighted, ridge_sensitivity(clip))


def _clipped(features: Features, clip: float) -> Matrix:
    if not 0 < clip < np.inf:
        raise PrivacyError(f"the clip on features is {clip}; expected a positive number, such as 1")
    x = np.asarray(features, np.float64)
    norms = np.sqrt(np.einsum("ij,ij->i", x, x))
    if not np.isfinite(norms).all():
        raise PrivacyError("features hold values that are not finite; no clipped sum of them is bounded")
    factors: Matrix = clip / np.maximum(norms, clip)
    return np.asarray(x * factors[:, None])


def _weighted_onehot(labels: NDArray[np.int64], n_classes: int, units: NDArray[np.generic] | None) -> Matrix:
    """(n, n_classes): a record's weight in the column of its label, 0 elsewhere."""
    if len(labels) and not 0 <= labels.min() <= labels.max() < n_classes:
        raise PrivacyError(f"a label is outside 0..{n_classes - 1}; use the study's classes")
    weights = np.ones(len(labels))
    if units is not None:
        _, owner, sizes = np.unique(units, return_inverse=True, return_counts=True)
        weights = 1 / sizes[owner]
    onehot = np.zeros((len(labels), n_classes))
    onehot[np.arange(len(labels)), labels] = weights
    return onehot
