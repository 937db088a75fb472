"""What a statistic is measured on: features, labels, units and groups of one split at one site."""

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

UNKNOWN = "unknown"
"""The explicit value of a sensitive attribute that is missing or not mapped."""


@dataclass(frozen=True)
class Examples:
    """One split of one site's data, ready to be summed over.

    Attributes:
        features: (n, d), float32, finite; standardised when the study says so.
        labels: (n,), int64, indices into the study's classes; or (n, n_labels), see foedus.labels.
        groups: Attribute name to (n,) array of group names; missing values are "unknown".
        units: (n,), the patient or customer of each record, in a private study; else None.
        importance: (n,), float64, what each example's loss counts where groups are balanced; else None.
        owners: (n,), int64, a number for the patient or customer of each record, at this site; None if
            every record has its own.
        set_aside: Reason to the number of this site's records that cannot be used; only in a site's census.
        cells: Column to problem to the number of cells that do not fit; only in a site's census of a table.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    groups: dict[str, NDArray[np.str_]] = field(default_factory=dict)
    units: NDArray[np.str_] | None = None
    importance: NDArray[np.float64] | None = None
    owners: NDArray[np.int64] | None = None
    set_aside: Counter[str] = field(default_factory=Counter)
    cells: dict[str, Counter[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64]) -> "Examples":
        """The examples at `rows` ((m,), int64), in that order."""
        groups = {name: values[rows] for name, values in self.groups.items()}
        units = None if self.units is None else self.units[rows]
        importance = None if self.importance is None else self.importance[rows]
        owners = None if self.owners is None else self.owners[rows]
        return Examples(self.features[rows], self.labels[rows], groups, units, importance, owners)

    def of_label(self, label: int) -> "Examples":
        """The same examples with one of their labels alone, as two classes: no (0) and yes (1)."""
        return replace(self, labels=self.labels[:, label])

    @property
    def weights(self) -> NDArray[np.float64]:
        """(n,): 1 for each record; in a private study 1/m for each of a unit's m, so that a unit counts once."""
        if self.units is None:
            return np.ones(len(self))
        _, owner, sizes = np.unique(self.units, return_inverse=True, return_counts=True)
        return np.asarray(1 / sizes[owner])
