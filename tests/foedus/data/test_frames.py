from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from foedus.data.frames import column_hint, read_frame, require_columns
from foedus.errors import DataError


def test_csv_cells_are_text_and_only_empty_cells_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,flag,note\n007,TRUE,NA\n8,FALSE,\n\n", encoding="utf-8")
    frame = read_frame(path)
    assert frame.columns == {"id": ["007", "8"], "flag": ["TRUE", "FALSE"], "note": ["NA", None]}
    assert frame.names() == ["row 1", "row 2"]


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ";"), ("a.tsv", "\t"), ("a.csv", ",")])
def test_csv_delimiter_is_the_one_in_the_header_and_a_byte_order_mark_is_dropped(
    tmp_path: Path, name: str, delimiter: str
) -> None:
    (tmp_path / name).write_text(f"\ufeffa{delimiter}b\r\n1{delimiter}x\r\n", encoding="utf-8")
    assert read_frame(tmp_path / name).columns == {"a": ["1"], "b": ["x"]}


def test_row_with_too_many_cells_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,2\n1,2,3\n4,5\n", encoding="utf-8")
    frame = read_frame(tmp_path / "a.csv")
    assert frame.columns["a"] == ["1", None, "4"]
    assert frame.bad == {1: "row has another number of cells than the header: 3 for 2"}


def test_latin1_csv_is_refused_with_the_line_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("name,label\nMeier,1\nMüller,0\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"not UTF-8 text: byte 20 \(line 3\) is 0xfc; save it as UTF-8"):
        read_frame(tmp_path / "a.csv")


def test_utf16_csv_without_a_mark_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("a,b\n1,2\n".encode("utf-16-le"))
    with pytest.raises(DataError, match="probably UTF-16; save it as UTF-8"):
        read_frame(tmp_path / "a.csv")


def test_open_quote_is_refused_instead_of_swallowing_the_rest(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('a,b\n1,"x\n2,y\n3,z\n', encoding="utf-8")
    with pytest.raises(DataError, match="not a well-formed CSV near line 4"):
        read_frame(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.csv", b"", "is empty; expected a header"),
        ("a.csv", b"a,b,a\n1,2,3\n", "more than one column named 'a'"),
        ("a.xlsx", b"PK", "save it as CSV"),
        ("a.parquet", b"PAR1 cut off", "not a readable Parquet file"),
    ],
)
def test_unusable_file_is_refused_in_one_sentence(
    tmp_path: Path, name: str, content: bytes, problem: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=problem):
        read_frame(tmp_path / name)


def test_parquet_reads_like_the_csv_of_the_same_table(tmp_path: Path) -> None:
    table = pa.table(
        {"n": [1.0, None, 2.5], "whole": [1, 2, 3], "yes": [True, False, None], "text": ["a", "", None]}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("n,whole,yes,text\n1,1,TRUE,a\n,2,FALSE,\n2.5,3,,\n", encoding="utf-8")
    assert read_frame(tmp_path / "a.parquet") == read_frame(tmp_path / "a.csv")


def test_every_absent_column_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("age,SEX,diagnosis\n1,2,3\n", encoding="utf-8")
    frame = read_frame(tmp_path / "a.csv")
    wanted = [("[data] label", "diagnose"), ("[groups.sex] column", "sex"), ("[data] unit", "age")]
    with pytest.raises(DataError) as caught:
        require_columns(frame, wanted, source="'a.csv'")
    lines = str(caught.value).splitlines()
    assert lines[0] == (
        "[data] label asks for column 'diagnose', which 'a.csv' does not have; did you mean 'diagnosis'?"
    )
    assert lines[1].endswith("did you mean 'SEX'?")
    assert len(lines) == 3


def test_column_hint_shows_at_most_twenty_columns() -> None:
    hint = column_hint("zzz", [f"a{i}" for i in range(300)])
    assert hint.endswith("... (300 in all)")
    assert hint.count(",") == 20
