"""Sums that do not depend on the order sites answer in: fixed-point integers, as the door will mask them."""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from foedus.errors import DoorError
from foedus.statistic import Arrays, Quantity

LIMIT = 2.0**62
INT32_STEPS = 2**31
CHUNK = 2**18
"""Numbers worked on at a time, so that an array of hundreds of megabytes needs no second one beside it."""


def check(arrays: Arrays, quantities: Mapping[str, Quantity]) -> None:
    """Refuse a contribution that is not what its statistic declares.

    Raises:
        DoorError: Naming the array that is missing, extra, of the wrong shape or kind,
            not finite, or out of range.
    """
    _check_names(arrays, quantities)
    for name, quantity in quantities.items():
        array, kinds = arrays[name], "iu" if quantity.kind == "count" else "iuf"
        if array.dtype.kind not in kinds:
            raise DoorError(f"'{name}' has type {array.dtype}; a {quantity.kind} was declared")
        _check_shape(name, array, quantity)
        if array.size == 0:
            continue
        low, high = float(np.min(array)), float(np.max(array))
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DoorError(f"'{name}' holds values that are not finite")
        if low < quantity.low or high > quantity.high:
            raise _out_of_range(name, low, high, quantity)


def check_steps(steps: Arrays, quantities: Mapping[str, Quantity]) -> None:
    """`check`, of what `to_steps` made.

    Raises:
        DoorError: Naming the array that is missing, extra, of the wrong shape or type, or out of range.
    """
    _check_names(steps, quantities)
    for name, quantity in quantities.items():
        array = steps[name]
        if array.dtype != step_type(quantity):
            raise DoorError(
                f"'{name}' has type {array.dtype}; steps of type {step_type(quantity)} are summed"
            )
        _check_shape(name, array, quantity)
        if array.size == 0:
            continue
        low, high = int(np.min(array)), int(np.max(array))
        if low < _steps(quantity.low, quantity) or high > _steps(quantity.high, quantity):
            raise _out_of_range(name, low * quantity.resolution, high * quantity.resolution, quantity)


def _check_names(arrays: Arrays, quantities: Mapping[str, Quantity]) -> None:
    if set(arrays) != set(quantities):
        wrong = ", ".join(sorted(set(arrays) ^ set(quantities)))
        raise DoorError(f"arrays sent and arrays declared differ in: {wrong}")


def _check_shape(name: str, array: NDArray[np.generic], quantity: Quantity) -> None:
    if array.shape != quantity.shape:
        raise DoorError(f"'{name}' has shape {array.shape}; {quantity.shape} was declared")


def _out_of_range(name: str, low: float, high: float, quantity: Quantity) -> DoorError:
    return DoorError(
        f"'{name}' ranges over {low:.3g} to {high:.3g}; {quantity.low:.3g} to {quantity.high:.3g} was declared"
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


def step_type(quantity: Quantity) -> np.dtype[np.signedinteger]:
    """int32 where every value that is declared fits in as many steps of the grid, else int64."""
    reach = max(abs(quantity.low), abs(quantity.high)) / quantity.resolution
    return np.dtype(np.int32 if reach < INT32_STEPS - 1 else np.int64)


def to_steps(arrays: Arrays, quantities: Mapping[str, Quantity]) -> Arrays:
    """A contribution that `check` let pass as it is summed: whole steps of each quantity's grid.

    Raises:
        DoorError: If a value does not fit its grid's 62 bits.
    """
    found: Arrays = {}
    for name, quantity in quantities.items():
        flat = arrays[name].reshape(-1)
        steps = np.empty(flat.size, step_type(quantity))
        for part in parts(flat.size):
            near = np.rint(flat[part].astype(np.float64) / quantity.resolution)
            _check_fits(name, near)
            steps[part] = near
        found[name] = steps.reshape(quantity.shape)
    return found


def from_steps(steps: Arrays, quantities: Mapping[str, Quantity]) -> Arrays:
    """The values behind steps: counts as int64, reals as float64."""
    return {name: _values(steps[name], quantity) for name, quantity in quantities.items()}


def _values(steps: NDArray[np.generic], quantity: Quantity) -> NDArray[np.generic]:
    if quantity.kind == "count":
        return steps.astype(np.int64)
    return np.asarray(np.multiply(steps, quantity.resolution, dtype=np.float64))


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
        self.add_steps(to_steps(arrays, self.quantities))

    def add_steps(self, steps: Arrays) -> None:
        """`add`, of what `to_steps` made.

        Raises:
            DoorError: If it is not what was declared, or the total would leave 62 bits.
        """
        check_steps(steps, self.quantities)
        for name, total in self._totals.items():
            before, more = total.reshape(-1), steps[name].reshape(-1)
            for part in parts(total.size):
                _check_fits(name, before[part].astype(np.float64) + more[part].astype(np.float64))
        for name, total in self._totals.items():
            np.add(total, steps[name], out=total)
        self.contributions += 1

    def total(self) -> Arrays:
        """Counts as int64, reals as float64."""
        return from_steps(dict(self._totals), self.quantities)


def parts(size: int) -> Iterator[slice]:
    """Where to work in a flat array, CHUNK numbers at a time."""
    return (slice(start, start + CHUNK) for start in range(0, size, CHUNK))


def _check_fits(name: str, steps: NDArray[np.float64]) -> None:
    if steps.size and float(np.abs(steps).max()) > LIMIT:
        raise DoorError(f"the sum of '{name}' does not fit its fixed-point grid")


def _steps(value: float, quantity: Quantity) -> float:
    return float(np.rint(value / quantity.resolution))
