"""What an opened backbone costs here: seconds for an example, and how much of it lies in memory."""

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from foedus.backbones.spec import Embedder

if TYPE_CHECKING:
    from foedus.backbones.spec import Inputs

WARM = 4
"""Examples embedded before the clock starts: the first pass also sets the network up."""
REPEATS = 3
"""The fastest of so many passes counts: what else runs on the machine only ever adds."""


def seconds_per_example(embedder: Embedder, inputs: "Inputs", *, at_most: int) -> tuple[float, int]:
    """Wall seconds to read and embed one example here and now, and how many were timed.

    Args:
        embedder: The opened backbone.
        inputs: A site's inputs; `at_most` of them, spread evenly, are embedded.
        at_most: Examples timed.
    """
    rows = np.unique(np.linspace(0, len(inputs) - 1, min(at_most, len(inputs))).astype(np.int64))
    embedder.embed(_take(inputs, rows[:WARM]))
    return min(_pass(embedder, _take(inputs, rows)) for _ in range(REPEATS)) / len(rows), len(rows)


def trunk_size(embedder: Embedder) -> tuple[int, int]:
    """Parameters of the network, and bytes of its parameters and buffers; (0, 0) for a table."""
    model: Any = getattr(embedder, "model", None)
    if model is None:
        return 0, 0
    parameters = list(model.parameters())
    held = [*parameters, *model.buffers()]
    return sum(p.numel() for p in parameters), sum(t.numel() * t.element_size() for t in held)


def _pass(embedder: Embedder, inputs: "Inputs") -> float:
    begun = time.perf_counter()
    embedder.embed(inputs)
    return time.perf_counter() - begun


def _take(inputs: "Inputs", rows: NDArray[np.int64]) -> "Inputs":
    if isinstance(inputs, pd.DataFrame):
        return inputs.iloc[rows]
    return [inputs[row] for row in rows]
