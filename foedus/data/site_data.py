"""What a site's data are once read: inputs, labels, units, groups and a split. Local to the site."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foedus.examples import Examples
from foedus.study import Split

if TYPE_CHECKING:
    import pandas as pd

    Inputs = Sequence[NDArray[np.uint8]] | list[str] | pd.DataFrame


@dataclass(frozen=True)
class Quarantined:
    """A record that was set aside. For the site's own eyes: it names the record and its value.

    Attributes:
        record: "row 17" (the first row after the header, or of a query's sorted rows, is 1), a path below
            the image folder, or an array and its index.
        reason: What is wrong; a value of the record, if any, follows a colon.
    """

    record: str
    reason: str

    @property
    def kind(self) -> str:
        """The reason without the record's value: may be counted in a message."""
        return self.reason.partition(":")[0]


@dataclass(frozen=True, eq=False)
class SiteData:
    """A site's usable records, in the order of the file (or of the sorted paths or rows).

    Attributes:
        inputs: images: a lazy sequence that decodes item i to (H, W, 3) uint8; text: a list of str;
            table: a DataFrame of the study's columns in the study's order (number: float64, NaN where
            missing; category: object, str or None).
        labels: (n,), int64, indices into the study's classes; or (n, n_labels), see foedus.labels.
        units: (n,), the patient or customer of each record.
        groups: Attribute name to (n,) array of group names; missing or not mapped is "unknown".
        split: (n,), "train", "validation" or "test".
        quarantined: Records that were set aside, in order.
        notes: table: column to the count of each problem met in it (see foedus.data.tables).
        digest: sha256 (hex) of the data and of how they are read.
    """

    inputs: "Inputs"
    labels: NDArray[np.int64]
    units: NDArray[np.str_]
    groups: dict[str, NDArray[np.str_]]
    split: NDArray[np.str_]
    quarantined: list[Quarantined]
    notes: dict[str, Counter[str]]
    digest: str

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, split: Split) -> NDArray[np.int64]:
        """Positions of one split's records, ascending."""
        return np.flatnonzero(self.split == split).astype(np.int64)


def examples_of(data: SiteData, split: Split, features: NDArray[Any]) -> Examples:
    """One split as Examples.

    Args:
        data: The site's data.
        split: Which part.
        features: (len(data), d): row i belongs to record i of `data`, whatever its split.
    """
    if len(features) != len(data):
        raise ValueError(f"{len(features)} feature rows for {len(data)} records; give one row per record")
    rows = data.rows(split)
    groups = {name: values[rows] for name, values in data.groups.items()}
    return Examples(np.asarray(features[rows], dtype=np.float32), data.labels[rows], groups)
