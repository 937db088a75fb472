"""Where a private study's examples lie: public scaling first, then the mean direction, from one noisy sum."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from foedus.backbones.moments import MomentSettings, Standardiser, unit_rows
from foedus.columns import TableSection
from foedus.config import validate
from foedus.errors import ConfigError
from foedus.examples import Examples
from foedus.privacy.clipping import SLACK
from foedus.statistic import Arrays, Quantity, Settings

TOTAL = "direction-sum"
UNIT = 0.5
"""What a unit counts beside a direction of length one. Below 1 the direction has less noise; the count
has more, and the rounds divide by it, so it is not as small as for prototypes (fewshot.private)."""


def public_standardiser(dim: int, table: TableSection | None) -> Standardiser:
    """Scaling that looks at no data: a column's declared range goes to -1..1, anything else stays.

    Raises:
        ConfigError: If a number column declares no range.
    """
    mean, scale = np.zeros(dim), np.ones(dim)
    place = 0
    for column in table.columns if table else []:
        if column.kind == "category":
            place += len(column.categories) + 2
            continue
        if column.range is None:
            problem = (
                f"column '{column.name}' has no range; a private study scales numbers by their declared range, "
                "because what the data's own range is would be a release: add range = [low, high]"
            )
            raise ConfigError("study", [problem])
        low, high = column.range
        mean[place], scale[place] = (low + high) / 2, (high - low) / 2
        place += 2
    return Standardiser(mean, scale, centre=np.zeros(dim))


@dataclass(frozen=True)
class Direction:
    """What the sum says: the mean direction, and how many units there are, both with noise."""

    centre: NDArray[np.float64]
    n: int

    def shrunk(self, deviation: float) -> NDArray[np.float64]:
        """The centre drawn to zero by as much of its length as is noise (James & Stein 1961).

        A centre that is mostly noise would move every example the same way; at zero they stay
        where they were. A mean of directions is no longer than 1, so a longer one is all noise.

        Args:
            deviation: Standard deviation of the noise on each entry of the sum.
        """
        squared = float(self.centre @ self.centre)
        noise = len(self.centre) * (deviation / self.n) ** 2
        kept = self.centre * (1 - noise / squared) if squared > noise else np.zeros(len(self.centre))
        return kept if kept @ kept <= 1 + SLACK else np.zeros(len(self.centre))


@dataclass(frozen=True)
class Centre:
    """The statistic "centre": the sum of all units' directions, and their number.

    The last entry counts units. Each is a row of length one and UNIT, so one unit more or less
    changes the sum by at most the square root of 1 + UNIT².
    """

    dim: int
    name: ClassVar[str] = "centre"

    def settings(self) -> Settings:
        """Small parameters, sent as configuration."""
        return {"dim": self.dim}

    def arrays(self) -> Arrays:
        """No array parameter."""
        return {}

    @classmethod
    def from_wire(cls, settings: Settings, arrays: Arrays) -> Self:
        """The same statistic, from what arrived at the site."""
        if arrays:
            raise ConfigError("the request received", [f"{key} is not a known array" for key in arrays])
        return cls(validate(MomentSettings, settings, source="the request received").dim)

    def declare(self) -> dict[str, Quantity]:
        """One array of length dim + 1."""
        return {TOTAL: Quantity((self.dim + 1,), sensitivity=float(np.hypot(1, UNIT)) * (1 + SLACK))}

    def measure(self, examples: Examples) -> Arrays:
        """One site's sum."""
        rows = unit_rows(examples.features.astype(np.float64))
        return {TOTAL: examples.weights @ np.hstack([rows, np.full((len(rows), 1), UNIT)])}

    def read(self, total: Arrays) -> Direction:
        """The mean, as the noise left it; see `Direction.shrunk`."""
        sums = np.asarray(total[TOTAL], np.float64)
        n = max(1, round(float(sums[-1]) / UNIT))
        return Direction(sums[:-1] / n, n)
