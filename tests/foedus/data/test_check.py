import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from foedus.data import CheckReport, check_site
from foedus.site import SiteConfig
from foedus.study import Study

MakeSite = Callable[[str], SiteConfig]
MakeStudy = Callable[..., Study]
WriteCsv = Callable[..., Path]
SavePng = Callable[..., Path]
TEXT = '[data]\nkind = "text"\npath = "data.csv"\nlabel = "topic"\n'
TABLE = '[data]\nkind = "table"\npath = "data.csv"\nlabel = "ill"\nunit = "patient"\n'
AGE = [{"name": "age", "kind": "number", "range": [18, 110]}]


def lines(report: CheckReport, check: str) -> list[tuple[str, str]]:
    return [(row.found, row.status) for row in report.rows if row.check == check]


def stories(n: int = 40) -> list[list[object]]:
    return [["text", "topic"], *([f"story {i}", ["grain", "oil"][i % 2]] for i in range(n))]


def test_good_site_has_only_ok_lines(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, write_csv: WriteCsv
) -> None:
    write_csv(stories())
    make_site(TEXT)
    report = check_site(tmp_path, make_study(["grain", "oil"]))
    assert report.ok
    assert [row.check for row in report.rows] == [
        "site file", "records", "classes", "duplicates", "leakage", "split", "policy",
    ]  # fmt: skip
    assert {row.status for row in report.rows} == {"ok"}
    assert lines(report, "classes") == [("grain 20, oil 20", "ok")]
    assert lines(report, "split") == [("train 18, validation 7, test 15", "ok")]  # a private study's split
    assert json.loads(json.dumps(report.to_dict()))["ok"] is True


def test_without_a_study_classes_and_columns_come_from_the_data(
    tmp_path: Path, make_site: MakeSite, write_csv: WriteCsv
) -> None:
    write_csv(
        [["age", "patient", "ill"], *([20 + i, f"P{i}", "yn"[i % 2]] for i in range(19)), ["", "P9", "y"]]
    )
    make_site(TABLE)
    report = check_site(tmp_path)
    assert report.ok
    assert lines(report, "classes") == [("n 9, y 11", "ok")]
    assert lines(report, "column age") == [("1 empty of 20", "ok")]
    assert lines(report, "records") == [("20 usable of 20, of 19 units", "ok")]


def test_every_warning_says_how_to_fix_it(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, write_csv: WriteCsv
) -> None:
    rows = [[30 + i % 40, f"P{i}", "healthy", "m"] for i in range(40)]
    rows += [
        [500, "P90", "healthy", "?"],
        ["x", "P91", "healthy", ""],
        [30, "P92", "dead", "m"],
        [30, "", "healthy", "m"],
    ]
    rows += [[30, "P93", "healthy", "m"]]
    write_csv([["age", "patient", "ill", "sex"], *rows])
    make_site(TABLE + '[groups.sex]\ncolumn = "sex"\nvalues = {m = "male"}\n')
    report = check_site(tmp_path, make_study(["healthy", "disease"], AGE))
    assert report.ok
    assert lines(report, "set aside") == [
        ("1: label is not a class of the study: 'dead' (row 43)", "warn"),
        ("1: no unit id (row 44)", "warn"),
    ]
    assert lines(report, "classes") == [("only one: healthy 43", "warn"), ("none of disease", "warn")]
    assert lines(report, "group sex") == [("male 41, unknown 2 (unknown: '?' 1, empty 1)", "warn")]
    assert lines(report, "column age") == [("1 out of range, 1 not a number of 43", "warn")]
    assert lines(report, "duplicates") == [("1 rows are copies of another", "warn")]
    assert all(row.how_to_fix for row in report.rows if row.status != "ok")
    assert [record["record"] for record in report.to_dict()["quarantined"]] == ["row 43", "row 44"]


def test_column_without_a_usable_value_is_a_warning(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, write_csv: WriteCsv
) -> None:
    write_csv([["age", "patient", "ill"], *(["", f"P{i}", "yn"[i % 2]] for i in range(20))])
    make_site(TABLE)
    report = check_site(tmp_path, make_study(["y", "n"], AGE))
    assert lines(report, "column age") == [("no usable value: 20 empty", "warn")]


def test_units_on_two_sides_fail_and_are_named_here(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, write_csv: WriteCsv
) -> None:
    rows = [[20 + i, f"P{i // 2}", "yn"[i // 2 % 2], "test" if i % 5 == 0 else "train"] for i in range(20)]
    write_csv([["age", "patient", "ill", "part"], *rows])
    make_site(TABLE + '[split]\ncolumn = "part"\n')
    report = check_site(tmp_path, make_study(["y", "n"], AGE))
    assert not report.ok
    assert lines(report, "leakage") == [("4 units in more than one split: P0, P2, P5, P7", "fail")]


def test_copies_across_declared_splits_and_with_other_labels_are_warnings(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, write_csv: WriteCsv
) -> None:
    rows = [[*row, "train" if i % 2 else "test"] for i, row in enumerate(stories(10)[1:])]
    write_csv(
        [["text", "topic", "part"], *rows, ["story 0", "grain", "train"], ["story 1", "grain", "train"]]
    )
    make_site(TEXT + '[split]\ncolumn = "part"\n')
    report = check_site(tmp_path, make_study(["grain", "oil"]))
    assert report.ok
    assert lines(report, "duplicates") == [
        ("2 texts are copies of another", "warn"),
        ("1 of the copied texts carry different labels", "warn"),
    ]
    assert lines(report, "leakage") == [("1 records have a copy in another split", "warn")]
    assert lines(report, "split") == [
        ("train 7, validation 0, test 5", "warn"),
        ("no test record of oil", "warn"),
    ]


def test_copies_of_an_image_within_an_npz_are_a_warning_not_a_refusal(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 4, 4), dtype=np.uint8)
    images[8] = images[0]
    labels = np.arange(9).reshape(9, 1) % 2
    parts = {"train": slice(0, 4), "val": slice(4, 6), "test": slice(6, 9)}
    arrays = {f"{k}_images": images[s] for k, s in parts.items()} | {
        f"{k}_labels": labels[s] for k, s in parts.items()
    }
    np.savez(tmp_path / "set.npz", **arrays)
    make_site('[data]\nkind = "images"\npath = "set.npz"\n')
    report = check_site(tmp_path, make_study(["0", "1"]))
    assert report.ok
    assert lines(report, "leakage") == [("1 records have a copy in another split", "warn")]


def test_unreadable_images_are_counted_and_named(
    tmp_path: Path, make_site: MakeSite, save_png: SavePng
) -> None:
    for i in range(8):
        save_png(f"scans/{'ab'[i % 2]}/{i}.png", i)
    for name in ("a/0.png", "b/1.png"):
        path = tmp_path / "scans" / name
        path.write_bytes(path.read_bytes()[:60])
    make_site('[data]\nkind = "images"\npath = "scans"\n')
    report = check_site(tmp_path)
    assert report.ok
    assert lines(report, "set aside") == [("2: image is damaged or cut off (a/0.png, b/1.png)", "warn")]


def test_nothing_usable_fails_with_the_reasons_below(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, write_csv: WriteCsv
) -> None:
    write_csv(stories(6))
    make_site(TEXT)
    report = check_site(tmp_path, make_study(["gold", "silver"]))
    assert not report.ok
    assert lines(report, "records")[0][1] == "fail"
    assert len(lines(report, "set aside")) == 2


def test_broken_site_file_is_a_failed_line(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('[site]\nname = "north"\n[data]\nkind = "txt"\n', encoding="utf-8")
    report = check_site(tmp_path)
    assert not report.ok
    assert report.site == tmp_path.name
    assert "data.kind" in report.rows[0].found
    assert "data.path: is missing; add it" in report.rows[0].found


@pytest.mark.parametrize(
    "content", [b"text,topic\nM\xfcller,oil\n", b"", b"text\nhello\n", b'text,topic\n"a,oil\n']
)
def test_broken_data_are_a_failed_line_never_an_exception(
    tmp_path: Path, make_site: MakeSite, content: bytes
) -> None:
    (tmp_path / "data.csv").write_bytes(content)
    make_site(TEXT)
    report = check_site(tmp_path)
    assert not report.ok
    assert [row.check for row in report.rows] == ["site file", "data", "policy"]


def test_door_and_study_the_site_does_not_allow_fail(
    tmp_path: Path, make_site: MakeSite, make_study: MakeStudy, write_csv: WriteCsv
) -> None:
    write_csv(stories())
    make_site(TEXT + '[policy]\ndoors = ["secure-only"]\nstudies = ["other"]\n')
    report = check_site(tmp_path, make_study(["grain", "oil"], door={"mode": "open"}))
    assert lines(report, "policy") == [("doors: secure-only; studies: other; own figures stay here", "ok")]
    assert lines(report, "policy: door") == [("the study asks for open", "fail")]
    assert lines(report, "policy: study") == [("'trial' is not allowed here", "fail")]
