"""The counts of a site's data, without a federation."""

from collections import Counter

import numpy as np
import pytest

from foedus.data.quality import CELLS, OTHER, REASONS, SET_ASIDE, USABLE, DataQuality
from foedus.data.tables import EMPTY, OUT_OF_RANGE
from foedus.errors import ConfigError
from foedus.examples import Examples
from foedus.statistic import add
from foedus.sums import check, lacking


def census(n: int, set_aside: dict[str, int], cells: dict[str, Counter[str]]) -> Examples:
    return Examples(
        np.empty((n, 0), np.float32), np.zeros(n, np.int64), {}, None, None, None, Counter(set_aside), cells
    )


def test_what_is_read_is_the_sum_and_no_text_of_a_record() -> None:
    asked = DataQuality.from_wire(DataQuality(["age"]).settings(), {})
    one = asked.measure(census(9, {"no label": 2}, {"age": Counter({EMPTY: 1})}))
    other = asked.measure(
        census(
            7, {"no label": 1, "image file cannot be opened (Jane)": 3}, {"age": Counter({OUT_OF_RANGE: 4})}
        )
    )
    for arrays in (one, other):
        check(arrays, asked.declare())
    assert asked.read(add(one, other)) == {
        "usable": 16,
        "set_aside": {"no label": 3, OTHER: 3},
        "columns": {"age": {EMPTY: 1, OUT_OF_RANGE: 4}},
    }


def test_images_and_texts_have_no_columns() -> None:
    asked = DataQuality([])
    found = asked.measure(census(6, {"text is empty": 1}, {}))
    assert set(found) == set(asked.declare()) == {USABLE, SET_ASIDE}
    assert found[SET_ASIDE][REASONS.index("text is empty")] == 1
    assert asked.read(found)["columns"] == {}
    with pytest.raises(ConfigError, match="the columns are not those of the study"):
        DataQuality(["age"]).measure(census(6, {}, {}))


def test_a_total_needs_usable_records_behind_it() -> None:
    asked = DataQuality(["age"])
    for n, fewest in ((0, 0), (4, 5), (5, 0)):
        assert lacking({USABLE: np.array([n]), CELLS: np.zeros((1, 6))}, asked.declare()) == fewest
