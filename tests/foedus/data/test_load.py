import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from foedus.data import examples_of, load_site_data
from foedus.errors import DataError
from foedus.site import SiteConfig
from foedus.study import Study

MakeSite = Callable[[str], SiteConfig]
MakeStudy = Callable[..., Study]
WriteCsv = Callable[..., Path]
TEXT = '[data]\nkind = "text"\npath = "data.csv"\nlabel = "topic"\n'
TABLE = '[data]\nkind = "table"\npath = "data.csv"\nlabel = "ill"\n'
AGE = [{"name": "age", "kind": "number"}]
YES_NO = ["FALSE", "TRUE"]
OPEN = {"mode": "open"}
"""A door without privacy, where the split is drawn within each class."""


def people(n: int = 40) -> list[list[object]]:
    """A header and n rows: age, sex, patient (two rows each), ill, part."""
    rows = [[20 + i, "mf"[i % 2], f"P{i // 2}", str(i % 4 < 2).upper(), "train"] for i in range(n)]
    return [["age", "sex", "patient", "ill", "part"], *rows]


def test_table_is_read_labelled_and_split_by_unit(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, write_csv: WriteCsv
) -> None:
    write_csv(people())
    site = make_site(
        TABLE + 'unit = "patient"\n[groups.sex]\ncolumn = "sex"\nvalues = {m = "male", f = "female"}\n'
    )
    data = load_site_data(tmp_path, site, make_study(YES_NO, AGE, door=OPEN))
    assert data.inputs["age"].tolist() == [float(20 + i) for i in range(40)]
    assert data.labels.tolist() == [int(i % 4 < 2) for i in range(40)]
    assert Counter(data.groups["sex"].tolist()) == {"male": 20, "female": 20}
    assert Counter(data.split.tolist()) == {"train": 24, "validation": 4, "test": 12}
    assert sorted(np.concatenate([data.rows(s) for s in ("train", "validation", "test")])) == list(range(40))
    assert data.quarantined == []


def test_parquet_gives_the_same_labels_units_and_split_as_csv(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, write_csv: WriteCsv
) -> None:
    write_csv(people())
    columns = list(zip(*people()[1:], strict=True))
    table = pa.table(
        {"age": columns[0], "patient": columns[2], "ill": [value == "TRUE" for value in columns[3]]}
    )
    pq.write_table(table, tmp_path / "data.parquet")
    csv_data = load_site_data(tmp_path, make_site(TABLE + 'unit = "patient"\n'), make_study(YES_NO, AGE))
    body = TABLE.replace("data.csv", "data.parquet") + 'unit = "patient"\n'
    parquet_data = load_site_data(tmp_path, make_site(body), make_study(YES_NO, AGE))
    assert parquet_data.inputs.equals(csv_data.inputs)
    assert parquet_data.labels.tolist() == csv_data.labels.tolist()
    assert parquet_data.split.tolist() == csv_data.split.tolist()


def test_bad_texts_are_set_aside_and_named(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, write_csv: WriteCsv
) -> None:
    rows = [[f"story {i}", ["grain", "oil"][i % 2]] for i in range(6)]
    write_csv(
        [["text", "topic"], *rows, ["  ", "oil"], ["story", ""], ["story", "gold"], ["a", "oil", "more"]]
    )
    data = load_site_data(tmp_path, make_site(TEXT), make_study(["grain", "oil"]))
    assert data.inputs == [f"story {i}" for i in range(6)]
    assert [(q.record, q.reason) for q in data.quarantined] == [
        ("row 7", "text is empty"),
        ("row 8", "no label"),
        ("row 9", "label is not a class of the study: 'gold'"),
        ("row 10", "row has another number of cells than the header: 3 for 2"),
    ]
    assert data.quarantined[2].kind == "label is not a class of the study"


def test_nothing_usable_is_refused_with_counts_and_no_value(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, write_csv: WriteCsv
) -> None:
    write_csv([["text", "topic"], ["a", "secret"], ["b", "secret"], ["c", ""]])
    with pytest.raises(DataError, match=r"none of the 3 records of site 'north' can be used") as caught:
        load_site_data(tmp_path, make_site(TEXT), make_study(["grain", "oil"]))
    assert "2: label is not a class of the study; 1: no label" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_empty_site_is_refused(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, write_csv: WriteCsv
) -> None:
    write_csv([["text", "topic"]])
    with pytest.raises(DataError, match="site 'north' has no records"):
        load_site_data(tmp_path, make_site(TEXT), make_study(["grain", "oil"]))


@pytest.mark.parametrize("classes", [["TRUE", "FALSE"], ["FALSE", "TRUE", "perhaps"]])
def test_site_with_one_class_or_without_some_class_takes_part(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, write_csv: WriteCsv, classes: list[str]
) -> None:
    rows = people()
    write_csv([rows[0], *(row for row in rows[1:] if row[3] == "TRUE")])
    data = load_site_data(tmp_path, make_site(TABLE), make_study(classes, AGE))
    assert set(data.labels.tolist()) == {classes.index("TRUE")}


def test_every_absent_column_is_named_at_once(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, write_csv: WriteCsv
) -> None:
    write_csv(people())
    body = (
        TABLE.replace('"ill"', '"Illness"')
        + 'unit = "patients"\n[groups.sex]\ncolumn = "gender"\nvalues = {m = "m"}\n'
    )
    study = make_study(YES_NO, [{"name": "aged", "kind": "number"}])
    with pytest.raises(DataError) as caught:
        load_site_data(tmp_path, make_site(body), study)
    lines = str(caught.value).splitlines()
    assert [line.split(" asks for column ")[0] for line in lines[:-1]] == [
        "site 'north': [data] label", "the study's [[table.columns]]", "[data] unit", "[groups.sex] column",
    ]  # fmt: skip
    assert "'patients', which 'data.csv' does not have; did you mean 'patient'?" in str(caught.value)
    assert "did you mean 'age'?" in str(caught.value)


def test_label_must_be_named_and_must_not_be_an_input(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, write_csv: WriteCsv
) -> None:
    write_csv(people())
    with pytest.raises(
        DataError, match=r"\[data\] label is not set; .*columns: age, sex, patient, ill, part"
    ):
        load_site_data(tmp_path, make_site(TABLE.replace('label = "ill"', "")), make_study(YES_NO, AGE))
    study = make_study(YES_NO, [*AGE, {"name": "ill", "kind": "category", "categories": YES_NO}])
    with pytest.raises(DataError, match="give the answer away"):
        load_site_data(tmp_path, make_site(TABLE), study)


def test_kind_that_does_not_fit_the_study_is_refused(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, write_csv: WriteCsv
) -> None:
    write_csv(people())
    with pytest.raises(DataError, match="kind is \"table\" but the study 'trial' needs what backbone"):
        load_site_data(tmp_path, make_site(TABLE), make_study(YES_NO))
    with pytest.raises(DataError, match="kind is \"text\" but the study 'trial' needs a table"):
        load_site_data(tmp_path, make_site(TEXT), make_study(YES_NO, AGE))


@pytest.mark.parametrize(
    ("path", "problem"),
    [("dat.csv", r"'dat.csv' does not exist; did you mean 'data.csv'\?"), (".", "is a folder; kind = ")],
)
def test_path_that_is_not_there_or_a_folder_is_refused(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, write_csv: WriteCsv, path: str, problem: str
) -> None:
    write_csv(people())
    with pytest.raises(DataError, match=problem):
        load_site_data(tmp_path, make_site(TABLE.replace("data.csv", path)), make_study(YES_NO, AGE))


def declared(parts: dict[int, str]) -> list[list[object]]:
    rows = people()
    return [rows[0], *([*row[:4], parts.get(i, "train")] for i, row in enumerate(rows[1:]))]


def test_declared_split_is_used_and_unknown_names_are_set_aside(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, write_csv: WriteCsv
) -> None:
    write_csv(declared({0: "val", 1: "val", 2: "Test", 3: "test", 4: "dev", 5: ""}))
    data = load_site_data(tmp_path, make_site(TABLE + '[split]\ncolumn = "part"\n'), make_study(YES_NO, AGE))
    assert data.split.tolist()[:4] == ["validation"] * 2 + ["test"] * 2
    assert [q.reason for q in data.quarantined] == [
        "split is not train, validation or test: 'dev'",
        "split is not train, validation or test: ''",
    ]


def test_unit_in_two_declared_splits_is_refused_without_naming_it(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, write_csv: WriteCsv
) -> None:
    write_csv(declared({1: "test", 3: "validation", 4: "test", 5: "test"}))
    site = make_site(TABLE + 'unit = "patient"\n[split]\ncolumn = "part"\n')
    with pytest.raises(DataError, match=r"2 unit\(s\) are in more than one split of column 'part'") as caught:
        load_site_data(tmp_path, site, make_study(YES_NO, AGE))
    assert "P0" not in str(caught.value)


def test_nothing_to_train_on_is_refused(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, write_csv: WriteCsv
) -> None:
    write_csv(declared(dict.fromkeys(range(40), "test")))
    with pytest.raises(DataError, match="has no record to train on among 40"):
        load_site_data(tmp_path, make_site(TABLE + '[split]\ncolumn = "part"\n'), make_study(YES_NO, AGE))


def test_record_without_a_unit_id_is_set_aside(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, write_csv: WriteCsv
) -> None:
    rows = people()
    rows[3][2] = " "
    write_csv(rows)
    data = load_site_data(tmp_path, make_site(TABLE + 'unit = "patient"\n'), make_study(YES_NO, AGE))
    assert [(q.record, q.reason) for q in data.quarantined] == [("row 3", "no unit id")]


def test_copies_of_a_text_share_a_split_and_equal_rows_of_a_table_are_units_of_their_own(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, write_csv: WriteCsv
) -> None:
    write_csv([["text", "topic"], *([f"story {i % 20}", "oil"] for i in range(60))])
    data = load_site_data(tmp_path, make_site(TEXT), make_study(["grain", "oil"]))
    assert data.split.tolist()[:20] == data.split.tolist()[20:40] == data.split.tolist()[40:]
    write_csv([["age", "ill"], *([50, "TRUE"] for _ in range(40))])
    data = load_site_data(tmp_path, make_site(TABLE), make_study(YES_NO, AGE, door=OPEN))
    assert len(set(data.units.tolist())) == 40
    assert Counter(data.split.tolist()) == {"train": 24, "validation": 6, "test": 10}


def test_order_of_rows_does_not_move_a_record_to_another_split(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, write_csv: WriteCsv
) -> None:
    rows = people()
    write_csv(rows)
    first = load_site_data(tmp_path, make_site(TABLE), make_study(YES_NO, AGE))
    write_csv([rows[0], *reversed(rows[1:])])
    second = load_site_data(tmp_path, make_site(TABLE), make_study(YES_NO, AGE))
    assert second.split.tolist() == first.split.tolist()[::-1]


def test_digest_is_the_same_in_another_folder_and_for_what_does_not_matter(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, write_csv: WriteCsv
) -> None:
    write_csv(people())
    study = make_study(YES_NO, AGE)
    digest = load_site_data(tmp_path, make_site(TABLE), study).digest
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(tmp_path / "data.csv", copy)
    assert load_site_data(copy, make_site(TABLE + '[policy]\ndoors = ["open"]\n'), study).digest == digest
    other = make_study(YES_NO, AGE, federation={"rounds": 3})
    assert load_site_data(tmp_path, make_site(TABLE), other).digest == digest


@pytest.mark.parametrize(
    "change",
    ["site: unit", "site: seed", "site: groups", "classes", "table", "file"],
)
def test_digest_changes_with_data_and_with_how_they_are_read(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, write_csv: WriteCsv, change: str
) -> None:
    write_csv(people())
    before = load_site_data(tmp_path, make_site(TABLE), make_study(YES_NO, AGE)).digest
    body = {
        "site: unit": 'unit = "patient"\n',
        "site: seed": "[split]\nseed = 1\n",
        "site: groups": '[groups.sex]\ncolumn = "sex"\nvalues = {m = "m"}\n',
    }.get(change, "")
    classes = [*YES_NO, "perhaps"] if change == "classes" else YES_NO
    columns = [AGE[0] | {"range": [0, 200]}] if change == "table" else AGE
    if change == "file":
        write_csv([*people(), [33, "m", "P99", "TRUE", "train"]])
    assert load_site_data(tmp_path, make_site(TABLE + body), make_study(classes, columns)).digest != before


def test_notes_count_problems_of_each_column(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, write_csv: WriteCsv
) -> None:
    write_csv(people())
    columns = [
        {"name": "age", "kind": "number", "range": [25, 100]},
        {"name": "sex", "kind": "category", "categories": ["m"]},
    ]
    data = load_site_data(tmp_path, make_site(TABLE), make_study(YES_NO, columns))
    assert data.notes == {"age": {"out of range": 5}, "sex": {"unseen": 20}}


def test_examples_of_takes_the_rows_of_one_split(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, write_csv: WriteCsv
) -> None:
    write_csv(people())
    site = make_site(TABLE + '[groups.sex]\ncolumn = "sex"\nvalues = {m = "male"}\n')
    data = load_site_data(tmp_path, site, make_study(YES_NO, AGE))
    examples = examples_of(data, "test", data.inputs.to_numpy())
    rows = data.rows("test")
    assert examples.features[:, 0].tolist() == [float(20 + row) for row in rows]
    assert examples.features.dtype == np.float32
    assert examples.labels.tolist() == data.labels[rows].tolist()
    assert examples.groups["sex"].tolist() == data.groups["sex"][rows].tolist()
    with pytest.raises(ValueError, match="3 feature rows for 40 records"):
        examples_of(data, "test", np.zeros((3, 1)))


def test_importing_the_package_is_cheap() -> None:
    heavy = ["torch", "timm", "transformers", "pandas", "PIL", "pyarrow"]
    code = f"import sys, foedus.data; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
