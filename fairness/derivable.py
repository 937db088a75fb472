"""What a reader can work out: counts that only one table of whole, non-negative numbers allows.

The reader knows every released count, the range of every hidden one, and that groups add up to
everyone and intersections to their attributes. A hidden count is derivable if all tables that agree
with this have the same value there. Integer programs look for one that differs from the truth.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array, vstack

Counts = NDArray[np.int64]
TOGETHER, ALONE = 20, 30
"""Most programs that push all counts at once, and most counts that are then looked at alone."""
SECONDS = 2.0
"""Most time for one integer program; one that takes longer counts as not found."""


@dataclass
class Knowledge:
    """Linear facts about unknown whole numbers x ≥ 0, low ≤ row · x ≤ high.

    Attributes:
        n_unknowns: Length of x.
    """

    n_unknowns: int
    _rows: list[csr_array] = field(default_factory=list)
    _low: list[Counts] = field(default_factory=list)
    _high: list[Counts] = field(default_factory=list)

    def add(self, rows: csr_array, low: Counts, high: Counts) -> None:
        """Learn that low ≤ rows · x ≤ high; rows are (m, n_unknowns)."""
        self._rows.append(rows)
        self._low.append(low)
        self._high.append(high)

    def derivable(self, targets: csr_array, truth: Counts) -> NDArray[np.bool_]:
        """(m,), true where rows · x can only be what it truly is, or no other value was found in time.

        Args:
            targets: (m, n_unknowns).
            truth: (m,), the true values, which agree with everything known.
        """
        open_, rng, idle = np.ones(len(truth), np.bool_), np.random.default_rng(0), 0
        for attempt in range(TOGETHER):
            if open_.any() and idle < 3:
                signs = (
                    np.full(len(truth), 1.0 - 2 * attempt)
                    if attempt < 2
                    else rng.choice([-1.0, 1.0], len(truth))
                )
                before = int(open_.sum())
                self._differ(targets, truth, open_, targets.T @ (signs * open_))
                idle = 0 if open_.sum() < before else idle + 1
        if open_.sum() > ALONE:
            return open_
        for target in np.flatnonzero(open_):
            for sign in (-1.0, 1.0):
                if open_[target]:
                    self._differ(targets, truth, open_, sign * targets[[target]].toarray().ravel())
        return open_

    def _differ(
        self, targets: csr_array, truth: Counts, open_: NDArray[np.bool_], objective: NDArray[np.float64]
    ) -> None:
        """Close every target that differs from the truth in the table that minimises the objective."""
        known = LinearConstraint(vstack(self._rows), np.concatenate(self._low), np.concatenate(self._high))
        found = milp(
            objective,
            integrality=np.ones(self.n_unknowns),
            bounds=Bounds(0, np.inf),
            constraints=known,
            options={"time_limit": SECONDS},
        )
        if found.x is not None:
            open_ &= np.rint(targets @ np.rint(found.x)).astype(np.int64) == truth
