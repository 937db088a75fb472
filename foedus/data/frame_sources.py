"""Text and tables at a site: one row of a CSV or Parquet file is one record."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from foedus.columns import Column, TableSection
from foedus.data.cells import canonical
from foedus.data.frames import Frame
from foedus.data.sources import Notes, Source, content_digest, labelled_frame
from foedus.data.tables import build_table
from foedus.errors import DataError
from foedus.files import sha256_file
from foedus.site import SiteConfig

if TYPE_CHECKING:
    from foedus.data.site_data import Inputs


def read_text(path: Path, site: SiteConfig) -> Source:
    frame, label = labelled_frame(path, site, [("[data] text", site.data.text)])
    texts = frame.columns[site.data.text]
    empty = {row: "text is empty" for row, cell in enumerate(texts) if canonical(cell) is None}

    def take(rows: NDArray[np.int64]) -> "tuple[Inputs, Notes]":
        return [texts[row] or "" for row in rows.tolist()], {}

    return Source(
        names=frame.names(),
        labels=frame.columns[label],
        frame=frame,
        contents=[content_digest(cell) for cell in texts],
        bad=empty | frame.bad,
        take=take,
        splits=None,
        digest=sha256_file(path),
    )


def read_table(path: Path, site: SiteConfig, table: TableSection | None) -> Source:
    wanted = [("the study's [[table.columns]]", column.name) for column in table.columns] if table else []
    frame, label = labelled_frame(path, site, wanted)
    columns = table or TableSection(columns=_undeclared(frame, site))
    names = [column.name for column in columns.columns]
    if label in names:
        raise DataError(
            f"column '{label}' is the label of the site and an input of the study, which would give the "
            "answer away; correct [data] label or the study's [[table.columns]]."
        )
    cells = [frame.columns[name] for name in [*names, label]]

    def take(rows: NDArray[np.int64]) -> "tuple[Inputs, Notes]":
        return build_table(frame, rows, columns)

    return Source(
        names=frame.names(),
        labels=frame.columns[label],
        frame=frame,
        contents=[content_digest(*map(canonical, row)) for row in zip(*cells, strict=True)],
        bad=dict(frame.bad),
        take=take,
        splits=None,
        digest=sha256_file(path),
    )


def _undeclared(frame: Frame, site: SiteConfig) -> list[Column]:
    """Without a study, every other column as a category of the values it has."""
    taken = {site.data.label, site.data.unit, site.split.column}
    columns = {
        name: sorted({text for cell in cells if (text := canonical(cell)) is not None})
        for name, cells in frame.columns.items()
        if name not in taken
    }
    if not columns:
        raise DataError(f"'{site.data.path}' has no column besides the label; a table needs inputs.")
    return [Column(name=name, kind="category", categories=found or [""]) for name, found in columns.items()]
