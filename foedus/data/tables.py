"""The study's columns at one site: numbers and categories, with every cell that does not fit counted."""

import math
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from foedus.columns import Column, TableSection
from foedus.data.cells import Cell, by_canonical, canonical, cell_text, number
from foedus.data.frames import Frame

if TYPE_CHECKING:
    import pandas as pd

EMPTY = "empty"
DECLARED_MISSING = "declared missing"
NOT_A_NUMBER = "not a number"
INFINITE = "infinite"
OUT_OF_RANGE = "out of range"
UNSEEN = "unseen"
PROBLEMS = (EMPTY, DECLARED_MISSING, NOT_A_NUMBER, INFINITE, OUT_OF_RANGE, UNSEEN)
"""Of a column, as they are counted in SiteData.notes. All but UNSEEN read as missing."""


def build_table(
    frame: Frame, rows: NDArray[np.int64], table: TableSection
) -> tuple["pd.DataFrame", dict[str, Counter[str]]]:
    """The study's columns at `rows`, and each column's problems.

    Returns:
        The frame (number: float64, NaN where missing; category: object, str or None), and column
        name to problem to count, columns without a problem included.
    """
    import pandas as pd

    values: dict[str, pd.Series] = {}
    notes: dict[str, Counter[str]] = {}
    for column in table.columns:
        cells = frame.columns[column.name]
        chosen = [cells[row] for row in rows.tolist()]
        if column.kind == "number":
            numbers, notes[column.name] = read_numbers(chosen, column)
            values[column.name] = pd.Series(numbers, dtype=np.float64)
        else:
            names, notes[column.name] = read_categories(chosen, column)
            values[column.name] = pd.Series(names, dtype=object)
    return pd.DataFrame(values), notes


def read_numbers(cells: list[Cell], column: Column) -> tuple[NDArray[np.float64], Counter[str]]:
    """(n,) numbers, NaN where a cell is missing, unreadable, infinite or out of range; and the counts."""
    absent = {canonical(cell_text(value)) for value in column.missing}
    absent_numbers = {number(text) for text in absent} - {None}
    low, high = column.range or (-math.inf, math.inf)
    values, notes = np.full(len(cells), np.nan), Counter[str]()
    for row, cell in enumerate(cells):
        text = canonical(cell)
        value = number(text)
        if text is None:
            notes[EMPTY] += 1
        elif text in absent or (value is not None and value in absent_numbers):
            notes[DECLARED_MISSING] += 1
        elif value is None:
            notes[NOT_A_NUMBER] += 1
        elif math.isinf(value):
            notes[INFINITE] += 1
        elif not low <= value <= high:
            notes[OUT_OF_RANGE] += 1
        else:
            values[row] = value
    return values, notes


def read_categories(cells: list[Cell], column: Column) -> tuple[list[Cell], Counter[str]]:
    """Categories as the study spells them, None where missing, others as they are; and the counts."""
    absent = {canonical(cell_text(value)) for value in column.missing}
    known = by_canonical(column.categories)
    values, notes = list[Cell](), Counter[str]()
    for cell in cells:
        text = canonical(cell)
        if text is None or text in absent:
            notes[EMPTY if text is None else DECLARED_MISSING] += 1
            values.append(None)
        elif text in known:
            values.append(known[text])
        else:
            notes[UNSEEN] += 1
            values.append(text)
    return values, notes
