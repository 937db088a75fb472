"""Train, validation and test, drawn by unit within each class: no patient is on both sides."""

import hashlib
import math
from collections import Counter, defaultdict

import numpy as np
from numpy.typing import NDArray

from foedus.data.cells import Cell, canonical
from foedus.study import SPLITS


def split_by_unit(
    labels: NDArray[np.int64], units: NDArray[np.str_], *, validation: float, test: float, seed: int
) -> NDArray[np.str_]:
    """Split of each record; it depends on the set of (unit, label) pairs, not on their order.

    A unit counts for its most common label (the lowest one in a tie). Within each class the units are
    ordered by sha256("seed:unit") and cut: test, then validation, then train, each share rounded to
    whole units; at least one unit of a class is left to train on.

    Args:
        labels: (n,), int64; of several labels a record, `foedus.labels.rarest`.
        units: (n,), the patient or customer of each record.
        validation: Share of the units, in [0, 1).
        test: Share of the units, in [0, 1); validation + test < 1.
        seed: Draws the order.

    Returns:
        (n,), "train", "validation" or "test".
    """
    votes: dict[str, Counter[int]] = defaultdict(Counter)
    for label, unit in zip(labels.tolist(), units.tolist(), strict=True):
        votes[unit][label] += 1
    members: dict[int, list[str]] = defaultdict(list)
    for unit, counts in votes.items():
        members[min(counts, key=lambda label: (-counts[label], label))].append(unit)
    sides: dict[str, str] = {}
    for group in members.values():
        sides |= _cut(sorted(group, key=lambda unit: _draw(seed, unit)), validation, test)
    return np.array([sides[unit] for unit in units.tolist()], dtype=np.str_)


def split_independently(
    units: NDArray[np.str_], *, validation: float, test: float, seed: int
) -> NDArray[np.str_]:
    """Split of each record by its own unit alone, for private studies.

    A unit's side depends on sha256("seed:unit") and on no other unit, so that one unit more or
    less moves nobody else to another side. The shares hold on average only.

    Args:
        units: (n,), the patient or customer of each record.
        validation: Chance of a unit, in [0, 1).
        test: Chance of a unit, in [0, 1); validation + test < 1.
        seed: Draws the sides.

    Returns:
        (n,), "train", "validation" or "test".
    """
    drawn = np.array([int(_draw(seed, unit)[:13], 16) / 16**13 for unit in units.tolist()])
    return np.select([drawn < test, drawn < test + validation], ["test", "validation"], "train")


def _draw(seed: int, unit: str) -> str:
    return hashlib.sha256(f"{seed}:{unit}".encode("utf-8", "surrogateescape")).hexdigest()


def _cut(ordered: list[str], validation: float, test: float) -> dict[str, str]:
    n = len(ordered)
    last = min(math.floor((test + validation) * n + 0.5), n - 1)
    first = min(math.floor(test * n + 0.5), last)
    sides = ["test"] * first + ["validation"] * (last - first) + ["train"] * (n - last)
    return dict(zip(ordered, sides, strict=True))


def declared_split(cell: Cell) -> str | None:
    """The split a cell names ("val" stands for validation, case does not matter), or None."""
    name = (canonical(cell) or "").lower()
    name = "validation" if name == "val" else name
    return name if name in SPLITS else None


def units_on_two_sides(units: NDArray[np.str_], split: NDArray[np.str_]) -> list[str]:
    """Units (or contents) found in more than one split, sorted."""
    sides: dict[str, set[str]] = defaultdict(set)
    for unit, side in zip(units.tolist(), split.tolist(), strict=True):
        sides[unit].add(side)
    return sorted(unit for unit, found in sides.items() if len(found) > 1)
