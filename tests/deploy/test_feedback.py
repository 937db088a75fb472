"""Reviewed predictions wait in quarantine until somebody else has checked them."""

import csv
from pathlib import Path
from typing import Any

import pytest

from deploy.feedback import check, counts, take
from foedus.errors import DataError

SAID: list[dict[str, Any]] = [
    {"id": f"r{i}", "label": "no", "version": "1", "time": "2026-11-21T10:00:00+00:00"} for i in range(4)
]
CLASSES = ["no", "yes"]


def review(path: Path, *rows: tuple[str, str, str, str]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("id", "label", "reviewer", "a"), *rows])
    return path


def test_from_review_to_data_that_a_site_reads(tmp_path: Path) -> None:
    rows = [("r0", "yes", "jane", "1.5"), ("r1", "no", "jane", "2"), ("x", "no", "jane", "3")]
    file, folder = review(tmp_path / "r.csv", *rows), tmp_path / "feedback"
    first = take(file, SAID, folder, classes=CLASSES)
    assert (first.added, first.corrected, first.known, first.unknown) == (2, 1, 0, 1)
    again = take(file, SAID, folder, classes=CLASSES)
    assert (again.added, again.known, again.unknown) == (0, 2, 1)
    assert not (folder / "accepted.csv").exists()
    with pytest.raises(DataError, match="somebody else has to check"):
        check(folder, by="jane", ids=None, accept=True)
    assert check(folder, by="maria", ids=["r0"], accept=True) == 1
    assert check(folder, by="maria", ids=None, accept=False) == 1
    assert counts(folder) == {"quarantine": 0, "accepted": 1, "rejected": 1}
    with (folder / "accepted.csv").open(newline="") as accepted:
        [row] = list(csv.DictReader(accepted))
    assert (row["a"], row["label"], row["said"], row["checked_by"]) == ("1.5", "yes", "no", "maria")
    assert take(file, SAID, folder, classes=CLASSES).added == 0
    with pytest.raises(DataError, match="'r0' is not in"):
        check(folder, by="maria", ids=["r0"], accept=True)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([("r0", "maybe", "jane", "1")], "row 1 has a label that is no class"),
        ([("r0", "no", "", "1")], "row 1 has an empty id or label or reviewer"),
        ([("r0", "no", "jane", "1"), ("r0", "yes", "kim", "1")], "an id twice"),
        ([], "has no row"),
    ],
)
def test_a_review_that_cannot_be_used_changes_nothing(
    tmp_path: Path, rows: list[tuple[str, str, str, str]], reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        take(review(tmp_path / "r.csv", *rows), SAID, tmp_path / "feedback", classes=CLASSES)
    assert not (tmp_path / "feedback").exists()


def test_columns_that_are_missing_or_taken_are_named(tmp_path: Path) -> None:
    file = tmp_path / "r.csv"
    file.write_text("id,label\nr0,no\n")
    with pytest.raises(DataError, match="no column reviewer"):
        take(file, SAID, tmp_path / "feedback", classes=CLASSES)
    file.write_text("id,label,reviewer,said\nr0,no,jane,yes\n")
    with pytest.raises(DataError, match="which Foedus writes"):
        take(file, SAID, tmp_path / "feedback", classes=CLASSES)


def test_a_class_the_model_does_not_know_can_be_named(tmp_path: Path) -> None:
    file = review(tmp_path / "r.csv", ("r0", "unclear", "jane", "1"))
    assert take(file, SAID, tmp_path / "feedback", classes=[*CLASSES, "unclear"]).added == 1
