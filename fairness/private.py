"""The audit of a private study: one table of counts, with noise on every cell, and what it still shows.

Overlapping tables would each need their own noise and would contradict one another. So the sites
count once, over all attributes together, and every table of the report is a margin of that one.
Scores are not counted: the area under the curve stays undefined, and a gate on it inconclusive.
"""

from dataclasses import dataclass, replace
from math import prod, sqrt
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from fairness.counts import AuditCounts
from fairness.groups import SEPARATOR, GroupPlan
from fairness.infer import limits, simultaneous_z
from fairness.metrics import quotient
from fairness.policy import Policy
from fairness.tables import AuditTotals, GroupTable
from foedus.errors import AuditError
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.statistic import Arrays, Quantity, Settings

JOINT = "joint"
MAX_CELLS = 10**6
_ONE_EDGE = np.zeros(1)


@dataclass(frozen=True)
class PrivateAudit:
    """The statistic "private-audit": group of every attribute, by label, by decision.

    One unit adds one to one cell (a unit of several records is spread over theirs), so it
    changes the table by at most 1.

    Attributes:
        counts: The audit it stands for; its score bins are not used.
    """

    counts: AuditCounts
    name: ClassVar[str] = "private-audit"

    @property
    def sizes(self) -> tuple[int, ...]:
        """Groups of each attribute, in the plan's order."""
        return tuple(len(groups) for groups in self.counts.plan.attributes.values())

    def settings(self) -> Settings:
        """As the audit's."""
        return self.counts.settings()

    def arrays(self) -> Arrays:
        """As the audit's."""
        return self.counts.arrays()

    @classmethod
    def from_wire(cls, settings: Settings, arrays: Arrays) -> Self:
        """The same statistic, from what arrived at the site."""
        return cls(AuditCounts.from_wire(settings, arrays))

    def declare(self) -> dict[str, Quantity]:
        """One array, (cells, n_classes, n_classes)."""
        k = self.counts.n_classes
        return {JOINT: Quantity((prod(self.sizes), k, k), low=0.0, sensitivity=1.0)}

    def measure(self, examples: Examples) -> Arrays:
        """One site's table, each unit counted once."""
        k, n_cells = self.counts.n_classes, prod(self.sizes)
        decided = self.counts.judge(examples).decided
        place = (self._cells(examples) * k + examples.labels) * k + decided
        found = np.bincount(place, weights=examples.weights, minlength=n_cells * k * k)
        return {JOINT: found.reshape(n_cells, k, k)}

    def read(self, total: Arrays) -> NDArray[np.float64]:
        """The table of all sites, with its noise: entries may be below zero."""
        return np.asarray(total[JOINT], np.float64)

    def totals(self, joint: NDArray[np.float64], *, deviation: float, n_sites: int) -> AuditTotals:
        """The tables of the report, and how much noise each of their counts carries.

        Args:
            joint: What `read` gave.
            deviation: Standard deviation of the noise on each of its entries.
            n_sites: Sites that answered; which of them have someone in a group is not released.
        """
        k, names = self.counts.n_classes, list(self.counts.plan.attributes)
        table = joint.reshape(*self.sizes, k, k)
        tables = {}
        for key, groups in self.counts.plan.tables().items():
            kept = [names.index(name) for name in key.split(SEPARATOR)]
            others = tuple(axis for axis in range(len(names)) if axis not in kept)
            margin = table.sum(axis=others)
            order = np.argsort(np.argsort(kept))  # the margin has its attributes in the plan's order
            margin = margin.transpose(*order, len(kept), len(kept) + 1).reshape(len(groups), k, k)
            tables[key] = GroupTable(
                key,
                groups,
                np.maximum(np.rint(margin), 0).astype(np.int64),
                np.zeros((len(groups), 2, 2), np.int64),
                np.full(len(groups), n_sites, np.int64),
                noise=deviation * sqrt(prod(self.sizes[axis] for axis in others)),
            )
        return AuditTotals(self.counts.positive, n_sites, tables)

    def _cells(self, examples: Examples) -> NDArray[np.int64]:
        plan = self.counts.plan
        names = tuple(plan.attributes)
        together = GroupPlan(plan.attributes, (names,) if len(names) > 1 else ())
        return together.codes(examples)[SEPARATOR.join(names)]


def private_audit_request(policy: Policy, *, head: LinearHead, positive: int) -> PrivateAudit:
    """What to ask the sites of a private study for.

    Raises:
        AuditError: If the attributes together have too many groups.
    """
    counts = AuditCounts(policy.plan, head, positive, policy.policy.decision_threshold, _ONE_EDGE)
    request = PrivateAudit(counts)
    cells = prod(request.sizes) * len(head.bias) ** 2
    if cells > MAX_CELLS:
        raise AuditError(
            f"the policy's attributes make {cells} cells together; a private audit counts over all of them at "
            f"once and takes at most {MAX_CELLS}: name fewer attributes or groups"
        )
    return request


def noise_notes(policy: Policy, totals: AuditTotals) -> list[str]:
    """What privacy costs each group: how much wider its interval is than the same counts' without noise."""
    z = simultaneous_z(2, policy.evidence.alpha)
    notes = ["Scores are not counted in a private study, so the area under the curve is undefined here."]
    for key, table in totals.tables.items():
        spread = f"{table.noise:.1f}"
        notes.append(f"{key}: each count carries noise with a standard deviation of about {spread} people.")
        metrics = sorted({gate.metric for gate in policy.gates if gate.attribute == key} - {"auc"})
        for metric in metrics:
            noisy = limits(metric, table, totals.positive, z=z)
            exact = limits(metric, replace(table, noise=0.0), totals.positive, z=z)
            wider = quotient(noisy.high - noisy.low, exact.high - exact.low)
            shown = [
                f"{group} {ratio:.1f} times"
                for group, ratio, n in zip(table.groups, wider, table.n, strict=True)
                if not np.isnan(ratio) and n >= policy.disclosure.k
            ]
            if shown:
                notes.append(f"{key}, {metric}: the noise makes the interval wider, of {', '.join(shown)}.")
    return notes
