"""What a site contributes to the audit: whole numbers, per group, that add up between sites.

The second pass, "audit": for every group, label by decision and label by score bin, sums of the
scores, people behind the rows, and what a gated metric's gap is within this site. The edges of the
bins come from the first pass (edges.py).
"""

from dataclasses import dataclass
from math import prod
from typing import Annotated, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import expit

from fairness import within
from fairness.edges import (
    GRID,
    SCORES,
    bin_of,
    chunks,
    expect_arrays,
    head_from_wire,
    logit_of,
    positive_logit,
    refused,
    scores,
)
from fairness.groups import GroupPlan, is_known
from fairness.metrics import PROPORTIONS, Outcomes
from fairness.tables import UNIT, AuditTotals, GroupTable
from foedus.config import Section, validate
from foedus.errors import AuditError, DataError
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.statistic import Arrays, Quantity, Settings, count

Counts = NDArray[np.int64]

CONFUSION, SITES, CONTRIBUTORS = "confusion", "sites", "sites-of-cells"
EXPECTED, MOMENTS, PEOPLE, WITHIN = "expected", "moments", "people", "within"


class _CountsRequest(Section):
    groups: str = Field(max_length=65_536)
    positive: int = Field(ge=0)
    threshold: float = Field(gt=0, lt=1)
    views: list[Annotated[int, Field(ge=0)]] = []
    metrics: list[str] = []


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
        others: Further classes to look at against the rest.
        metrics: Shares to compare within each site, by attribute.
    """

    name: ClassVar[str] = "audit"
    plan: GroupPlan
    head: LinearHead
    positive: int
    threshold: float
    edges: NDArray[np.float64]
    others: tuple[int, ...] = ()
    metrics: tuple[str, ...] = ()

    @property
    def n_classes(self) -> int:
        """Number of the head's outputs."""
        return len(self.head.bias)

    @property
    def views(self) -> tuple[int, ...]:
        """Classes to look at against the rest; the positive one first."""
        return (self.positive, *self.others)

    def settings(self) -> Settings:
        return {
            "groups": self.plan.to_json(),
            "positive": self.positive,
            "threshold": self.threshold,
            "views": list(self.others),
            "metrics": list(self.metrics),
        }

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
        views = (request.positive, *request.views)
        if len(set(views)) < len(views) or max(views) >= len(head.bias):
            raise refused(f"views are {request.views}; expected other classes of the head, each once")
        if len(set(request.metrics)) < len(request.metrics) or not set(request.metrics) <= PROPORTIONS.keys():
            raise refused(f"metrics are {request.metrics}; expected some of {', '.join(PROPORTIONS)}")
        further = (views[1:], tuple(request.metrics))
        return cls(plan, head, request.positive, request.threshold, edges.astype(np.float64), *further)

    def declare(self) -> dict[str, Quantity]:
        k, bins = self.n_classes, len(self.edges) + 1
        declared = {SITES: _indicator(1)}
        for key, groups in self.plan.tables().items():
            g = len(groups)
            declared[f"{CONFUSION}:{key}"] = count(g, k, k)
            declared[f"{SCORES}:{key}"] = count(g, 2, bins)
            declared[f"{SITES}:{key}"] = _indicator(g)
            declared[f"{CONTRIBUTORS}:{key}"] = _indicator(g, len(self.views), 4)
            declared[f"{EXPECTED}:{key}"] = count(g, bins)
            declared[f"{MOMENTS}:{key}"] = count(g, 2)
            declared[f"{PEOPLE}:{key}"] = count(g, 2)
            if key in self.plan.attributes and self.metrics:
                declared[f"{WITHIN}:{key}"] = within.quantity(g, len(self.metrics))
        return declared

    def measure(self, examples: Examples) -> Arrays:
        labels, k = examples.labels, self.n_classes
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < k:
            raise DataError(f"a label is outside the study's {k} classes; correct the site's labels")
        judged = self.judge(examples)
        found: Arrays = {SITES: np.asarray([int(len(labels) > 0)], np.int64)}
        codes = self.plan.codes(examples)
        for key, groups in self.plan.tables().items():
            measured = self._table(judged, labels, codes[key], len(groups))
            confusion = measured[CONFUSION].astype(np.int64)
            measured[PEOPLE] = _people(codes[key], examples.owners, confusion.sum(axis=(1, 2)))
            if key in self.plan.attributes and self.metrics:
                known = np.asarray([is_known(group) for group in groups])
                measured[WITHIN] = within.measure(confusion, self.positive, self.metrics, known=known)
            found |= {f"{name}:{key}": array for name, array in measured.items()}
        return found

    def _table(self, judged: "Judged", labels: Counts, code: Counts, g: int) -> Arrays:
        """The arrays of one attribute or intersection with g groups."""
        k, bins = self.n_classes, len(self.edges) + 1
        positive = labels == self.positive
        confusion = _tally(code * (k * k) + labels * k + judged.decided, (g, k, k))
        cells = [np.stack([o.tn, o.fp, o.fn, o.tp]) for o in (Outcomes.of(confusion, c) for c in self.views)]
        moments = [(code, judged.squares), (code[positive], judged.steps[positive])]
        return {
            CONFUSION: confusion,
            SCORES: _tally(code * (2 * bins) + positive * bins + judged.binned, (g, 2, bins)),
            SITES: (confusion.sum(axis=(1, 2)) > 0).astype(np.int64),
            CONTRIBUTORS: (np.stack(cells).transpose(2, 0, 1) > 0).astype(np.int64),
            EXPECTED: _tally(code * bins + judged.binned, (g, bins), judged.steps),
            MOMENTS: np.stack([_tally(where, (g,), what) for where, what in moments], axis=1),
        }

    def read(self, total: Arrays) -> AuditTotals:
        """The counts by name.

        Raises:
            AuditError: If the sums contradict each other (a site sent something it did not count).
        """
        tables = {key: _read_table(key, groups, total) for key, groups in self.plan.tables().items()}
        _check_sums(list(tables.values()), self.positive)
        n_sites = int(total[SITES].astype(np.int64)[0])
        return AuditTotals(self.positive, n_sites, tables, self.views, self.metrics, self._cut())

    def _cut(self) -> int | None:
        """Number of bins below the threshold; None where it is no edge, or with more than two classes."""
        cut = logit_of(self.threshold)
        index = int(np.searchsorted(self.edges, cut))
        is_edge = index < len(self.edges) and float(self.edges[index]) == cut
        return index + 1 if self.n_classes == 2 and is_edge else None

    def judge(self, examples: Examples) -> "Judged":
        """What the head makes of every row."""
        decided, binned, steps, squares = (np.zeros(len(examples), np.int64) for _ in range(4))
        for rows in chunks(len(examples)):
            found = scores(self.head, examples.features[rows])
            logit = positive_logit(found, self.positive)
            probability = expit(logit)
            binned[rows] = bin_of(logit, self.edges)
            steps[rows] = np.rint(probability / UNIT)
            squares[rows] = np.rint(probability * probability / UNIT)
            if self.n_classes == 2:
                decided[rows] = np.where(logit >= logit_of(self.threshold), self.positive, 1 - self.positive)
            else:
                decided[rows] = found.argmax(axis=1)
        return Judged(decided, binned, steps, squares)


@dataclass(frozen=True)
class Judged:
    """What a head makes of rows; every array is (n,), int64.

    Attributes:
        decided: The class decided for.
        binned: The bin of the positive class's score.
        steps: The positive class's probability, in steps of UNIT.
        squares: Its square, in steps of UNIT.
    """

    decided: Counts
    binned: Counts
    steps: Counts
    squares: Counts


def _tally(place: Counts, shape: tuple[int, ...], steps: Counts | None = None) -> Counts:
    """How many rows (or steps) fall on each place of an array of this shape; exact below 2^53."""
    found = np.bincount(place, weights=steps, minlength=prod(shape))
    return found.reshape(shape).astype(np.int64)


def _people(code: Counts, owners: Counts | None, rows: Counts) -> Counts:
    """(n_groups, 2): people in each group, and the sum of their squared numbers of rows there."""
    if owners is None or not len(owners) or int(np.bincount(owners).max()) == 1:
        return np.stack([rows, rows], axis=1)
    pair, each = np.unique(owners * len(rows) + code, return_counts=True)
    group = pair % len(rows)
    return np.stack([_tally(group, rows.shape), _tally(group, rows.shape, each * each)], axis=1)


def _read_table(key: str, groups: tuple[str, ...], total: Arrays) -> GroupTable:
    found = {name: total[f"{name}:{key}"].astype(np.int64) for name in _WHOLE}
    return GroupTable(
        key,
        groups,
        found[CONFUSION],
        found[SCORES],
        found[SITES],
        contributors=found[CONTRIBUTORS],
        expected=found[EXPECTED],
        moments=found[MOMENTS],
        people=found[PEOPLE],
        within=total[f"{WITHIN}:{key}"].astype(np.float64) if f"{WITHIN}:{key}" in total else None,
    )


_WHOLE = (CONFUSION, SCORES, SITES, CONTRIBUTORS, EXPECTED, MOMENTS, PEOPLE)


def _indicator(*shape: int) -> Quantity:
    return Quantity(shape, "count", 0, 1, 1.0)


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
