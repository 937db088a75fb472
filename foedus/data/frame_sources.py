"""Text and tables at a site: one row of a CSV or Parquet file, or of a query, is one record."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from foedus.columns import Column, TableSection
from foedus.data.cells import canonical
from foedus.data.frames import Frame
from foedus.data.sources import Notes, Source, content_digest, label_column
from foedus.data.tables import build_table
from foedus.errors import DataError
from foedus.site import SiteConfig

if TYPE_CHECKING:
    from foedus.data.site_data import Inputs


def read_text(frame: Frame, site: SiteConfig, *, digest: str) -> Source:
    """Texts and their labels; `digest` is of all that `frame` was read from."""
    label = label_column(frame, site, [("[data] text", site.data.text)])
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
        digest=digest,
    )


def read_table(frame: Frame, site: SiteConfig, table: TableSection | None, *, digest: str) -> Source:
    """Rows and their labels; `digest` is of all that `frame` was read from."""
    wanted = [("the study's [[table.columns]]", column.name) for column in table.columns] if table else []
    label = label_column(frame, site, wanted)
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
        digest=digest,
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
        raise DataError(f"{site.data.title} has no column besides the label; a table needs inputs.")
    return [Column(name=name, kind="category", categories=found or [""]) for name, found in columns.items()]
