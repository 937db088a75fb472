"""What a round of training contributes: the change of the head, weighted by the site's share of all examples.

The shares of all sites add up to one, so the sum over sites is the mean change, and its range
does not grow with the number of sites: it fits one 32-bit word a weight, also under a mask.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foedus.errors import DoorError
from foedus.head import LinearHead
from foedus.statistic import Arrays, Quantity, count

RANGE = 16.0
"""Largest change of one weight in one round, weighted."""
EXAMPLES, LOSS = "examples", "loss"


@dataclass(frozen=True)
class Update:
    """What the coordinator reads: of one site, or of all together.

    Attributes:
        head: The head after the round.
        n: Examples it was trained on.
        loss: Mean training loss over them.
    """

    head: LinearHead
    n: int
    loss: float


def quantities(shared: LinearHead, *, n_sites: int) -> dict[str, Quantity]:
    """What the door must know of a contribution to a round of `n_sites` sites."""
    grid = _grid(n_sites)
    changes = {
        key: Quantity(value.shape, low=-RANGE, high=RANGE, resolution=grid)
        for key, value in shared.arrays().items()
    }
    return {**changes, EXAMPLES: count(1), LOSS: Quantity((1,), low=0.0)}


def _grid(n_sites: int) -> float:
    """The finest power of two on which `n_sites` values within RANGE add up in 31 bits and a sign."""
    return 2.0 ** (math.ceil(math.log2(RANGE * (n_sites + 1))) - 31)


def contribution(shared: LinearHead, trained: LinearHead, *, n: int, n_total: int, loss: float) -> Arrays:
    """One site's contribution.

    Args:
        shared: Where the round began.
        trained: The head after local training.
        n: Examples it was trained on.
        n_total: Training examples of all sites together.
        loss: Mean training loss over the site's examples.
    """
    share = n / n_total
    arrays: Arrays = {
        key: share * (value.astype(np.float64) - before)
        for (key, value), before in zip(trained.arrays().items(), _before(shared), strict=True)
    }
    return {**arrays, EXAMPLES: np.array([n]), LOSS: np.array([n * loss])}


def read(shared: LinearHead, total: Arrays, *, n_total: int) -> Update:
    """The update behind a contribution, or behind the sum of all.

    Raises:
        DoorError: If there is no example behind it.
    """
    n = int(total[EXAMPLES][0])
    if n < 1:
        raise DoorError(f"an update stands for {n} examples; at least one is needed")
    arrays: Arrays = {
        key: (before + np.asarray(total[key], np.float64) * (n_total / n)).astype(np.float32)
        for key, before in zip(shared.arrays(), _before(shared), strict=True)
    }
    return Update(LinearHead.from_arrays(arrays), n, float(total[LOSS][0]) / n)


def _before(shared: LinearHead) -> list[NDArray[np.float64]]:
    return [np.asarray(value, np.float64) for value in shared.arrays().values()]
