"""Which reader fits what site.toml describes."""

from pathlib import Path

from foedus.columns import TableSection
from foedus.data import frame_sources, image_sources
from foedus.data.frames import Frame, column_hint, read_frame
from foedus.data.sources import Source
from foedus.errors import DataError
from foedus.files import sha256_file
from foedus.site import SiteConfig


def read_source(folder: Path, site: SiteConfig, table: TableSection | None) -> Source:
    """All records of a site.

    Args:
        folder: Where site.toml is.
        site: Its contents.
        table: The study's columns, for a table; None reads every column as it is.

    Raises:
        DataError: If the data as a whole cannot be read.
    """
    try:
        return _read(folder, site, table)
    except OSError as error:
        raise DataError(
            f"[data] path '{site.data.path}' cannot be opened ({error.strerror}); check its permissions."
        ) from error


def _read(folder: Path, site: SiteConfig, table: TableSection | None) -> Source:
    if site.data.path is None:
        from foedus.data.sql import read_query  # imports SQLAlchemy

        frame, digest = read_query(folder, url=site.data.url or "", query=site.data.query or "")
        return _from_frame(frame, site, table, digest=digest)
    path = folder / site.data.path
    if not path.exists():
        raise DataError(f"[data] path '{site.data.path}' does not exist; {_near(path)}")
    if site.data.kind == "images":
        return image_sources.read(folder, path, site)
    if path.is_dir():
        raise DataError(
            f"[data] path '{site.data.path}' is a folder; "
            f'kind = "{site.data.kind}" needs a CSV or Parquet file.'
        )
    return _from_frame(read_frame(path), site, table, digest=sha256_file(path))


def _from_frame(frame: Frame, site: SiteConfig, table: TableSection | None, *, digest: str) -> Source:
    if site.data.kind == "text":
        return frame_sources.read_text(frame, site, digest=digest)
    return frame_sources.read_table(frame, site, table, digest=digest)


def _near(path: Path) -> str:
    there = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
    visible = [name for name in there if not name.startswith(".")]
    return (
        f"{column_hint(path.name, visible)} Paths are relative to site.toml."
        if visible
        else "check the path."
    )
