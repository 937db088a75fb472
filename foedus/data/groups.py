"""Sensitive attributes: each record's group, or an explicit "unknown"."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from foedus.columns import Column, TableSection
from foedus.data.cells import Cell, by_canonical, canonical
from foedus.data.tables import read_numbers
from foedus.examples import UNKNOWN
from foedus.site import GroupSection


def read_groups(
    cells: list[Cell], group: GroupSection, table: TableSection | None
) -> tuple[NDArray[np.str_], Counter[str]]:
    """Each record's group, and the values that became "unknown" ("" for an empty cell).

    Bands are numpy.digitize's: a value equal to an edge falls in the upper band. Where the study
    declares the same column, what it calls missing or out of range is unknown here too.
    """
    if group.values:
        return _mapped(cells, group.values)
    declared = [c for c in (table.columns if table else []) if c.name == group.column and c.kind == "number"]
    column = declared[0] if declared else Column(name=group.column, kind="number")
    numbers, _ = read_numbers(cells, column)
    bands = np.array(group.bands, dtype=np.str_)[np.digitize(numbers, group.edges)]
    unknown = np.isnan(numbers)
    lost = Counter(canonical(cells[row]) or "" for row in np.flatnonzero(unknown).tolist())
    return np.where(unknown, UNKNOWN, bands), lost


def _mapped(cells: list[Cell], values: dict[str, str]) -> tuple[NDArray[np.str_], Counter[str]]:
    spelled = by_canonical(values)
    found, lost = list[str](), Counter[str]()
    for cell in cells:
        text = canonical(cell)
        if text in spelled:
            found.append(values[spelled[text]])
        else:
            found.append(UNKNOWN)
            lost[text or ""] += 1
    return np.array(found, dtype=np.str_), lost
