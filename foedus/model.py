"""What a study trains: a head and, where the backbone is tuned, tensors of the backbone."""

from dataclasses import dataclass, field

import numpy as np

from foedus.head import LinearHead
from foedus.statistic import Arrays

BACKBONE, CONTROL = "backbone/", "control/"
"""Prefixes of a tuned tensor, and of SCAFFOLD's control variate of any array."""


@dataclass(frozen=True)
class Model:
    """A head, the tensors of the backbone that learn with it, and what a strategy sends beside them.

    Attributes:
        head: On standardised features.
        backbone: Name in the network (or in the PEFT adapter) to float32 tensor; empty where tune = "head".
        control: SCAFFOLD's shared control variate, one for each array of head and backbone; else empty.
    """

    head: LinearHead
    backbone: Arrays = field(default_factory=dict)
    control: Arrays = field(default_factory=dict)

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "Model":
        """A model from the arrays that `arrays` gives."""
        return cls(LinearHead.from_arrays(arrays), part(arrays, BACKBONE), part(arrays, CONTROL))

    def weights(self) -> Arrays:
        """Head and backbone as named arrays, float32, in the order they travel: the backbone's by name."""
        return {
            **self.head.arrays(),
            **{BACKBONE + name: self.backbone[name] for name in sorted(self.backbone)},
        }

    def arrays(self) -> Arrays:
        """`weights`, and the control variates."""
        return {**self.weights(), **{CONTROL + name: self.control[name] for name in sorted(self.control)}}

    def finite(self) -> bool:
        """Whether every number is."""
        return all(bool(np.isfinite(value).all()) for value in self.arrays().values())


def part(arrays: Arrays, prefix: str) -> Arrays:
    """The arrays under `prefix`, without it."""
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
