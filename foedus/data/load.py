"""From a site's folder to its usable records: read, quarantine, group, split, digest."""

import hashlib
import json
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foedus.columns import TableSection
from foedus.data.cells import by_canonical, canonical, quoted
from foedus.data.groups import read_groups
from foedus.data.labelling import UNDECLARED, as_labels, names_of, unknown
from foedus.data.reading import read_source
from foedus.data.site_data import Quarantined, SiteData
from foedus.data.sources import Source
from foedus.data.split import declared_split, split_by_unit, split_independently, units_on_two_sides
from foedus.errors import DataError
from foedus.labels import Labels, rarest
from foedus.site import SiteConfig
from foedus.study import Study

logger = logging.getLogger(__name__)

VERSION = 1
"""Of how data are read; raise it when the same files would give other inputs than before."""
SOURCE = {"data": {"url", "query"}}
"""Settings outside the digest: a query's rows count, not where they came from."""


@dataclass(frozen=True, eq=False)
class Survey:
    """A site's data and what is noteworthy about them; nothing is refused yet.

    Attributes:
        data: The usable records.
        classes: Classes the labels count in.
        n_records: Records found, bad ones included.
        contents: (n,), sha256 of each usable record's content.
        lost: Attribute to the values that became "unknown".
        torn: Units on more than one side of a declared split.
        undeclared: Labels of the data that are no class, in quotes, sorted.
    """

    data: SiteData
    classes: list[str]
    n_records: int
    contents: NDArray[np.str_]
    lost: dict[str, Counter[str]]
    torn: list[str]
    undeclared: list[str]


def load_site_data(folder: Path, site: SiteConfig, study: Study) -> SiteData:
    """A site's usable records for a study; the others are quarantined, counted and named.

    Args:
        folder: Where site.toml is.
        site: Its contents.
        study: What is asked of the site.

    Raises:
        DataError: If the data do not fit the study, no record can be used or trained on, or a unit is
            on two sides of the site's own split. The text is for the site's own log.
    """
    try:
        require_fit(site, study)
        found = survey(folder, site, study.study.classes, study.table, independent=study.door.private)
    except DataError as error:
        raise DataError(f"site '{site.site.name}': {error}") from error
    if problem := refusal(found, site):
        raise DataError(problem)
    set_aside = Counter(record.kind for record in found.data.quarantined)
    for kind, count in set_aside.most_common():
        logger.warning("%d of %d records set aside: %s", count, found.n_records, kind)
    if study.multilabel and set_aside[UNDECLARED]:
        logger.warning(
            "labels that the study does not declare: %s; map each to one of its classes in [data.labels], or to "
            '"" to leave it out',
            ", ".join(found.undeclared),
        )
    return found.data


def require_fit(site: SiteConfig, study: Study) -> None:
    """Check that a table meets a tabular study, and several labels a record one that takes them; and nothing else.

    Raises:
        DataError: If it is not so.
    """
    if (site.data.kind == "table") != (study.table is not None):
        wants = "a table" if study.table is not None else f"what backbone '{study.backbone.source}' reads"
        raise DataError(
            f"[data] kind is \"{site.data.kind}\" but the study '{study.study.name}' needs {wants}; "
            "join with data of that kind."
        )
    if study.multilabel and site.data.label_separator is None:
        raise DataError(
            f"the study '{study.study.name}' takes any number of labels a record and [data] label_separator is not "
            'set; name the character between the labels in a cell, e.g. ";".'
        )
    if site.data.label_separator is not None and not study.multilabel:
        raise DataError(
            f"[data] label_separator says that a record may have several labels, but the study '{study.study.name}' "
            "takes one class each; remove it, or name a column that holds one."
        )


def refusal(found: Survey, site: SiteConfig) -> str | None:
    """Why these data cannot take part, or None. No value of a record is in it."""
    data = found.data
    if found.n_records == 0:
        return f"site '{site.site.name}' has no records; {site.data.title} is empty."
    if len(data) == 0:
        kinds = Counter(record.kind for record in data.quarantined).most_common()
        reasons = "; ".join(f"{count}: {kind}" for kind, count in kinds)
        return (
            f"none of the {found.n_records} records of site '{site.site.name}' can be used ({reasons}); "
            "foedus site check names them and says how to fix them."
        )
    if found.torn:
        return (
            f"site '{site.site.name}': {len(found.torn)} unit(s) are in more than one split of column "
            f"'{site.split.column}', so the test would be on people the model has seen; put each unit in one "
            "split, or remove [split] column and let Foedus draw it by unit."
        )
    if len(data.rows("train")) == 0:
        return (
            f"site '{site.site.name}' has no record to train on among {len(data)}; "
            "the split must leave some in train."
        )
    return None


def survey(
    folder: Path,
    site: SiteConfig,
    classes: list[str] | None,
    table: TableSection | None,
    *,
    independent: bool = False,
) -> Survey:
    """Everything there is to know about a site's data.

    Args:
        folder: Where site.toml is.
        site: Its contents.
        classes: The study's classes; None takes those in the data, sorted.
        table: The study's columns; None reads every column as it is.
        independent: Draw each unit's split without regard to the others (private studies).

    Raises:
        DataError: If the data as a whole cannot be read.
    """
    source = read_source(folder, site, table)
    named = names_of(source.labels, site)
    if classes is None:
        usable = (names for row, names in enumerate(named) if names is not None and row not in source.bad)
        classes = sorted({name for names in usable for name in names})
    reasons = _reasons(source, site, named, classes)
    kept = np.array([row for row in range(len(named)) if row not in reasons], dtype=np.int64)
    rows = kept.tolist()
    several = site.data.label_separator is not None
    labels = as_labels([named[row] or [] for row in rows], classes, several=several)
    units = _units(source, site, rows)
    split = _split(source, site, labels, units, rows, independent=independent)
    groups, lost = {}, {}
    for name, group in site.groups.items():
        cells = source.frame.columns[group.column]
        groups[name], lost[name] = read_groups([cells[row] for row in rows], group, table)
    inputs, notes = source.take(kept)
    quarantined = [Quarantined(source.names[row], reasons[row]) for row in sorted(reasons)]
    digest = _digest(source, site, classes, table, rows)
    data = SiteData(inputs, labels, units, groups, split, quarantined, notes, digest)
    contents = np.array([source.contents[row] for row in rows], dtype=np.str_)
    torn = units_on_two_sides(units, split) if site.data.unit is not None else []
    undeclared = sorted({name for names in named for name in unknown(names or [], by_canonical(classes))})
    return Survey(data, classes, len(named), contents, lost, torn, [quoted(name) for name in undeclared])


def _reasons(
    source: Source, site: SiteConfig, named: list[list[str] | None], classes: list[str]
) -> dict[int, str]:
    """Record to the first reason why it cannot be used."""
    known = by_canonical(classes)
    units = source.frame.columns[site.data.unit] if site.data.unit else None
    splits = source.frame.columns[site.split.column] if site.split.column else None
    reasons = dict(source.bad)
    for row, names in enumerate(named):
        if row in reasons:
            continue
        if names is None:
            reasons[row] = "no label"
        elif absent := unknown(names, known):
            reasons[row] = f"{UNDECLARED}: {', '.join(map(quoted, absent))}"
        elif units is not None and canonical(units[row]) is None:
            reasons[row] = "no unit id"
        elif splits is not None and declared_split(splits[row]) is None:
            reasons[row] = f"split is not train, validation or test: {quoted(splits[row] or '')}"
    return reasons


def _units(source: Source, site: SiteConfig, rows: list[int]) -> NDArray[np.str_]:
    """The unit column; without one, the content stands for the unit, so that no order of rows matters.

    Copies of one image or text are one unit and share a split. Equal rows of a table may well be
    different people: each is its own unit.
    """
    if site.data.unit is not None:
        cells = source.frame.columns[site.data.unit]
        return np.array([canonical(cells[row]) for row in rows], dtype=np.str_)
    if site.data.kind != "table":
        return np.array([source.contents[row] for row in rows], dtype=np.str_)
    seen, units = Counter[str](), list[str]()
    for row in rows:
        content = source.contents[row]
        seen[content] += 1
        units.append(f"{content}/{seen[content]}")
    return np.array(units, dtype=np.str_)


def _split(
    source: Source,
    site: SiteConfig,
    labels: Labels,
    units: NDArray[np.str_],
    rows: list[int],
    *,
    independent: bool,
) -> NDArray[np.str_]:
    if source.splits is not None:
        return np.array([source.splits[row] for row in rows], dtype=np.str_)
    if site.split.column is not None:
        cells = source.frame.columns[site.split.column]
        return np.array([declared_split(cells[row]) for row in rows], dtype=np.str_)
    shares = site.split
    if independent:
        return split_independently(units, validation=shares.validation, test=shares.test, seed=shares.seed)
    return split_by_unit(
        rarest(labels), units, validation=shares.validation, test=shares.test, seed=shares.seed
    )


def _digest(
    source: Source, site: SiteConfig, classes: list[str], table: TableSection | None, rows: list[int]
) -> str:
    how = site.model_dump(mode="json", include={"data", "groups", "split"}, exclude=SOURCE)
    if site.data.label_separator is None:
        del how["data"]["label_separator"]  # so that caches made before it was there are found
    described = {
        "version": VERSION,
        "files": source.digest,
        "site": how,
        "classes": classes,
        "table": table.model_dump(mode="json") if table else None,
        "rows": hashlib.sha256(np.array(rows, dtype="<i8").tobytes()).hexdigest(),
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
