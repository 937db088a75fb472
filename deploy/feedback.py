"""Reviewed predictions as new labelled data at the site: in quarantine until a second person has checked them.

The journal holds no inputs, so the review brings them: a CSV with id, label, reviewer, and whatever columns
site.toml reads (a text, a table's columns, the path of an image). Nothing leaves the site.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from foedus import files
from foedus.errors import DataError

QUARANTINE_FILE, ACCEPTED_FILE, REJECTED_FILE = "quarantine.csv", "accepted.csv", "rejected.csv"
ASKED = ("id", "label", "reviewer")
NOTED = ("said", "version", "predicted_at", "reviewed_at")
CHECKED = ("checked_by", "checked_at")
Row = dict[str, str]


@dataclass(frozen=True)
class Taken:
    """What came of a review.

    Attributes:
        added: Records now in quarantine.
        corrected: Of these, those where the reviewer says otherwise than the service.
        known: Left out: in quarantine, accepted or rejected before.
        unknown: Left out: the service never answered an id like that.
    """

    added: int
    corrected: int
    known: int
    unknown: int


def take(
    reviews: Path, predictions: Sequence[Mapping[str, Any]], folder: Path, *, classes: Sequence[str]
) -> Taken:
    """Put reviewed records into quarantine.

    Args:
        reviews: CSV with id, label, reviewer and the inputs.
        predictions: Lines of the service's journal.
        folder: Where the three files of feedback lie.
        classes: What a label may be; one more than the model knows is named with it.

    Raises:
        DataError: If the file lacks a column or a value, an id is there twice, or a label is no class.
    """
    rows = _read(reviews)
    if not rows:
        raise DataError(f"{reviews} has no row")
    _check(rows, reviews, classes)
    said = {str(line["id"]): line for line in predictions}
    seen = {
        row["id"] for name in (QUARANTINE_FILE, ACCEPTED_FILE, REJECTED_FILE) for row in _read(folder / name)
    }
    fresh = [row for row in rows if row["id"] in said and row["id"] not in seen]
    now = datetime.now(UTC).isoformat(timespec="seconds")
    noted = [{**row, **dict(zip(NOTED, (*_said(said[row["id"]]), now), strict=True))} for row in fresh]
    if noted:
        _write(folder / QUARANTINE_FILE, [*_read(folder / QUARANTINE_FILE), *noted])
    return Taken(
        added=len(noted),
        corrected=sum(row["label"] != row["said"] for row in noted),
        known=sum(row["id"] in seen for row in rows),
        unknown=sum(row["id"] not in said and row["id"] not in seen for row in rows),
    )


def check(folder: Path, *, by: str, ids: Sequence[str] | None, accept: bool) -> int:
    """Take records out of quarantine: into accepted.csv, which a site.toml can read, or rejected.csv.

    Args:
        folder: Of the feedback.
        by: Who checked; somebody else than the reviewer.
        ids: Which; all when None.
        accept: Whether they are good.

    Returns:
        How many.

    Raises:
        DataError: If an id is not in quarantine, or who checks is who reviewed.
    """
    waiting = _read(folder / QUARANTINE_FILE)
    chosen = {row["id"] for row in waiting} if ids is None else set(ids)
    if lacking := sorted(chosen - {row["id"] for row in waiting}):
        raise DataError(f"'{lacking[0]}' is not in {folder / QUARANTINE_FILE}")
    taken = [row for row in waiting if row["id"] in chosen]
    if not by.strip() or any(row["reviewer"] == by for row in taken):
        raise DataError(f"'{by}' reviewed some of these; somebody else has to check them")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    done = [{**row, **dict(zip(CHECKED, (by, now), strict=True))} for row in taken]
    target = folder / (ACCEPTED_FILE if accept else REJECTED_FILE)
    before = [row for row in _read(target) if row["id"] not in chosen]
    if done:  # first where they go: a crash in between leaves them in both, and the next check mends it
        _write(target, [*before, *done])
        _write(folder / QUARANTINE_FILE, [row for row in waiting if row["id"] not in chosen])
    return len(done)


def counts(folder: Path) -> dict[str, int]:
    """Records in each file."""
    names = {"quarantine": QUARANTINE_FILE, "accepted": ACCEPTED_FILE, "rejected": REJECTED_FILE}
    return {name: len(_read(folder / file)) for name, file in names.items()}


def _check(rows: Sequence[Row], path: Path, classes: Sequence[str]) -> None:
    columns = list(rows[0])
    if lacking := [name for name in ASKED if name not in columns]:
        raise DataError(
            f"{path} has no column {', '.join(lacking)}; a review has {', '.join(ASKED)} and the inputs"
        )
    if reserved := [name for name in (*NOTED, *CHECKED) if name in columns]:
        raise DataError(f"{path} has a column {reserved[0]}, which Foedus writes; rename it")
    ids = [row["id"] for row in rows]
    if len(set(ids)) < len(ids):
        raise DataError(f"{path} has an id twice; two opinions on one record are for people to settle first")
    for number, row in enumerate(rows, start=1):
        if any(not row[name].strip() for name in ASKED):
            raise DataError(f"{path}: row {number} has an empty {' or '.join(ASKED)}")
        if row["label"] not in classes:
            raise DataError(
                f"{path}: row {number} has a label that is no class; {', '.join(classes)} are (--classes adds one)"
            )


def _said(line: Mapping[str, Any]) -> tuple[str, str, str]:
    return str(line["label"]), str(line["version"]), str(line["time"])


def _read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8-sig") as file:
        return [{key: value or "" for key, value in row.items() if key} for row in csv.DictReader(file)]


def _write(path: Path, rows: Sequence[Row]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row)) or list(ASKED)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    files.write_bytes(path, text.getvalue().encode(), mode=0o600)
