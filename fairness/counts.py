"""What a site contributes to the audit: whole numbers, per group, that add up between sites.

The second pass, "audit": for every group, label by decision and label by score bin. The edges
of the bins come from the first pass (edges.py).
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fairness.edges import (
    GRID,
    SCORES,
    bin_of,
    chunks,
    expect_arrays,
    head_from_wire,
    positive_logit,
    refused,
    scores,
)
from fairness.groups import GroupPlan
from foedus.config import Section, validate
from foedus.errors import AuditError, DataError
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.statistic import Arrays, Quantity, Settings, count

Counts = NDArray[np.int64]

CONFUSION, SITES = "confusion", "sites"


@dataclass(frozen=True)
class GroupTable:
    """One attribute or intersection, summed over sites.

    Attributes:
        key: Attribute ("sex") or intersection ("sex|age_band").
        groups: Names, in the order of the first axis below.
        confusion: (n_groups, n_classes, n_classes), label by decision.
        scores: (n_groups, 2, n_bins), other classes then positive class, by score bin.
        sites: (n_groups,), number of sites with someone in the group.
        noise: Standard deviation of the noise on each confusion count; 0 outside private studies.
    """

    key: str
    groups: tuple[str, ...]
    confusion: Counts
    scores: Counts
    sites: Counts
    noise: float = 0.0

    @property
    def n(self) -> Counts:
        """(n_groups,), people in each group."""
        return np.asarray(self.confusion.sum(axis=(1, 2)), np.int64)


@dataclass(frozen=True)
class AuditTotals:
    """Everything the audit is computed from.

    Attributes:
        positive: Index of the positive class.
        n_sites: Sites that contributed anyone.
        tables: Attribute or intersection to its counts.
    """

    positive: int
    n_sites: int
    tables: dict[str, GroupTable]


class _CountsRequest(Section):
    groups: str = Field(max_length=65_536)
    positive: int = Field(ge=0)
    threshold: float = Field(gt=0, lt=1)


@dataclass(frozen=True)
class AuditCounts:
    """Second pass: label by decision and label by score bin, in every group.

    Attributes:
        plan: Groups and intersections.
        head: The head that is audited.
        positive: Index of the positive class.
        threshold: Two classes: a probability of the positive class at or above it decides
            for it. More classes: the highest score decides.
        edges: (n_bins - 1,) ascending, in logits of the positive class.
    """

    name: ClassVar[str] = "audit"
    plan: GroupPlan
    head: LinearHead
    positive: int
    threshold: float
    edges: NDArray[np.float64]

    @property
    def n_classes(self) -> int:
        """Number of the head's outputs."""
        return len(self.head.bias)

    def settings(self) -> Settings:
        return {"groups": self.plan.to_json(), "positive": self.positive, "threshold": self.threshold}

    def arrays(self) -> Arrays:
        return {**self.head.arrays(), "edges": self.edges}

    @classmethod
    def from_wire(cls, settings: Settings, arrays: Arrays) -> Self:
        request = validate(_CountsRequest, settings, source="the audit request")
        expect_arrays(arrays, {"weight", "bias", "edges"})
        plan, head = GroupPlan.from_json(request.groups), head_from_wire(arrays, request.positive)
        edges = arrays["edges"]
        if edges.dtype != np.float64 or edges.ndim != 1 or not 1 <= len(edges) < len(GRID):
            raise refused(f"edges are {edges.dtype} of shape {edges.shape}; 1 to {len(GRID) - 1} float64")
        if not np.isfinite(edges).all() or (np.diff(edges.astype(np.float64)) <= 0).any():
            raise refused("edges do not ascend")
        return cls(plan, head, request.positive, request.threshold, edges.astype(np.float64))

    def declare(self) -> dict[str, Quantity]:
        k, bins = self.n_classes, len(self.edges) + 1
        declared = {SITES: _indicator(1)}
        for key, groups in self.plan.tables().items():
            declared[f"{CONFUSION}:{key}"] = count(len(groups), k, k)
            declared[f"{SCORES}:{key}"] = count(len(groups), 2, bins)
            declared[f"{SITES}:{key}"] = _indicator(len(groups))
        return declared

    def measure(self, examples: Examples) -> Arrays:
        k, bins = self.n_classes, len(self.edges) + 1
        labels = examples.labels
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < k:
            raise DataError(f"a label is outside the study's {k} classes; correct the site's labels")
        decided, binned = self.decisions_and_bins(examples)
        outcome = labels * k + decided
        scored = (labels == self.positive) * bins + binned
        found: Arrays = {SITES: np.asarray([int(len(labels) > 0)], np.int64)}
        codes = self.plan.codes(examples)
        for key, groups in self.plan.tables().items():
            code, g = codes[key], len(groups)
            confusion = np.bincount(code * (k * k) + outcome, minlength=g * k * k).reshape(g, k, k)
            histogram = np.bincount(code * (2 * bins) + scored, minlength=g * 2 * bins)
            found[f"{CONFUSION}:{key}"] = confusion.astype(np.int64)
            found[f"{SCORES}:{key}"] = histogram.reshape(g, 2, bins).astype(np.int64)
            found[f"{SITES}:{key}"] = (confusion.sum(axis=(1, 2)) > 0).astype(np.int64)
        return found

    def read(self, total: Arrays) -> AuditTotals:
        """The counts by name.

        Raises:
            AuditError: If the sums contradict each other (a site sent something it did not count).
        """
        tables = {
            key: GroupTable(
                key,
                groups,
                total[f"{CONFUSION}:{key}"].astype(np.int64),
                total[f"{SCORES}:{key}"].astype(np.int64),
                total[f"{SITES}:{key}"].astype(np.int64),
            )
            for key, groups in self.plan.tables().items()
        }
        _check_sums(list(tables.values()), self.positive)
        return AuditTotals(self.positive, int(total[SITES].astype(np.int64)[0]), tables)

    def decisions_and_bins(self, examples: Examples) -> tuple[Counts, Counts]:
        """(n,) decisions and (n,) score bins."""
        decided = np.zeros(len(examples), np.int64)
        binned = np.zeros(len(examples), np.int64)
        for rows in chunks(len(examples)):
            found = scores(self.head, examples.features[rows])
            logit = positive_logit(found, self.positive)
            binned[rows] = bin_of(logit, self.edges)
            if self.n_classes == 2:
                cut = np.log(self.threshold) - np.log1p(-self.threshold)
                decided[rows] = np.where(logit >= cut, self.positive, 1 - self.positive)
            else:
                decided[rows] = found.argmax(axis=1)
        return decided, binned


def _indicator(n: int) -> Quantity:
    return Quantity((n,), "count", 0, 1, 1.0)


def _check_sums(tables: list[GroupTable], positive: int) -> None:
    first = tables[0].confusion.sum(axis=0)
    for table in tables:
        labels = table.confusion.sum(axis=2)
        positives = table.scores[:, 1].sum(axis=1)
        if (
            min(table.confusion.min(), table.scores.min(), table.sites.min()) < 0
            or not np.array_equal(table.confusion.sum(axis=0), first)
            or not np.array_equal(positives, labels[:, positive])
            or not np.array_equal(table.scores.sum(axis=(1, 2)), table.n)
        ):
            raise AuditError(f"the counts for '{table.key}' contradict each other; a site miscounted")
