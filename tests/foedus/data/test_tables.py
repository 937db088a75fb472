import math

import numpy as np
import pandas as pd
import pytest

from foedus.columns import Column, TableSection
from foedus.data.frames import Frame
from foedus.data.tables import build_table, read_categories, read_numbers


def test_number_counts_each_problem_on_its_own() -> None:
    column = Column(name="chol", kind="number", range=(50.0, 600.0), missing=[0, "?"])
    cells = ["200", "0", "0.0", "?", None, " ", "n/a", "nan", "inf", "-inf", "601", "49.9", "50", "600"]
    values, notes = read_numbers(cells, column)
    assert values[[0, -2, -1]].tolist() == [200.0, 50.0, 600.0]
    assert np.isnan(values[1:-2]).all()
    assert notes == {
        "declared missing": 3, "empty": 2, "not a number": 2, "infinite": 2, "out of range": 2,
    }  # fmt: skip


def test_category_keeps_what_was_not_declared_and_counts_it() -> None:
    column = Column(name="slope", kind="category", categories=["1", "2", "TRUE"], missing=[9])
    values, notes = read_categories(["1", "1.0", " 2 ", "True", "3", "9.0", None], column)
    assert values == ["1", "1", "2", "TRUE", "3", None, None]
    assert notes == {"unseen": 1, "declared missing": 1, "empty": 1}


def test_category_declared_with_a_decimal_matches_a_whole_number() -> None:
    assert read_categories(["1"], Column(name="a", kind="category", categories=["1.0"]))[0] == ["1.0"]


@pytest.mark.parametrize("n_rows", [0, 3])
def test_table_has_the_studys_columns_in_its_order_and_types(n_rows: int) -> None:
    frame = Frame({"b": ["x", None, "z"], "a": ["1", "2.5", ""], "other": ["1", "2", "3"]}, 3)
    columns = TableSection(
        columns=[Column(name="a", kind="number"), Column(name="b", kind="category", categories=["x"])]
    )
    table, notes = build_table(frame, np.arange(n_rows), columns)
    assert list(table.columns) == ["a", "b"]
    assert [str(dtype) for dtype in table.dtypes] == ["float64", "object"]
    assert isinstance(table.index, pd.RangeIndex)
    assert list(notes) == ["a", "b"]
    if n_rows:
        assert table["b"].tolist() == ["x", None, "z"]
        assert table["a"].tolist()[:2] == [1.0, 2.5]
        assert math.isnan(table["a"][2])
