"""Sums that do not depend on the order sites answer in: fixed-point integers, as the door will mask them."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from foedus.errors import DoorError
from foedus.statistic import Arrays, Quantity

LIMIT = 2.0**62


def check(arrays: Arrays, quantities: Mapping[str, Quantity]) -> None:
    """Refuse a contribution that is not what its statistic declares.

    Raises:
        DoorError: Naming the array that is missing, extra, of the wrong shape or kind,
            not finite, or out of range.
    """
    if set(arrays) != set(quantities):
        wrong = ", ".join(sorted(set(arrays) ^ set(quantities)))
        raise DoorError(f"arrays sent and arrays declared differ in: {wrong}")
    for name, quantity in quantities.items():
        _check_one(name, arrays[name], quantity)


def _check_one(name: str, array: NDArray[np.generic], quantity: Quantity) -> None:
    kinds = "iu" if quantity.kind == "count" else "iuf"
    if array.dtype.kind not in kinds:
        raise DoorError(f"'{name}' has type {array.dtype}; a {quantity.kind} was declared")
    if array.shape != quantity.shape:
        raise DoorError(f"'{name}' has shape {array.shape}; {quantity.shape} was declared")
    if array.size == 0:
        return
    low, high = float(np.min(array)), float(np.max(array))
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DoorError(f"'{name}' holds values that are not finite")
    if low < quantity.low or high > quantity.high:
        found = f"{low:.3g} to {high:.3g}"
        raise DoorError(
            f"'{name}' ranges over {found}; {quantity.low:.3g} to {quantity.high:.3g} was declared"
        )


def lacking(arrays: Arrays, quantities: Mapping[str, Quantity]) -> int:
    """The fewest examples these need behind them, if they have fewer (and any at all); else 0.

    A statistic without an array that counts its examples (`Quantity.behind`) cannot be judged.
    """
    fewest = max((quantity.min_count for quantity in quantities.values()), default=0)
    for name, quantity in quantities.items():
        if quantity.behind is not None and arrays[name].size:
            n = int(np.sum(arrays[name]) if quantity.behind == "sum" else np.max(arrays[name]))
            return fewest if 0 < n < fewest else 0
    return 0


class ExactSum:
    """A running total on each quantity's fixed-point grid: associative and commutative to the bit."""

    def __init__(self, quantities: Mapping[str, Quantity]) -> None:
        self.quantities = quantities
        self.contributions = 0
        self._totals = {name: np.zeros(q.shape, np.int64) for name, q in quantities.items()}

    def add(self, arrays: Arrays) -> None:
        """Add one site's contribution; nothing is added if any array is refused.

        Raises:
            DoorError: If it is not what was declared, or the total would leave 62 bits.
        """
        check(arrays, self.quantities)
        totals: dict[str, NDArray[np.int64]] = {}
        for name, quantity in self.quantities.items():
            steps = np.rint(arrays[name].astype(np.float64) / quantity.resolution)
            if steps.size and float(np.abs(self._totals[name].astype(np.float64) + steps).max()) > LIMIT:
                raise DoorError(f"the sum of '{name}' does not fit its fixed-point grid")
            totals[name] = self._totals[name] + steps.astype(np.int64)
        self._totals = totals
        self.contributions += 1

    def total(self) -> Arrays:
        """Counts as int64, reals as float64."""
        return {
            name: value if self.quantities[name].kind == "count" else value * self.quantities[name].resolution
            for name, value in self._totals.items()
        }
