"""What a statistic is measured on: features, labels, units and groups of one split at one site."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

UNKNOWN = "unknown"
"""The explicit value of a sensitive attribute that is missing or not mapped."""


@dataclass(frozen=True)
class Examples:
    """One split of one site's data, ready to be summed over.

    Attributes:
        features: (n, d), float32, finite; standardised when the study says so.
        labels: (n,), int64, indices into the study's classes.
        groups: Attribute name to (n,) array of group names; missing values are "unknown".
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    groups: dict[str, NDArray[np.str_]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64]) -> "Examples":
        """The examples at `rows` ((m,), int64), in that order."""
        groups = {name: values[rows] for name, values in self.groups.items()}
        return Examples(self.features[rows], self.labels[rows], groups)
