"""Clipped sums of a linear head's gradients, in closed form.

For softmax cross-entropy on scores W x + b the gradient of one record is r xᵀ for W and r for
b, with r = softmax(W x + b) - onehot(y). So its squared L2 norm is |r|² (|x|² + 1), and that of
a unit (all records i of one patient) is Σ_ij (r_i·r_j)(x_i·x_j + 1): no record's gradient is ever
formed, and one matrix product sums them after each r has been scaled. Where a record may have several
labels (foedus.labels), each with a sigmoid and its own cross-entropy, r = sigmoid(W x + b) - y is the only
thing that differs.

Sensitivity. Each unit's gradient g is scaled by min(1, clip_norm/|g|), so its part of the sum
has an L2 norm of at most clip_norm over weight and bias together; adding or removing one unit
moves the sum by exactly its part, hence by at most clip_norm. That other units' parts stay as
they are is why units are clipped by their own norm only, and why the arithmetic is float64: in
float32 a row of a matrix product changes in the seventh digit with the rows around it. What
rounding is left is less than SLACK for sums of up to 60,000 records.

The number of units summed is as private as the sum. It stays at the site: divide by the
expected number.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foedus.errors import PrivacyError
from foedus.head import LinearHead
from foedus.labels import residuals as gradients_by_score
from foedus.labels import several

SLACK = 1e-6
"""Share of the clip norm given up so that rounding cannot exceed it."""
_BLOCK = 2**22
"""Numbers gathered at once, for units of several records."""

Matrix = NDArray[np.float64]
Features = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True)
class ClippedSum:
    """Sum of clipped gradients.

    Attributes:
        weight: (n_classes, d), float64.
        bias: (n_classes,), float64.
        units: Number of units in the sum; private, see above.
    """

    weight: Matrix
    bias: Matrix
    units: int


def clipped_gradients(
    head: LinearHead,
    features: Features,
    labels: NDArray[np.int64],
    *,
    clip_norm: float,
    units: NDArray[np.generic] | None = None,
) -> ClippedSum:
    """Sum over units of the cross-entropy gradient, each clipped to `clip_norm`.

    Args:
        head: Where the gradient is taken.
        features: (n, d); float64 saves a conversion each time.
        labels: (n,), indices of the head's classes; or (n, n_classes) of 0 and 1.
        clip_norm: Above 0; the L2 sensitivity to adding or removing one unit.
        units: (n,), who each record belongs to (any type); each record its own unit when None.
            All records of a unit must be here, or none: sample units, not records.

    Raises:
        PrivacyError: If clip_norm, a label, a feature or the head would leave the sum unbounded.
    """
    if not 0 < clip_norm < np.inf:
        raise PrivacyError(f"clip_norm is {clip_norm}; expected a positive number, such as 1")
    x = np.asarray(features, np.float64)
    residuals = _residuals(head, x, labels)
    if units is None:
        squared = np.einsum("ij,ij->i", residuals, residuals) * (np.einsum("ij,ij->i", x, x) + 1)
        count, owner = len(x), None
    else:
        _, owner = np.unique(units, return_inverse=True)
        squared = _unit_norms(residuals, x, owner)
        count = len(squared)
    if not np.isfinite(squared).all():
        raise PrivacyError(
            "features or head hold values that are not finite; no clipped sum of them is bounded"
        )
    factors = clip_norm * (1 - SLACK) / np.maximum(np.sqrt(squared), clip_norm)
    residuals *= (factors if owner is None else factors[owner])[:, None]
    return ClippedSum(residuals.T @ x, residuals.sum(axis=0), count)


def _residuals(head: LinearHead, x: Matrix, labels: NDArray[np.int64]) -> Matrix:
    """(n, n_classes): probabilities minus targets."""
    n_classes = len(head.bias)
    if several(labels):
        if labels.shape[1] != n_classes or not np.isin(labels, (0, 1)).all():
            raise PrivacyError(f"labels are not {n_classes} columns of 0 and 1; use the study's classes")
        scores = x @ head.weight.T.astype(np.float64) + head.bias.astype(np.float64)
        return np.asarray(gradients_by_score(scores, labels)[0], np.float64)
    if len(labels) and not 0 <= labels.min() <= labels.max() < n_classes:
        raise PrivacyError(f"a label is outside 0..{n_classes - 1}; use the study's classes")
    scores = x @ head.weight.T.astype(np.float64) + head.bias.astype(np.float64)
    scores -= scores.max(axis=1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=1, keepdims=True)
    scores[np.arange(len(labels)), labels] -= 1
    return scores


def _unit_norms(residuals: Matrix, x: Matrix, owner: NDArray[np.intp]) -> Matrix:
    """(n_units,), squared norms of the units' gradients, rounded upwards; `owner` is (n,)."""
    sizes = np.bincount(owner)
    order = np.argsort(owner, kind="stable")
    starts = np.cumsum(sizes) - sizes
    squared = np.empty(len(sizes))
    for size in np.unique(sizes):
        alike = np.flatnonzero(sizes == size)
        at_once = max(1, _BLOCK // (int(size) * x.shape[1]))
        for begin in range(0, len(alike), at_once):
            some = alike[begin : begin + at_once]
            rows = order[starts[some][:, None] + np.arange(size)]
            squared[some] = _block_norms(residuals[rows], x[rows])
    return squared


def _block_norms(residuals: Matrix, x: Matrix) -> Matrix:
    """(k,), squared gradient norms of k units of m records: residuals (k, m, c), x (k, m, d).

    Through the m by m Gram matrices while these are smaller than the gradients, else through
    the gradients. Where records of a unit cancel, rounding could make a Gram sum too small by
    about m + d units in the last place of (Σ_i |g_i|)²; that much is added.
    """
    _, m, n_classes = residuals.shape
    if m > n_classes:
        weight = residuals.transpose(0, 2, 1) @ x
        return np.asarray((weight**2).sum(axis=(1, 2)) + (residuals.sum(axis=1) ** 2).sum(axis=1))
    inner = residuals @ residuals.transpose(0, 2, 1)
    outer = x @ x.transpose(0, 2, 1) + 1
    lengths = np.sqrt(np.einsum("kii->ki", inner) * np.einsum("kii->ki", outer)).sum(axis=1)
    rounding = 4 * np.finfo(np.float64).eps * (m + x.shape[2])
    return np.asarray(np.maximum((inner * outer).sum(axis=(1, 2)), 0) + rounding * lengths**2)
