"""What a round of training contributes: the change of the model, weighted by the site's share of all examples.

The shares of all sites add up to one, so the sum over sites is the mean change, and its range
does not grow with the number of sites: it fits one 32-bit word a weight, also under a mask.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from foedus.errors import DoorError
from foedus.model import CONTROL, Model
from foedus.statistic import Arrays, Quantity, count

RANGE = 16.0
"""Largest change of one weight in one round, weighted."""
EXAMPLES, LOSS = "examples", "loss"
MIN_COUNT = 5
"""Examples a released update needs: the gradient of one case is that case's features."""


@dataclass(frozen=True)
class Update:
    """What the coordinator reads: of one site, or of all together.

    Attributes:
        model: The model after the round.
        n: Examples it was trained on.
        loss: Mean training loss over them.
    """

    model: Model
    n: int
    loss: float


def quantities(shared: Model, *, n_sites: int, n_total: int) -> dict[str, Quantity]:
    """What the door must know of a contribution to a round of `n_sites` sites with `n_total` training examples.

    None can claim many more: the others' shares would vanish beside its own. Twice as many leaves room for examples
    of rare classes, which are trained on and not counted where a site keeps them out of sums of features.
    """
    grid = _grid(n_sites)
    changes = {
        key: Quantity(value.shape, low=-RANGE, high=RANGE, resolution=grid, min_count=MIN_COUNT)
        for key, value in shared.arrays().items()
    }
    return {
        **changes,
        EXAMPLES: replace(count(1, behind="sum"), high=2 * n_total),
        LOSS: Quantity((1,), low=0.0),
    }


def _grid(n_sites: int) -> float:
    """The finest power of two on which `n_sites` values within RANGE add up in 31 bits and a sign."""
    return 2.0 ** (math.ceil(math.log2(RANGE * (n_sites + 1))) - 31)


def contribution(shared: Model, trained: Model, *, n: int, n_total: int, loss: float) -> Arrays:
    """One site's contribution.

    Args:
        shared: Where the round began.
        trained: The model after local training.
        n: Examples it was trained on.
        n_total: Training examples of all sites together.
        loss: Mean training loss over the site's examples.
    """
    share, after = n / n_total, trained.arrays()
    arrays: Arrays = {
        key: share * (np.asarray(after[key], np.float64) - np.asarray(before, np.float64))
        for key, before in shared.arrays().items()
    }
    return {**arrays, EXAMPLES: np.array([n]), LOSS: np.array([n * loss])}


def read(shared: Model, total: Arrays, *, n_total: int) -> Update:
    """The update behind a contribution, or behind the sum of all.

    Weights move by the mean change of the sites that answered. A control variate is the sum of what
    each site last sent of its own, so it moves by what was sent (Karimireddy et al. 2020, algorithm 1).

    Raises:
        DoorError: If there is no example behind it.
    """
    n = int(total[EXAMPLES][0])
    if n < 1:
        raise DoorError(f"an update stands for {n} examples; at least one is needed")
    arrays: Arrays = {}
    for key, before in shared.arrays().items():
        scale = 1.0 if key.startswith(CONTROL) else n_total / n
        moved = np.asarray(before, np.float64) + np.asarray(total[key], np.float64) * scale
        arrays[key] = moved.astype(np.float32)
    return Update(Model.from_arrays(arrays), n, float(total[LOSS][0]) / n)
