"""The figures in results.json without what would tell of fewer than k people.

They are of everyone together, and of no group; the audit takes them as known. A site's own figures
are left as that site released them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from foedus.label_metrics import LABEL_SCALARS

FROM_THE_CONFUSION = ("balanced_accuracy", "macro_f1", "macro_precision", "macro_recall", *LABEL_SCALARS)


def without_small_counts(results: Mapping[str, Any], k: int) -> dict[str, Any]:
    """results.json with the models' counts of 1 to k - 1 people, and what they follow from, set to null."""
    models = {name: found and _kept(found, k) for name, found in results["models"].items()}
    return {**results, "models": models}


def quality_without_small_counts(found: Mapping[str, Any] | None, k: int) -> dict[str, Any] | None:
    """Data quality with counts of 1 to k - 1 records set to null; of a column all, where as few cells are left."""
    if found is None:
        return None
    usable = _shown(found["usable"], k)
    return {
        "usable": usable,
        "set_aside": {reason: _shown(n, k) for reason, n in found["set_aside"].items()},
        "columns": {name: _column(counts, usable, k) for name, counts in found["columns"].items()},
    }


def _column(counts: Mapping[str, int | None], usable: int | None, k: int) -> dict[str, int | None]:
    shown = {problem: _shown(n, k) for problem, n in counts.items()}
    if usable is None or _small(usable - sum(n or 0 for n in shown.values()), k):
        return dict.fromkeys(shown)
    return shown


def _shown(n: int | None, k: int) -> int | None:
    return None if n is None or _small(n, k) else n


def _kept(found: Mapping[str, Any], k: int) -> dict[str, Any]:
    kept = {**found, "reliability": _merged(found["reliability"], k) if found.get("reliability") else None}
    if found.get("confusion") is None:
        return kept
    cells = np.asarray(found["confusion"], np.int64)
    n, accuracy = found["n"], found["accuracy"]
    margins = (cells.sum(axis=-1), cells.sum(axis=-2))
    if any(_small(int(count), k) for counts in (cells, *margins) for count in counts.ravel()):
        hidden = dict.fromkeys(key for key in FROM_THE_CONFUSION if key in found)
        kept |= {"confusion": None, "per_class": None, **hidden}
    elif "reliability" in (
        found["per_class"] or {}
    ):  # of each label; all labels' less the others' would tell
        kept["per_class"] = {**found["per_class"], "reliability": [None] * len(cells)}
    right = 0 if accuracy is None else round(accuracy * n)
    if _small(right, k) or _small(n - right, k):
        kept["accuracy"] = None
    return kept


def _merged(bins: list[dict[str, Any]], k: int) -> list[dict[str, Any]] | None:
    """Adjacent bins together until k or more (or none) came true in each, and did not; None if none are."""
    found: list[list[float]] = []
    held = np.zeros(3)
    for each in bins:
        if each["n"]:
            held += (each["n"], each["n"] * each["predicted"], round(each["n"] * each["observed"]))
            if _fine(held, k):
                found.append(held.tolist())
                held = np.zeros(3)
    if held[0]:
        held += found.pop() if found else 0
        while not _fine(held, k) and found:
            held += found.pop()
        found.append(held.tolist())
    if not found or not _fine(np.asarray(found[-1]), k):
        return None
    return [{"n": int(n), "predicted": total / n, "observed": true / n} for n, total, true in found]


def _fine(held: "np.ndarray[Any, Any]", k: int) -> bool:
    n, _, true = held.tolist()
    return not any(_small(int(count), k) for count in (n, true, n - true))


def _small(count: int, k: int) -> bool:
    return 0 < count < k
