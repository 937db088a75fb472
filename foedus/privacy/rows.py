"""Sums of clipped rows for one-round heads: prototypes and ridge, each with its sensitivity.

Every feature vector is first scaled to an L2 norm of at most `clip`. A unit then counts as one,
however many records it has: record i of a unit with m records has weight 1/m. So a unit's part
is the mean of what its records would each add alone, and, a norm being convex, no longer than
the longest of those. Adding or removing one unit moves the sums by its part, so the L2
sensitivity of all arrays of a release together is the largest norm of what ONE clipped record
x with label y can add, raised by SLACK for rounding (as in `clipping`):

    prototypes   x in row y of `sums`, 1 in `counts[y]`:           sqrt(clip² + 1)
    ridge        z zᵀ and z onehot(y)ᵀ with z = [x, 1]:            sqrt(s² + s),  s = clip² + 1

Where a record may have any number of L labels (foedus.labels), ridge has a vector of 1 (yes) and -1 (no) in
place of onehot(y), whose norm is sqrt(L):                        sqrt(s² + L s)

because |z zᵀ| (Frobenius) = |z|² <= s and |z onehot(y)ᵀ| = |z| <= sqrt(s). By itself `sums` has
clip, `counts` 1, `gram` s and `xty` sqrt(s). Swapping one unit for another moves them by at most
twice as much.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foedus.errors import PrivacyError
from foedus.labels import several, targets
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
        xty: (d+1, n_classes), float64, weighted Σ z onehot(y)ᵀ, whose last row counts the classes; of several
            labels, weighted Σ z (1 or -1)ᵀ.
        sensitivity: L2, of both together, to adding or removing one unit.
    """

    gram: Matrix
    xty: Matrix
    sensitivity: float


def prototype_sensitivity(clip: float) -> float:
    """sqrt(clip² + 1): see the head of this file."""
    return math.hypot(clip, 1) * (1 + SLACK)


def ridge_sensitivity(clip: float, *, n_labels: int = 1) -> float:
    """sqrt(s² + n_labels s) with s = clip² + 1: see the head of this file; with one class each n_labels is 1."""
    squared = clip**2 + 1
    return math.sqrt(squared**2 + n_labels * squared) * (1 + SLACK)


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
    weighted = _onehot(labels, n_classes) * _weights(len(x), units)[:, None]
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
        labels: (n,), in 0..n_classes-1; or (n, n_classes) of 0 and 1.
        n_classes: Columns of `xty`.
        clip: Largest norm of a feature vector; above 0.
        units: (n,), who each record belongs to; each record its own unit when None.

    Raises:
        PrivacyError: If clip, a label or a feature would leave the sums unbounded.
    """
    x = _clipped(features, clip)
    weights, n_labels = _weights(len(x), units), n_classes if several(labels) else 1
    aims = _signs(labels, n_classes) if several(labels) else _onehot(labels, n_classes)
    z = np.column_stack([x, np.ones(len(x))])
    gram = z.T @ (z * weights[:, None])
    xty = z.T @ (aims * weights[:, None])
    return ClippedRidge((gram + gram.T) / 2, xty, ridge_sensitivity(clip, n_labels=n_labels))


def _clipped(features: Features, clip: float) -> Matrix:
    if not 0 < clip < np.inf:
        raise PrivacyError(f"the clip on features is {clip}; expected a positive number, such as 1")
    x = np.asarray(features, np.float64)
    norms = np.sqrt(np.einsum("ij,ij->i", x, x))
    if not np.isfinite(norms).all():
        raise PrivacyError("features hold values that are not finite; no clipped sum of them is bounded")
    factors: Matrix = clip / np.maximum(norms, clip)
    return np.asarray(x * factors[:, None])


def _onehot(labels: NDArray[np.int64], n_classes: int) -> Matrix:
    """(n, n_classes): 1 in the column of the label."""
    if several(labels) or (len(labels) and not 0 <= labels.min() <= labels.max() < n_classes):
        raise PrivacyError(f"a label is outside 0..{n_classes - 1}; use the study's classes")
    return targets(labels, n_classes)


def _signs(labels: NDArray[np.int64], n_classes: int) -> Matrix:
    """(n, n_classes): 1 for a label that the record has, -1 for one that it has not."""
    if labels.shape[1] != n_classes or not np.isin(labels, (0, 1)).all():
        raise PrivacyError(f"labels are not {n_classes} columns of 0 and 1; use the study's classes")
    return 2 * targets(labels, n_classes) - 1


def _weights(n: int, units: NDArray[np.generic] | None) -> Matrix:
    """(n,): 1, or 1/m for a record of a unit with m of them."""
    if units is None:
        return np.ones(n)
    _, owner, sizes = np.unique(units, return_inverse=True, return_counts=True)
    return np.asarray(1 / sizes[owner])
