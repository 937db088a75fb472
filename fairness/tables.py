"""Counts by group: exact as summed, or as far as they may be released."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from fairness.metrics import Outcomes
from foedus.errors import AuditError

Counts = NDArray[np.int64]
Reals = NDArray[np.float64]

NOBODY = "nobody"
"""Why nothing is written about a group that is known to be empty."""
UNIT = 2.0**-20
"""Step of the grid that probabilities are summed on, row by row, so that no order changes a sum."""


@dataclass(frozen=True)
class Facts:
    """Counts of one class against the rest; every array is (n_groups,).

    Attributes:
        n: People.
        positives: Of the class.
        negatives: Not of it.
        selected: Decided for it.
        rejected: Decided against it.
        tp: Of it, decided for it.
        fn: Of it, decided against it.
        fp: Not of it, decided for it.
        tn: Not of it, decided against it.
        correct: Decided for their own class, whichever it is.
        wrong: Decided for another.
    """

    n: Counts
    positives: Counts
    negatives: Counts
    selected: Counts
    rejected: Counts
    tp: Counts
    fn: Counts
    fp: Counts
    tn: Counts
    correct: Counts
    wrong: Counts

    @classmethod
    def of(cls, confusion: Counts, positive: int) -> "Facts":
        """From (n_groups, n_classes, n_classes) counts, label by decision."""
        found = Outcomes.of(confusion, positive)
        return cls(**{name: np.asarray(getattr(found, name), np.int64) for name in FACTS})

    def array(self) -> Counts:
        """(n_facts, n_groups), in the order of FACTS."""
        return np.stack([getattr(self, name) for name in FACTS])

    @classmethod
    def from_array(cls, values: Counts) -> "Facts":
        """From (n_facts, n_groups)."""
        return cls(**dict(zip(FACTS, values, strict=True)))


FACTS = tuple(field.name for field in fields(Facts))


@dataclass(frozen=True)
class Released:
    """What is released of one class against the rest: between which values each count lies."""

    low: Facts
    high: Facts

    @property
    def middle(self) -> Facts:
        """The exact counts, and the middle of the others."""
        return Facts.from_array((self.low.array() + self.high.array()) // 2)

    @property
    def exact(self) -> NDArray[np.bool_]:
        """(n_groups,), true where no count is hidden."""
        return np.asarray((self.low.array() == self.high.array()).all(axis=0), np.bool_)


@dataclass(frozen=True)
class GroupTable:
    """One attribute or intersection, summed over sites.

    Attributes:
        key: Attribute ("sex") or intersection ("sex|age_band").
        groups: Names, in the order of the first axis below.
        confusion: (n_groups, n_classes, n_classes), label by decision; zeros in a group with hidden counts.
        scores: (n_groups, 2, n_bins), other classes then positive class, by score bin.
        sites: (n_groups,), number of sites with someone in the group.
        noise: Standard deviation of the noise on each confusion count; 0 outside private studies.
        contributors: (n_groups, n_views, 4), sites with someone in tn, fp, fn and tp of each class looked at.
        expected: (n_groups, n_bins), sum of the positive class's probability, in steps of UNIT.
        moments: (n_groups, 2), sum of squared probabilities, and of those of positives, in steps of UNIT.
        people: (n_groups, 2), number of people, and the sum of their squared numbers of rows.
        within: (n_groups, n_metrics, 6), see `fairness.within`.
        released: Class to what may be written about it; None before disclosure control.
        suppressed: (n_groups,) why nothing may be written about a group; None before disclosure control.
        total: People in all groups together; None before disclosure control.
    """

    key: str
    groups: tuple[str, ...]
    confusion: Counts
    scores: Counts
    sites: Counts
    noise: float = 0.0
    contributors: Counts | None = None
    expected: Counts | None = None
    moments: Counts | None = None
    people: Counts | None = None
    within: Reals | None = None
    released: Mapping[int, Released] | None = None
    suppressed: tuple[str | None, ...] | None = None
    total: int | None = None

    @property
    def n(self) -> Counts:
        """(n_groups,), people in each group, as far as it is released."""
        if self.released is not None:
            return next(iter(self.released.values())).middle.n
        return np.asarray(self.confusion.sum(axis=(1, 2)), np.int64)

    def facts(self, positive: int) -> Released:
        """The counts of a class against the rest; both ends are the same where they are exact.

        Raises:
            AuditError: If disclosure control did not look at this class.
        """
        if self.released is None:
            found = Facts.of(self.confusion, positive)
            return Released(found, found)
        if positive not in self.released:
            raise AuditError(f"class {positive} was not asked for when the sites counted; count again")
        return self.released[positive]

    def hidden(self, k: int) -> tuple[str | None, ...]:
        """(n_groups,) why nothing may be written about a group."""
        if self.suppressed is not None:
            return self.suppressed
        return tuple(f"fewer than {k} people" if n < k else None for n in self.n)

    @property
    def design(self) -> Reals:
        """(n_groups,) rows of one person that tell as much as one: sum m² / sum m over people (Kish 1965).

        Rounded to two decimals; 1 where every person has one row, or where it was not counted.
        """
        found = np.ones(len(self.groups))
        if self.people is None:
            return found
        rows = self.confusion.sum(axis=(1, 2)) if self.released is None else self.n
        usable = (rows > 0) & (self.people[:, 1] > self.people[:, 0])
        found[usable] = np.maximum(1.0, np.round(self.people[usable, 1] / rows[usable], 2))
        return found


@dataclass(frozen=True)
class AuditTotals:
    """Everything the audit is computed from.

    Attributes:
        positive: Index of the positive class.
        n_sites: Sites that contributed anyone.
        tables: Attribute or intersection to its counts.
        views: Classes that are looked at against the rest; the positive one first.
        metrics: Those compared within sites, in the order of `GroupTable.within`.
        cut: Number of score bins below the decisions' threshold; None where it is no edge.
    """

    positive: int
    n_sites: int
    tables: dict[str, GroupTable]
    views: tuple[int, ...] = ()
    metrics: tuple[str, ...] = ()
    cut: int | None = None
