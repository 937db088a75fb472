"""Fixed point in two lanes: what a statistic declares decides where each array travels.

An array whose total over all sites stays below 2^31 steps of its grid goes to the narrow lane,
32 bits a value; any other to the wide lane, 64 bits. Both wrap; totals are read back as signed.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isfinite, prod

import numpy as np
from numpy.typing import NDArray

from foedus import sums
from foedus.errors import SecureSumError
from foedus.secure.wire import digest
from foedus.statistic import Arrays, Quantity

NARROW, WIDE = 2**31, 2**63
MAX_WORDS = 2**30


@dataclass(frozen=True)
class Lanes:
    """Contributions or totals in fixed point.

    Attributes:
        narrow: (n,), little-endian uint32, modulo 2^32.
        wide: (m,), little-endian uint64, modulo 2^64.
    """

    narrow: NDArray[np.uint32]
    wide: NDArray[np.uint64]

    @property
    def size_bytes(self) -> int:
        """Bytes of both lanes."""
        return self.narrow.nbytes + self.wide.nbytes

    def digest(self) -> bytes:
        """32 bytes that stand for every word of two lanes of known lengths."""
        found = hashlib.sha256(np.ascontiguousarray(self.narrow).data)
        found.update(np.ascontiguousarray(self.wide).data)
        return found.digest()


@dataclass(frozen=True)
class Layout:
    """Where each declared array lies in the two lanes; arrays are in the order of their names.

    Attributes:
        quantities: What each array declares.
        n_sites: Sites on the roster, whether or not they all take part.

    Raises:
        SecureSumError: If an array's total cannot be carried exactly, naming it.
    """

    quantities: Mapping[str, Quantity]
    n_sites: int

    def __post_init__(self) -> None:
        for name, quantity in self.quantities.items():
            reach = self.n_sites * _reach(name, quantity)
            if reach >= WIDE:
                raise SecureSumError(
                    f"'{name}' may reach 2^{reach.bit_length() - 1} steps of its grid over {self.n_sites} sites; "
                    "the secure sum carries less than 2^63: narrow its range or coarsen its resolution"
                )
        if self.narrow + self.wide > MAX_WORDS:
            raise SecureSumError(f"{self.narrow + self.wide} values were declared; the limit is {MAX_WORDS}")

    @cached_property
    def places(self) -> dict[str, tuple[bool, slice]]:
        """Array to (True if narrow, where it lies in that lane)."""
        places: dict[str, tuple[bool, slice]] = {}
        used = {True: 0, False: 0}
        for name, quantity in sorted(self.quantities.items()):
            narrow = self.n_sites * _reach(name, quantity) < NARROW
            size = prod(quantity.shape)
            places[name] = (narrow, slice(used[narrow], used[narrow] + size))
            used[narrow] += size
        return places

    @property
    def narrow(self) -> int:
        """Words in the narrow lane."""
        return self._words(narrow=True)

    @property
    def wide(self) -> int:
        """Words in the wide lane."""
        return self._words(narrow=False)

    def digest(self) -> bytes:
        """32 bytes that stand for this layout: sites that differ in it do not agree to a sum."""
        declared = {
            name: [list(q.shape), q.kind, *(float(v).hex() for v in (q.low, q.high, q.resolution))]
            for name, q in self.quantities.items()
        }
        return digest("layout", [self.n_sites, declared])

    def empty(self) -> Lanes:
        """Zeros of the right lengths."""
        return Lanes(np.zeros(self.narrow, "<u4"), np.zeros(self.wide, "<u8"))

    def encode(self, arrays: Arrays) -> Lanes:
        """One site's contribution in steps of each quantity's grid.

        Raises:
            DoorError: If it is not what was declared (`foedus.sums.check`).
        """
        sums.check(arrays, self.quantities)
        lanes = self.empty()
        for name, (narrow, where) in self.places.items():
            flat = arrays[name].reshape(-1)
            target = lanes.narrow[where].view("<i4") if narrow else lanes.wide[where].view("<i8")
            for part in sums.parts(flat.size):
                target[part] = np.rint(flat[part].astype(np.float64) / self.quantities[name].resolution)
        return lanes

    def decode(self, lanes: Lanes, *, contributions: int) -> Arrays:
        """The total, equal to `foedus.sums.ExactSum`'s to the bit: counts as int64, reals as float64.

        Raises:
            SecureSumError: If it lies where so many honest contributions cannot bring it.
        """
        totals: Arrays = {}
        for name, (narrow, where) in self.places.items():
            quantity = self.quantities[name]
            lane = lanes.narrow[where].view("<i4") if narrow else lanes.wide[where].view("<i8")
            steps = lane.astype(np.int64).reshape(quantity.shape)
            self._check_total(name, steps, contributions)
            totals[name] = steps if quantity.kind == "count" else np.asarray(steps * quantity.resolution)
        return totals

    def _check_total(self, name: str, steps: NDArray[np.int64], contributions: int) -> None:
        if steps.size == 0:
            return
        quantity = self.quantities[name]
        low, high = (contributions * _steps(v, quantity) for v in (quantity.low, quantity.high))
        smallest, largest = int(steps.min()), int(steps.max())
        if smallest < low or largest > high:
            raise SecureSumError(
                f"the sum of '{name}' is out of the range that {contributions} sites can reach; "
                "a site sent what it did not declare, or not what it masked"
            )
        if max(-smallest, largest) > sums.LIMIT:
            raise SecureSumError(f"the sum of '{name}' does not fit its fixed-point grid")

    def _words(self, *, narrow: bool) -> int:
        return max((where.stop for lane, where in self.places.values() if lane == narrow), default=0)


def _steps(value: float, quantity: Quantity) -> int:
    return int(np.rint(value / quantity.resolution))


def _reach(name: str, quantity: Quantity) -> int:
    """Steps from zero that one site's entry may have."""
    numbers = (quantity.low, quantity.high, quantity.resolution)
    sound = all(map(isfinite, numbers)) and quantity.resolution > 0 and quantity.low <= quantity.high
    if not sound or any(side < 0 for side in quantity.shape):
        raise SecureSumError(
            f"'{name}' declares no range that can be summed; give finite bounds, low <= high"
        )
    if not all(isfinite(value / quantity.resolution) for value in numbers[:2]):
        raise SecureSumError(f"'{name}' has too fine a resolution for its range; coarsen it")
    return max(abs(_steps(quantity.low, quantity)), abs(_steps(quantity.high, quantity)))
