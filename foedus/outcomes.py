"""Records whose label came later, as counts: who was decided how, in every group. Sums of them are sums of sites."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from foedus.errors import DataError
from foedus.examples import UNKNOWN
from foedus.statistic import Arrays, Quantity, count

CONFUSION, CHANCES = "outcomes", "chances"
Labelled = tuple[Mapping[str, Any], Mapping[str, str]]
"""A line of the journal, and the row that says what was true."""


@dataclass(frozen=True)
class Outcomes:
    """Counts of labelled records.

    Attributes:
        groups: Attribute to its groups; "unknown" is the last of each.
        confusion: (1 + groups of all attributes, n_classes, n_classes): row 0 of everyone, then of each
            group; true class by decision.
        chances: (2,): sums of the positive class's probability, as audited, and of its square.
    """

    groups: dict[str, list[str]]
    confusion: NDArray[np.int64]
    chances: NDArray[np.float64]

    def __len__(self) -> int:
        return int(self.confusion[0].sum())

    def of(self, attribute: str, group: str) -> NDArray[np.int64]:
        """(n_classes, n_classes) of one group; nobody where it is none of the attribute's."""
        row = 1
        for name, groups in self.groups.items():
            if name == attribute and group in groups:
                return np.asarray(self.confusion[row + groups.index(group)])
            row += len(groups)
        return np.zeros_like(self.confusion[0])

    def arrays(self) -> Arrays:
        """As they are summed."""
        return {CONFUSION: self.confusion, CHANCES: self.chances}

    @classmethod
    def from_arrays(cls, arrays: Arrays, groups: Mapping[str, Sequence[str]]) -> Self:
        """From a sum of `arrays`."""
        return cls(
            with_unknown(groups), arrays[CONFUSION].astype(np.int64), arrays[CHANCES].astype(np.float64)
        )


def with_unknown(attributes: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """A policy's groups, each attribute's ending with "unknown"."""
    return {
        name: [*(group for group in groups if group != UNKNOWN), UNKNOWN]
        for name, groups in attributes.items()
    }


def quantities(attributes: Mapping[str, Sequence[str]], n_classes: int) -> dict[str, Quantity]:
    """What the door must know of `Outcomes.arrays`."""
    cells = 1 + sum(len(groups) for groups in with_unknown(attributes).values())
    return {CONFUSION: count(cells, n_classes, n_classes), CHANCES: Quantity((2,), low=0)}


def join(predictions: Sequence[Mapping[str, Any]], path: Path) -> list[Labelled]:
    """The predictions whose label is in a CSV file with columns id, label and, if known, the attributes.

    They come in the order of the file.

    Raises:
        DataError: If the file cannot be read or has no such columns.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = {row["id"]: row for row in reader if row.get("id")}
            columns = reader.fieldnames or []
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); give the labels as a CSV") from None
    if not {"id", "label"} <= set(columns):
        raise DataError(f"{path} has columns {', '.join(columns)}; it needs id and label")
    by_id: dict[str, list[Mapping[str, Any]]] = {}
    for line in predictions:
        by_id.setdefault(line["id"], []).append(line)
    return [(line, row) for name, row in rows.items() for line in by_id.get(name, [])]


def counted(
    labelled: Sequence[Labelled],
    *,
    classes: Sequence[str],
    positive: int,
    attributes: Mapping[str, Sequence[str]],
) -> Outcomes:
    """Their counts; a group that the policy does not name is "unknown".

    Raises:
        DataError: If a label is no class.
    """
    if unknown := sorted({row["label"] for _, row in labelled} - set(classes)):
        raise DataError(f"'{unknown[0]}' is not a class; {', '.join(classes)} are")
    place = {name: index for index, name in enumerate(classes)}
    truths = np.array([place[row["label"]] for _, row in labelled], np.int64)
    decisions = np.array([place[line["label"]] for line, _ in labelled], np.int64)
    chances = np.array([line["probabilities"][positive] for line, _ in labelled], np.float64)
    groups = with_unknown(attributes)
    cells = [np.ones(len(labelled), bool)]
    for name, known in groups.items():
        found = [row.get(name) for _, row in labelled]
        values = np.array([value if value in known else UNKNOWN for value in found], object)
        cells += [values == group for group in known]
    confusion = np.zeros((len(cells), len(classes), len(classes)), np.int64)
    for cell, rows in zip(confusion, cells, strict=True):
        np.add.at(cell, (truths[rows], decisions[rows]), 1)
    return Outcomes(groups, confusion, np.array([chances.sum(), (chances**2).sum()]))
