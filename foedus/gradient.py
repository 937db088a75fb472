"""What a private round contributes: the sum of clipped gradients at the shared head, each unit's once.

The bias is learnt as w b' with w below 1, so a unit's gradient is r [x, w]ᵀ instead of r [x, 1]ᵀ: with
features of length one, clipping then costs the weights less, and so does the noise.
"""

import numpy as np

from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.model import Model
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


def quantities(shared: Model, *, clip_norm: float) -> dict[str, Quantity]:
    """One array: (n_classes, d + 1), weight and bias; flat, with the tuned tensors behind by name, where there are any.

    One unit changes it by at most `clip_norm`.
    """
    n_classes, dim = shared.head.weight.shape
    tuned = sum(value.size for value in shared.backbone.values())
    shape = (n_classes * (dim + 1) + tuned,) if tuned else (n_classes, dim + 1)
    return {GRADIENT: Quantity(shape, sensitivity=clip_norm)}


def contribution(shared: LinearHead, examples: Examples, *, clip_norm: float) -> Arrays:
    """One site's sum over its units, each clipped to `clip_norm` (Abadi et al. 2016, algorithm 1)."""
    w = unit_weight(shared.weight.shape[1])
    # On features x/w and weights w W the scores are the same and a gradient is r [x, w] / w.
    same = LinearHead(shared.weight * np.float32(w), shared.bias)
    features = examples.features.astype(np.float64) / w
    found = clipped_gradients(same, features, examples.labels, clip_norm=clip_norm / w, units=examples.units)
    return {GRADIENT: w * np.column_stack([found.weight, found.bias])}


def read(shared: Model, total: Arrays, *, lr: float, n: float, tuning_lr: float = 0.0) -> Update:
    """The model after one step down the mean gradient.

    Args:
        shared: Where the gradient was taken.
        total: The sum, with noise.
        lr: Learning rate of the head.
        n: Units behind the sum, as far as is known; where they are sampled, how many are expected.
        tuning_lr: Learning rate of the backbone's tensors.
    """
    n_classes, dim = shared.head.weight.shape
    mean = np.asarray(total[GRADIENT], np.float64).ravel() / n
    step = lr * mean[: n_classes * (dim + 1)].reshape(n_classes, dim + 1)
    weight = (shared.head.weight - step[:, :-1]).astype(np.float32)
    bias = (shared.head.bias - unit_weight(dim) * step[:, -1]).astype(np.float32)
    backbone: Arrays = {}
    place = n_classes * (dim + 1)
    for name, value in sorted(shared.backbone.items()):
        moved = tuning_lr * mean[place : place + value.size].reshape(value.shape)
        backbone[name] = (value.astype(np.float64) - moved).astype(np.float32)
        place += value.size
    return Update(Model(LinearHead(weight, bias), backbone), max(1, round(n)), 0.0)
