"""What a private round contributes: the sum of clipped gradients at the shared head, each unit's once."""

import numpy as np

from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.privacy.clipping import clipped_gradients
from foedus.statistic import Arrays, Quantity
from foedus.updates import Update

GRADIENT = "gradient"


def quantities(shared: LinearHead, *, clip_norm: float) -> dict[str, Quantity]:
    """One array, (n_classes, d + 1): weight and bias; one unit changes it by at most `clip_norm`."""
    n_classes, dim = shared.weight.shape
    return {GRADIENT: Quantity((n_classes, dim + 1), sensitivity=clip_norm)}


def contribution(shared: LinearHead, examples: Examples, *, clip_norm: float) -> Arrays:
    """One site's sum over its units, each clipped to `clip_norm` (Abadi et al. 2016, algorithm 1)."""
    found = clipped_gradients(
        shared, examples.features, examples.labels, clip_norm=clip_norm, units=examples.units
    )
    return {GRADIENT: np.column_stack([found.weight, found.bias])}


def read(shared: LinearHead, total: Arrays, *, lr: float, n: float) -> Update:
    """The head after one step down the mean gradient.

    Args:
        shared: Where the gradient was taken.
        total: The sum, with noise.
        lr: Learning rate.
        n: Units behind the sum, as far as is known.
    """
    step = lr * np.asarray(total[GRADIENT], np.float64) / n
    weight = (shared.weight - step[:, :-1]).astype(np.float32)
    bias = (shared.bias - step[:, -1]).astype(np.float32)
    return Update(LinearHead(weight, bias), max(1, round(n)), 0.0)
