"""Data quality of all sites together: what `foedus site check` counts at each site, summed; no text, no name."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from foedus.config import Section, validate
from foedus.data.findings import REASON_FIX
from foedus.data.tables import PROBLEMS
from foedus.errors import ConfigError
from foedus.examples import Examples
from foedus.statistic import Arrays, Quantity, Settings, count

USABLE, SET_ASIDE, CELLS = "usable", "set-aside", "cells"
OTHER = "another reason"
REASONS = (*REASON_FIX, OTHER)
"""Why records are set aside, in the order they are counted in; OTHER is every reason that may hold more."""
MIN_COUNT = 5
"""Usable records a released total needs."""


class _Asked(Section):
    columns: list[str]


@dataclass(frozen=True)
class DataQuality:
    """Statistic "data-quality": records usable, records set aside by reason, cells of each column that do not fit.

    Attributes:
        columns: The study's columns, in its order; empty where it reads no table.
    """

    columns: list[str]
    name: ClassVar[str] = "data-quality"

    def settings(self) -> Settings:
        """The columns, which each site compares with its own."""
        return {"columns": self.columns}

    def arrays(self) -> Arrays:
        """None."""
        return {}

    @classmethod
    def from_wire(cls, settings: Settings, arrays: Arrays) -> Self:
        """The same statistic, from what arrived at the site."""
        return cls(validate(_Asked, settings, source="the data quality asked for").columns)

    def declare(self) -> dict[str, Quantity]:
        """Counts; every usable record is in `usable` once."""
        usable = count(1)
        found = {
            USABLE: Quantity(usable.shape, "count", 0, usable.high, 1.0, MIN_COUNT, behind="sum"),
            SET_ASIDE: count(len(REASONS)),
        }
        return found | {CELLS: count(len(self.columns), len(PROBLEMS))} if self.columns else found

    def measure(self, examples: Examples) -> Arrays:
        """What a site's `Workplace.census` holds, as counts.

        Raises:
            ConfigError: If the columns asked for are not those of the study.
        """
        if self.columns != list(examples.cells):
            raise ConfigError("the data quality asked for", ["the columns are not those of the study"])
        reasons = Counter[str]()
        for reason, n in examples.set_aside.items():
            reasons[reason if reason in REASON_FIX else OTHER] += n
        found: Arrays = {
            USABLE: np.array([len(examples)], np.int64),
            SET_ASIDE: np.array([reasons[reason] for reason in REASONS], np.int64),
        }
        cells = [[problems[name] for name in PROBLEMS] for problems in examples.cells.values()]
        return found | {CELLS: np.array(cells, np.int64)} if self.columns else found

    def read(self, total: Arrays) -> dict[str, Any]:
        """`usable`, `set_aside` by reason and `columns` by problem; what was met nowhere is left out."""
        rows = total[CELLS].tolist() if self.columns else []
        return {
            "usable": int(total[USABLE].item()),
            "set_aside": _met(REASONS, total[SET_ASIDE].tolist()),
            "columns": {name: _met(PROBLEMS, row) for name, row in zip(self.columns, rows, strict=True)},
        }


def _met(names: tuple[str, ...], counts: list[int]) -> dict[str, int]:
    return {name: n for name, n in zip(names, counts, strict=True) if n}
