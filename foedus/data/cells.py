"""Cells of a CSV or Parquet file as text: the same value is the same text, whatever wrote the file."""

import math
import re
from collections.abc import Iterable
from typing import Any

Cell = str | None
"""Text of a cell; None where it is empty."""

WHOLE = re.compile(r"-?\d+\.0+")


def cell_text(value: Any) -> Cell:
    """A typed value (Parquet) as the text a CSV would hold; None for null, NaN and "".

    Booleans become "TRUE" and "FALSE", and 1.0 becomes "1".
    """
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)


def canonical(text: Cell) -> Cell:
    """Text to compare by: trimmed, "1.0" as "1", "True" as "TRUE"; None when nothing is left."""
    if text is None or not (text := text.strip()):
        return None
    if WHOLE.fullmatch(text):
        return text.partition(".")[0]
    return text.upper() if text.lower() in ("true", "false") else text


def by_canonical(names: Iterable[str]) -> dict[str, str]:
    """Canonical text to the name as it was declared."""
    return {key: name for name in names if (key := canonical(name)) is not None}


def number(text: Cell) -> float | None:
    """The number in a cell, infinite ones included; None if it holds none ("", "n/a", "1,5", "nan")."""
    if text is None or "_" in text:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return None if math.isnan(value) else value


def quoted(text: str) -> str:
    """The text in quotes, cut to 40 characters."""
    return f"'{text if len(text) <= 40 else text[:37] + '...'}'"
