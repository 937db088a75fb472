"""The rows of a database query as columns of text. Nothing is written, and no message holds the URL."""

import hashlib
import json
import os
import re
import sqlite3
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy.pool import NullPool

from foedus.data.cells import Cell, cell_text
from foedus.data.frames import Frame, refuse_repeated
from foedus.errors import DataError

SQLITE = ("sqlite", "sqlite+pysqlite")
NAMED = re.compile(r"no such (?:table|column): [\w.]+|file is not a database")
"""What SQLite says that can be shown: a name from the query itself."""


def read_query(folder: Path, *, url: str, query: str) -> tuple[Frame, str]:
    """The rows of a query, every cell as text, in an order that depends on the rows alone.

    Args:
        folder: Where site.toml is; an SQLite file is relative to it.
        url: The database's URL, or "env:" and the environment variable that holds it.
        query: One SELECT.

    Returns:
        The columns, sorted by row; and the sha256 (hex) of names and rows, whatever the database's order.

    Raises:
        DataError: If the database cannot be reached or refuses the query. No part of the URL is in it.
    """
    names, rows = _rows(_engine(folder, _resolved(url)), query)
    refuse_repeated(names, source="the database query")
    order = sorted(range(len(names)), key=names.__getitem__)
    rows.sort(key=lambda row: [(row[i] is not None, row[i] or "") for i in order])
    canonical = [[names[i] for i in order], *([row[i] for i in order] for row in rows)]
    digest = hashlib.sha256(json.dumps(canonical).encode()).hexdigest()
    return Frame({name: [row[i] for row in rows] for i, name in enumerate(names)}, len(rows)), digest


def _resolved(url: str) -> sqlalchemy.URL:
    text, where = url, "[data] url"
    if url.startswith("env:"):
        name = url.removeprefix("env:")
        text, where = os.environ.get(name, ""), f"the environment variable {name}"
        if not text:
            raise DataError(f"[data] url names {where}, which is not set; set it to the database's URL.")
    try:
        return sqlalchemy.make_url(text)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise DataError(
            f"{where} is not a database URL; expected for example postgresql+psycopg://user@host/name."
        ) from None


def _engine(folder: Path, url: sqlalchemy.URL) -> sqlalchemy.Engine:
    if url.drivername in SQLITE:
        return _sqlite(folder / (url.database or ""))
    try:
        return sqlalchemy.create_engine(url, poolclass=NullPool, hide_parameters=True)
    except ImportError as error:
        driver = f" ({error.name})" if error.name else ""
        raise DataError(
            f"the driver of the database in [data] url is not installed{driver}; install it beside Foedus."
        ) from None
    except Exception:  # its text may quote the URL
        raise DataError("[data] url names a kind of database that SQLAlchemy does not know here.") from None


def _sqlite(file: Path) -> sqlalchemy.Engine:
    if not file.is_file():
        raise DataError(
            "[data] url names an SQLite file that does not exist; its path is relative to site.toml "
            "(sqlite:///cases.db), or absolute with four slashes."
        )
    address = f"{file.resolve().as_uri()}?mode=ro"
    return sqlalchemy.create_engine(
        "sqlite://", creator=lambda: sqlite3.connect(address, uri=True), poolclass=NullPool
    )


def _rows(engine: sqlalchemy.Engine, query: str) -> tuple[list[str], list[list[Cell]]]:
    try:
        connection = engine.connect()
    except Exception:  # drivers raise what they like, with host and user in it
        raise DataError(
            "the database in [data] url cannot be opened; check that it is there and that its user may read it."
        ) from None
    with connection:  # never committed: closing rolls back
        try:
            reader = connection.execution_options(no_parameters=True, postgresql_readonly=True)
            result = reader.exec_driver_sql(query)
            return list(result.keys()), [[_cell(value) for value in row] for row in result]
        except Exception as error:  # its text quotes the query, and may quote a patient's value
            found = NAMED.search(str(getattr(error, "orig", "")))
            why = f" ({found.group()})" if found else ""
            raise DataError(
                f"the database refused [data] query{why}; try it in the database's own client."
            ) from None


def _cell(value: Any) -> Cell:
    return cell_text(bytes(value) if isinstance(value, memoryview) else value)
