"""The contract of everything a site contributes: an additive statistic.

A statistic is measured at each site on that site's own examples, added between sites, and
read by the coordinator from the total alone. It declares what the door has to know about
each array: its shape, range, resolution, and how many contributions a release needs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from foedus.examples import Examples

Arrays = dict[str, NDArray[np.generic]]
Setting = bool | int | float | str | list[int] | list[float] | list[str]
Settings = Mapping[str, Setting]
Behind = Literal["sum", "max"]
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Quantity:
    """What the door must know about one array of a statistic.

    Attributes:
        shape: The exact shape every site must send.
        kind: "count" for whole numbers (int64), "real" for float64.
        low: Smallest value one site's entry may have.
        high: Largest value one site's entry may have.
        resolution: Step of the fixed-point grid it is summed on; 1 for counts.
        min_count: A released total needs at least this many examples behind it, or none at all.
        sensitivity: Most (L2) that one unit can change this array, alone; None where nothing bounds it.
        behind: Of the array that says how many examples are behind all of them: how to read it,
            its "sum" (one class each) or its "max" (one feature each).
    """

    shape: tuple[int, ...]
    kind: Literal["count", "real"] = "real"
    low: float = -(2.0**32)
    high: float = 2.0**32
    resolution: float = 2.0**-24
    min_count: int = 0
    sensitivity: float | None = None
    behind: Behind | None = None


def count(*shape: int, sensitivity: float | None = None, behind: Behind | None = None) -> Quantity:
    """A quantity of whole, non-negative numbers."""
    return Quantity(shape, "count", 0, 2.0**50, 1.0, sensitivity=sensitivity, behind=behind)


class Statistic(Protocol[T_co]):
    """An additive statistic; an instance carries the parameters of one request.

    `settings` and `arrays` are what the coordinator sends to ask for it, `from_wire` builds
    the same instance at the site (raising ConfigError on anything unexpected), `measure`
    runs there, and `read` turns the sum over sites into the answer.
    """

    name: ClassVar[str]

    def settings(self) -> Settings:
        """Small parameters, sent as configuration."""
        ...

    def arrays(self) -> Arrays:
        """Array parameters (heads, bin edges)."""
        ...

    @classmethod
    def from_wire(cls, settings: Settings, arrays: Arrays) -> Self:
        """The same statistic, from what arrived at the site."""
        ...

    def declare(self) -> dict[str, Quantity]:
        """Name to what the door must know; the exact keys `measure` returns."""
        ...

    def measure(self, examples: Examples) -> Arrays:
        """One site's contribution: counts as int64, reals as float64."""
        ...

    def read(self, total: Arrays) -> T_co:
        """The answer, from the sum of every site's contribution."""
        ...


def add(left: Arrays, right: Arrays) -> Arrays:
    """Element-wise sum of two contributions with the same keys and shapes."""
    return {key: np.add(left[key], right[key]) for key in left}
