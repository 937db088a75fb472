"""What a private round contributes: the sum of clipped gradients at the shared head, each unit's once.

The bias is learnt as w b' with w below 1, so a unit's gradient is r [x, w]ᵀ instead of r [x, 1]ᵀ: with
features of length one, clipping then costs the weights less, and so does the noise.
"""

import numpy as np

from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.privacy.clipping import clipped_gradients
from foedus.statistic import Arrays, Quantity
from foedus.updates import Update

GRADIENT = "gradient"


def unit_weight(dim: int) -> float:
    """w = dim^(-1/4): what a unit counts beside its features of length one.

    Noise of deviation s on a sum over n units and on their count moves the mean by s √(d + 1/w²) / n, and
    s grows as √(1 + w²); the product is least at w² = 1/√d.
    """
    return float(dim**-0.25)


def quantities(shared: LinearHead, *, clip_norm: float) -> dict[str, Quantity]:
    """One array, (n_classes, d + 1): weight and bias; one unit changes it by at most `clip_norm`."""
    n_classes, dim = shared.weight.shape
    return {GRADIENT: Quantity((n_classes, dim + 1), sensitivity=clip_norm)}


def contribution(shared: LinearHead, examples: Examples, *, clip_norm: float) -> Arrays:
    """One site's sum over its units, each clipped to `clip_norm` (Abadi et al. 2016, algorithm 1)."""
    w = unit_weight(shared.weight.shape[1])
    # On features x/w and weights w W the scores are the same and a gradient is r [x, w] / w.
    same = LinearHead(shared.weight * np.float32(w), shared.bias)
    features = examples.features.astype(np.float64) / w
    found = clipped_gradients(same, features, examples.labels, clip_norm=clip_norm / w, units=examples.units)
    return {GRADIENT: w * np.column_stack([found.weight, found.bias])}


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
    bias = (shared.bias - unit_weight(shared.weight.shape[1]) * step[:, -1]).astype(np.float32)
    return Update(LinearHead(weight, bias), max(1, round(n)), 0.0)
