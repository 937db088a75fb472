"""What every reader of a site's data returns, and what readers of files with columns share."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from foedus.data.cells import Cell
from foedus.data.frames import Frame, require_columns
from foedus.errors import DataError
from foedus.site import SiteConfig

if TYPE_CHECKING:
    from foedus.data.site_data import Inputs

Notes = dict[str, Counter[str]]


@dataclass(frozen=True, eq=False)
class Source:
    """Every record of a site as it was found, bad ones included.

    Attributes:
        names: What each record is called locally.
        labels: Each record's label as the data spell it.
        frame: Columns for units, groups and a declared split; none for a folder or an .npz.
        contents: sha256 (hex) of what a model would see of the record; equal for copies.
        bad: Record (from 0) to why it cannot be used.
        take: Inputs of some records, and the problems of their columns.
        splits: Each record's split where the source itself has one (.npz).
        digest: sha256 (hex) of the files, or of a query's rows.
    """

    names: list[str]
    labels: list[Cell]
    frame: Frame
    contents: list[str]
    bad: dict[int, str]
    take: "Callable[[NDArray[np.int64]], tuple[Inputs, Notes]]"
    splits: list[str] | None
    digest: str


def asked_columns(site: SiteConfig) -> list[tuple[str, str]]:
    """Columns that site.toml names for units, groups and the split, each with the key that names it."""
    asked = [(f"[groups.{name}] column", group.column) for name, group in site.groups.items()]
    if site.split.column is not None:
        asked.insert(0, ("[split] column", site.split.column))
    if site.data.unit is not None:
        asked.insert(0, ("[data] unit", site.data.unit))
    return asked


def label_column(frame: Frame, site: SiteConfig, extra: list[tuple[str, str]]) -> str:
    """The name of the label column, after a check that every column site.toml asks for is there.

    Raises:
        DataError: Naming each column that is absent.
    """
    if site.data.label is None:
        raise DataError(
            "[data] label is not set; name the column that holds the class "
            f"(columns: {', '.join(list(frame.columns)[:20])})."
        )
    wanted = [("[data] label", site.data.label), *extra, *asked_columns(site)]
    require_columns(frame, wanted, source=site.data.title)
    return site.data.label


def content_digest(*parts: Cell) -> str:
    """sha256 (hex) of some cells; None and "" differ from any text."""
    joined = "\x1f".join("\x00" if part is None else part for part in parts)
    return hashlib.sha256(joined.encode("utf-8", "surrogateescape")).hexdigest()
