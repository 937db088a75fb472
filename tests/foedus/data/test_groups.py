import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from foedus.columns import Column, TableSection
from foedus.data.groups import read_groups
from foedus.site import GroupSection

AGE = GroupSection(column="age", edges=[40.0, 65.0], bands=["young", "middle", "old"])


def test_values_not_listed_become_unknown_and_are_counted() -> None:
    sex = GroupSection(column="sex", values={"0": "female", "1": "male", "x": "other"})
    groups, lost = read_groups(["0", "1.0", " x ", "2", "2", None], sex, None)
    assert groups.tolist() == ["female", "male", "other", "unknown", "unknown", "unknown"]
    assert lost == {"2": 2, "": 1}


def test_value_equal_to_an_edge_falls_in_the_upper_band() -> None:
    cells = ["39.9", "40", "64", "65", "-5", "sixty", None, "inf", "nan"]
    groups, lost = read_groups(cells, AGE, None)
    assert groups.tolist() == ["young", "middle", "middle", "old", "young"] + ["unknown"] * 4
    assert lost == {"sixty": 1, "": 1, "inf": 1, "nan": 1}


def test_what_the_study_calls_missing_or_out_of_range_is_unknown() -> None:
    column = Column(name="age", kind="number", range=(18.0, 110.0), missing=[99])
    groups, _ = read_groups(["-9", "99", "50"], AGE, TableSection(columns=[column]))
    assert groups.tolist() == ["unknown", "unknown", "middle"]


@given(st.lists(st.floats(-1e6, 1e6), max_size=50))
def test_bands_are_those_of_digitize(ages: list[float]) -> None:
    groups, lost = read_groups([repr(age) for age in ages], AGE, None)
    assert groups.tolist() == [AGE.bands[i] for i in np.digitize(ages, AGE.edges)]
    assert not lost


def test_no_record_at_all_is_no_error() -> None:
    assert read_groups([], AGE, None)[0].tolist() == []
