"""What `foedus serve --journal` leaves in a folder, read: one line a record, and windows of histograms.

Lines hold the id the client gave, the probabilities and the decision, no input; windows are sums over
the records of some hundred requests (`foedus.histograms`).
"""

import json
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

from foedus import files
from foedus.statistic import Arrays

PREDICTIONS, WINDOWS = "predictions", "windows"
ItemT = TypeVar("ItemT")


def read_predictions(
    folder: Path, *, version: str | None = None, day: date | None = None
) -> list[dict[str, Any]]:
    """Lines of a model's journal, oldest first; one that a crash cut off is left out."""
    paths = sorted((folder / PREDICTIONS).glob("*.jsonl" if day is None else f"{day}.jsonl"))
    found = []
    for path in paths:
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if version in (None, line["version"]):
                found.append(line)
    return found


def read_windows(folder: Path, *, version: str, day: date | None = None) -> list[tuple[str, Arrays]]:
    """The windows of a version, oldest first: the day (UTC, YYYYMMDD) each was written, and its histograms."""
    stamp = "" if day is None else f"{day:%Y%m%d}"
    paths = sorted((folder / WINDOWS).glob(f"{stamp}*-v{version}-*.safetensors"))
    return [(path.name[:8], files.read_arrays(path)) for path in paths]


def whole_blocks(items: Iterable[tuple[str, int, ItemT]], fewest: int) -> list[ItemT]:
    """The items that, day by day and in their order, fill blocks of at least `fewest` records.

    What does not fill a block yet waits. So whatever is asked when, for one day or for all, the
    difference of two answers is made of whole blocks and tells of no smaller number of people.

    Args:
        items: Day, records and item.
        fewest: Records of a block.
    """
    found, waiting = list[ItemT](), dict[str, tuple[int, list[ItemT]]]()
    for day, n, item in items:
        so_far, held = waiting.get(day, (0, []))
        if so_far + n < fewest:
            waiting[day] = (so_far + n, [*held, item])
            continue
        waiting.pop(day, None)
        found += [*held, item]
    return found
