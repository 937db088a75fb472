"""CSV and Parquet files as columns of text. A row that does not fit is named, not lost."""

import csv
import difflib
import io
from dataclasses import dataclass, field
from pathlib import Path

from foedus.config import nearest
from foedus.data.cells import Cell, cell_text
from foedus.errors import DataError

CSV_SUFFIXES = (".csv", ".tsv", ".txt")
PARQUET_SUFFIXES = (".parquet", ".pq")
LONGEST_CELL = 2**27


@dataclass(frozen=True)
class Frame:
    """A file's columns, each with one cell per row.

    Attributes:
        columns: Column name to its cells.
        n_rows: Rows after the header; blank lines are not rows.
        bad: Row (from 0) to what is wrong with it; its cells are None.
    """

    columns: dict[str, list[Cell]]
    n_rows: int
    bad: dict[int, str] = field(default_factory=dict)

    def names(self) -> list[str]:
        """ "row 1", "row 2", ...: how a record is named locally."""
        return [f"row {row + 1}" for row in range(self.n_rows)]


def read_frame(path: Path) -> Frame:
    """The file's columns, every cell as text.

    Raises:
        DataError: If the file is of another kind, not UTF-8, not well formed or has no header.
    """
    suffix = path.suffix.lower()
    if suffix in CSV_SUFFIXES:
        return _read_csv(path)
    if suffix in PARQUET_SUFFIXES:
        return _read_parquet(path)
    raise DataError(f"'{path.name}' is not read here; save it as CSV (.csv, UTF-8) or Parquet (.parquet).")


def require_columns(frame: Frame, wanted: list[tuple[str, str]], *, source: str) -> None:
    """Check that columns are there.

    Args:
        frame: The columns there are.
        wanted: Pairs of who asks ("[data] label") and the column's name.
        source: How messages call where the columns are from.

    Raises:
        DataError: Naming every column that is absent, who asks for it and the nearest one.
    """
    absent = [(key, column) for key, column in wanted if column not in frame.columns]
    if absent:
        lines = [
            f"{key} asks for column '{column}', which {source} does not have; "
            f"{column_hint(column, list(frame.columns))}"
            for key, column in absent
        ]
        raise DataError("\n".join([*lines, "Correct the name there, or add the column to the data."]))


def column_hint(name: str, columns: list[str]) -> str:
    """The column nearest to `name`, whatever its case, or the columns there are."""
    folded = {column.casefold(): column for column in columns}
    close = difflib.get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.6)
    if close:
        return f"did you mean '{folded[close[0]]}'?"
    return nearest(name, [*columns[:20], f"... ({len(columns)} in all)"] if len(columns) > 20 else columns)


def _read_csv(path: Path) -> Frame:
    text = _utf8(path)
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    csv.field_size_limit(LONGEST_CELL)  # a clinical letter can be longer than csv's 128 KiB
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        rows = [row for row in reader if row]
    except csv.Error as error:
        # strict: a lone quote would otherwise swallow the rest of the file in silence
        raise DataError(
            f"'{path.name}' is not a well-formed CSV near line {reader.line_num} ({error}); "
            'put cells that hold quotes in double quotes and double those inside: "he said ""no"""'
        ) from None
    if not rows:
        raise DataError(f"'{path.name}' is empty; expected a header line and one line per record.")
    header = [name.strip() for name in rows[0]]
    refuse_repeated(header, source=f"'{path.name}'")
    bad: dict[int, str] = {}
    for number, row in enumerate(rows[1:]):
        if len(row) != len(header):
            bad[number] = f"row has another number of cells than the header: {len(row)} for {len(header)}"
    blank = [""] * len(header)
    body = [blank if number in bad else row for number, row in enumerate(rows[1:])]
    columns = {name: [row[i] or None for row in body] for i, name in enumerate(header)}
    return Frame(columns, len(body), bad)


def _utf8(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"'{path.name}' cannot be read ({error.strerror}).") from None
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"'{path.name}' is not UTF-8 text: byte {error.start} (line {line}) is "
            f"0x{content[error.start]:02x}; save it as UTF-8 (in Excel: 'CSV UTF-8')."
        ) from None
    if "\0" in text:
        raise DataError(f"'{path.name}' holds NUL bytes, so it is probably UTF-16; save it as UTF-8.")
    return text.removeprefix("\ufeff")


def _read_parquet(path: Path) -> Frame:
    import pyarrow
    import pyarrow.parquet

    try:
        with path.open("rb") as file:
            table = pyarrow.parquet.read_table(file)
    except (pyarrow.ArrowException, OSError):
        raise DataError(
            f"'{path.name}' is not a readable Parquet file; it may be cut off: copy it again."
        ) from None
    names = [str(name) for name in table.column_names]
    refuse_repeated(names, source=f"'{path.name}'")
    columns = {
        name: [cell_text(value) for value in table.column(i).to_pylist()] for i, name in enumerate(names)
    }
    return Frame(columns, table.num_rows)


def refuse_repeated(header: list[str], *, source: str) -> None:
    """Check that no two columns share a name.

    Raises:
        DataError: Naming those that do.
    """
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        names = ", ".join(f"'{name}'" for name in repeated)
        raise DataError(f"{source} has more than one column named {names}; give each its own name.")
