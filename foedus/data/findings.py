"""Each thing that is looked at in a site's data, as (check, found, status, how to fix)."""

from collections import Counter
from collections.abc import Iterator
from typing import Literal

import numpy as np

from foedus.data import tables
from foedus.data.cells import quoted
from foedus.data.images import TOO_LARGE
from foedus.data.load import Survey, refusal
from foedus.data.split import units_on_two_sides
from foedus.examples import UNKNOWN
from foedus.labels import alike, several
from foedus.labels import counts as class_counts
from foedus.site import SiteConfig
from foedus.study import SPLITS

Finding = tuple[str, str, Literal["ok", "warn", "fail"], str]

SHOWN = 5
"""How many names or values a line shows."""

REASON_FIX = {
    "no label": "fill in the label, or leave the record out",
    "label is not a class of the study": "map the value to a class in [data.labels]; or leave it out",
    "split is not train, validation or test": "write one of the three, or remove [split] column",
    "no unit id": "fill in the id: without it the record could be on both sides of the split",
    "text is empty": "fill in the text, or leave the record out",
    "image file does not exist": "copy the file, or correct the path (relative to the manifest)",
    "image path leads outside the site's folder": "copy the file into the site's folder",
    "image path is empty": "fill in the path, or leave the record out",
    "link to a folder, which is not followed": "copy the folder itself to where the link is",
    "image is in no class folder": "move it into the folder of its class",
    "image is damaged or cut off": "export the image again from where it came from",
    TOO_LARGE: "make the image smaller",
    "image holds no finite value": "export the image again from where it came from",
    "not an image of a format that is read": "save it as PNG, JPEG, TIFF or DICOM, or move it elsewhere",
    "DICOM file holds no image": "leave out reports, plans and the like; if it is an image, copy it again",
    "DICOM compression is not read": "export it uncompressed, or as RLE, JPEG or JPEG 2000",
    "DICOM colours are not read": "export it as RGB or greyscale",
    "row has another number of cells than the header": "put cells that hold the delimiter in quotes",
}
COLUMN_FIX = {
    tables.NOT_A_NUMBER: "write numbers with a decimal point, or list the value under the column's missing",
    tables.INFINITE: "write a finite number or leave the cell empty",
    tables.OUT_OF_RANGE: "check the unit (e.g. mg/dl or mmol/l), or widen the column's range in the study",
    tables.UNSEEN: "use the study's spelling, or ask for the category to be declared",
}


def of_survey(found: Survey, site: SiteConfig, *, has_study: bool) -> Iterator[Finding]:
    """All lines on a site's data, in the order of reading."""
    yield _records(found, site)
    yield from _quarantined(found)
    if len(found.data) == 0:
        return
    yield from _classes(found, has_study=has_study)
    yield from _groups(found)
    yield from _columns(found)
    yield from _duplicates(found, site)
    yield from _leakage(found, site)
    yield from _splits(found)


def _records(found: Survey, site: SiteConfig) -> Finding:
    counted = f"{len(found.data)} usable of {found.n_records}"
    if site.data.unit is not None:
        counted += f", of {len(set(found.data.units.tolist()))} units"
    problem = None if found.torn else refusal(found, site)
    if problem is not None:
        return "records", problem, "fail", "correct what is named below and check again"
    return "records", counted, "ok", ""


def _quarantined(found: Survey) -> Iterator[Finding]:
    reasons = Counter(record.reason for record in found.data.quarantined)
    named: dict[str, list[str]] = {}
    kinds: dict[str, str] = {}
    for record in found.data.quarantined:
        named.setdefault(record.reason, []).append(record.record)
        kinds[record.reason] = record.kind
    for reason, count in reasons.most_common(4 * SHOWN):
        fix = REASON_FIX.get(kinds[reason], "correct the record, or leave it out")
        yield "set aside", f"{count}: {reason} ({_first(named[reason])})", "warn", fix
    if len(reasons) > 4 * SHOWN:
        rest = sum(reasons.values()) - sum(count for _, count in reasons.most_common(4 * SHOWN))
        yield "set aside", f"{rest} for {len(reasons) - 4 * SHOWN} other reasons", "warn", "see --json"


def _classes(found: Survey, *, has_study: bool) -> Iterator[Finding]:
    labels = found.data.labels
    counts = class_counts(labels, len(found.classes)).tolist()
    listed = ", ".join(f"{name} {count}" for name, count in zip(found.classes, counts, strict=True) if count)
    present = sum(count > 0 for count in counts)
    if several(labels):
        yield "labels", f"{listed or 'none'}; without any {int((~labels.any(axis=1)).sum())}", "ok", ""
    elif present == 1:
        fix = "the site can take part, but cannot measure a model by itself; check [data.labels]"
        yield "classes", f"only one: {listed}", "warn", fix
    else:
        yield "classes", listed, "ok", ""
    absent = [name for name, count in zip(found.classes, counts, strict=True) if not count]
    if absent and has_study:
        fix = "nothing, if the site has no such case; else check the spelling or [data.labels]"
        yield "classes", f"none of {_first(absent)}", "warn", fix


def _groups(found: Survey) -> Iterator[Finding]:
    for name, values in found.data.groups.items():
        counts = Counter(values.tolist())
        listed = ", ".join(f"{group} {counts[group]}" for group in sorted(counts))
        lost = found.lost[name]
        if counts[UNKNOWN] == 0 or not lost:
            yield f"group {name}", listed, "ok", ""
            continue
        worst = ", ".join(
            f"{quoted(value) if value else 'empty'} {count}" for value, count in lost.most_common(SHOWN)
        )
        fix = f"map the value in [groups.{name}] or fill in the cell; unknown is shown as a group of its own"
        yield f"group {name}", f"{listed} (unknown: {worst})", "warn", fix


def _columns(found: Survey) -> Iterator[Finding]:
    n = len(found.data)
    for name, notes in found.data.notes.items():
        listed = ", ".join(f"{count} {problem}" for problem, count in notes.most_common())
        wrong = [problem for problem in COLUMN_FIX if notes[problem]]
        if sum(count for problem, count in notes.items() if problem != tables.UNSEEN) == n:
            fix = "the model sees only 'missing' here; check the column"
            yield f"column {name}", f"no usable value: {listed}", "warn", fix
        elif wrong:
            fix = "; ".join(COLUMN_FIX[problem] for problem in wrong)
            yield f"column {name}", f"{listed} of {n}", "warn", fix
        else:
            yield f"column {name}", f"{listed} of {n}" if listed else "complete", "ok", ""


def _duplicates(found: Survey, site: SiteConfig) -> Iterator[Finding]:
    contents = found.contents.tolist()
    copies = len(contents) - len(set(contents))
    what = {"images": "images", "text": "texts", "table": "rows"}[site.data.kind]
    if copies == 0:
        yield "duplicates", "none", "ok", ""
        return
    fix = "remove the copies, unless they are different people with equal values"
    yield "duplicates", f"{copies} {what} are copies of another", "warn", fix
    labels: dict[str, set[int]] = {}
    for content, label in zip(contents, alike(found.data.labels).tolist(), strict=True):
        labels.setdefault(content, set()).add(label)
    torn = sum(len(found_labels) > 1 for found_labels in labels.values())
    if torn:
        fix = "decide which label is right and remove the other copy"
        yield "duplicates", f"{torn} of the copied {what} carry different labels", "warn", fix


def _leakage(found: Survey, site: SiteConfig) -> Iterator[Finding]:
    if found.torn:
        fix = "put each unit in one split, or remove [split] column and let Foedus draw it by unit"
        yield "leakage", f"{len(found.torn)} units in more than one split: {_first(found.torn)}", "fail", fix
    copied = len(units_on_two_sides(found.contents, found.data.split))
    if copied:
        fix = "remove the copies, or give both copies the same unit id"
        yield "leakage", f"{copied} records have a copy in another split", "warn", fix
    if not found.torn and not copied:
        by = f"by '{site.data.unit}'" if site.data.unit else "by record"
        yield "leakage", f"none between splits, {by}", "ok", ""


def _splits(found: Survey) -> Iterator[Finding]:
    data = found.data
    counts = {split: len(data.rows(split)) for split in SPLITS}
    listed = ", ".join(f"{split} {count}" for split, count in counts.items())
    empty = [split for split, count in counts.items() if count == 0]
    fix = "raise its share in [split], or add records" if empty else ""
    yield "split", listed, "warn" if empty else "ok", fix
    n_each, tested = (
        class_counts(part, len(found.classes)) for part in (data.labels, data.labels[data.rows("test")])
    )
    untested = [found.classes[label] for label in np.flatnonzero((n_each > 0) & (tested == 0))]
    if untested and counts["test"]:
        fix = "raise [split] test or add records; the class counts for nothing in this site's test"
        yield "split", f"no test record of {_first(untested)}", "warn", fix


def _first(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
