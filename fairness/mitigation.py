"""What could be done about a gap, from the sums the audit already has: other thresholds, for all or by group.

Every bin edge of the score histogram is a threshold whose confusion counts are known exactly. Two
thresholds that are both shown tell of the people between them, so only those are tried that move
nobody or at least k people of every group and label. Nothing here is random.
"""

from dataclasses import dataclass, replace
from math import exp

import numpy as np
from numpy.typing import NDArray

from fairness.counts import AuditCounts
from fairness.edges import logit_of
from fairness.groups import is_known
from fairness.metrics import Outcomes, auc, difference, group_metrics, ratio
from fairness.policy import Gate, Policy
from fairness.tables import AuditTotals, GroupTable
from foedus.errors import AuditError

MIN_POSITIVES = 50
"""A group with fewer keeps the threshold of all: its own would be fitted to noise."""
BY_GROUP = frozenset({"selection_rate", "tpr", "fnr", "fpr", "tnr"})
"""Metrics that a group's own threshold can bring to a value."""


class AsideCounts(AuditCounts):
    """The statistic "audit-aside": the audit's counts for comparison, of another head or of validation data."""

    name = "audit-aside"


@dataclass(frozen=True)
class Cuts:
    """Score histograms of two classes and the thresholds they are exact for.

    Attributes:
        totals: Counts whose bins are cut by `edges`.
        edges: (n_bins - 1,) ascending, in logits of the positive class; the policy's threshold is one.
        now: Index of the policy's threshold in `edges`.
        k: Fewest people a step between two thresholds may tell of.
    """

    totals: AuditTotals
    edges: NDArray[np.float64]
    now: int
    k: int

    def probability(self, index: int) -> float:
        """The threshold at an edge."""
        return float(1 / (1 + exp(-self.edges[index])))

    def at(self, index: int) -> AuditTotals:
        """All counts as they are at another threshold."""
        tables = {
            key: recut(table, np.full(len(table.groups), index), positive=self.totals.positive)
            for key, table in self.totals.tables.items()
        }
        return replace(self.totals, tables=tables)

    def shown(self, key: str) -> NDArray[np.bool_]:
        """(n_groups,) groups that the audit compares."""
        table = self.totals.tables[key]
        return np.asarray([is_known(group) for group in table.groups]) & (table.n >= self.k)

    def safe(self, key: str, group: int) -> NDArray[np.bool_]:
        """(n_bins - 1,) thresholds between which and the policy's there is nobody or at least k of each label."""
        below = np.cumsum(self.totals.tables[key].scores[group], axis=1)[:, :-1]
        moved = np.abs(below - below[:, [self.now]])
        return np.asarray(((moved == 0) | (moved >= self.k)).all(axis=0))

    def safe_for_all(self) -> list[int]:
        """Thresholds that are safe for every compared group of every attribute."""
        fine = np.ones(len(self.edges), bool)
        for key in self.totals.tables:
            for group in np.flatnonzero(self.shown(key)):
                fine &= self.safe(key, int(group))
        return [int(i) for i in np.flatnonzero(fine) if i != self.now]


@dataclass(frozen=True)
class Found:
    """A way to decide otherwise.

    Attributes:
        thresholds: Group to threshold (a probability); "everyone" where there is one for all.
        totals: The counts it gives.
        refused: Why it is not offered; None if it is.
    """

    thresholds: dict[str, float]
    totals: AuditTotals
    refused: str | None = None


def with_threshold(edges: NDArray[np.float64], threshold: float) -> tuple[NDArray[np.float64], int]:
    """Edges with the policy's threshold among them, and its index."""
    cut = logit_of(threshold)
    found = np.union1d(edges, [cut])
    return found, int(np.searchsorted(found, cut))


def cuts(policy: Policy, totals: AuditTotals, edges: NDArray[np.float64], now: int) -> Cuts:
    """The thresholds of an audit with two classes.

    Raises:
        AuditError: If there are more classes, or the counts carry no scores.
    """
    table = next(iter(totals.tables.values()))
    if table.confusion.shape[1] != 2:
        raise AuditError("thresholds exist with two classes only; with more, the highest score decides")
    if table.noise or table.scores.shape[2] != len(edges) + 1:
        raise AuditError("a private study releases no scores; there is nothing to cut anew")
    return Cuts(totals, edges, now, policy.disclosure.k)


def recut(table: GroupTable, index: NDArray[np.int64], *, positive: int) -> GroupTable:
    """The table with every group decided at its own edge.

    Args:
        table: Of two classes.
        index: (n_groups,) of the edge at or above which a score decides for the positive class.
        positive: Index of the positive class.
    """
    upper = np.arange(table.scores.shape[2])[None, :] > index[:, None]
    confusion = np.zeros_like(table.confusion)
    for side, label in enumerate((1 - positive, positive)):
        chosen = (table.scores[:, side] * upper).sum(axis=1)
        confusion[:, label, positive] = chosen
        confusion[:, label, 1 - positive] = table.scores[:, side].sum(axis=1) - chosen
    # Which sites are behind a cell, and gaps within sites, are known at the policy's threshold alone.
    return replace(table, confusion=confusion, contributors=None, within=None)


def one_threshold(found: Cuts, policy: Policy) -> Found:
    """The one threshold for all that comes closest to the gates; of several, the nearest to the policy's."""
    before = standing(found.totals, policy)
    tried = [(index, standing(found.at(index), policy)) for index in found.safe_for_all()]
    if not tried:
        reason = (
            f"no other threshold can be shown without telling of fewer than {found.k} people of some group and "
            "label; more test data would allow it"
        )
        return Found({"everyone": found.probability(found.now)}, found.totals, reason)
    allowed = [each for each in tried if acceptable(each[1], before, policy)]
    nearest = sorted(allowed or tried, key=lambda each: abs(found.edges[each[0]] - found.edges[found.now]))
    index, after = min(nearest, key=lambda each: each[1].order[:2])
    refused = None if allowed else _worse(before, after, policy)
    return Found({"everyone": found.probability(index)}, found.at(index), refused)


def group_thresholds(found: Cuts, policy: Policy, key: str) -> Found:
    """A threshold for each group of an attribute, where policy and law allow it.

    Raises:
        AuditError: If the policy does not allow the attribute at inference.
    """
    if not policy.mitigation.allow_attribute_at_inference:
        raise AuditError(
            f"thresholds by {key} use the attribute for each decision; the policy must set [mitigation] "
            "allow_attribute_at_inference = true and name the legal_basis"
        )
    gates = [gate for gate in policy.gates if gate.attribute == key and gate.metric in BY_GROUP]
    own = replace(found.totals, tables={key: found.totals.tables[key]})
    unchanged = {"everyone": found.probability(found.now)}
    if not gates:
        return Found(unchanged, own, f"no gate on {key} is about a rate that thresholds can move")
    narrow = replace(found, totals=own)
    alone = _alone(policy, key)
    before = standing(own, alone)
    tried = [_by_group(narrow, gates[0].metric, index) for index in range(len(found.edges))]
    standings = [(index, standing(_decided(narrow, key, index), alone)) for index in tried]
    allowed = [each for each in standings if acceptable(each[1], before, policy)]
    index, after = min(allowed or standings, key=lambda each: each[1].order)
    table = own.tables[key]
    thresholds = {
        group: found.probability(int(i))
        for group, i, shown in zip(table.groups, index, found.shown(key), strict=True)
        if shown
    }
    refused = None if allowed else _worse(before, after, policy)
    return Found(thresholds, _decided(narrow, key, index), refused)


@dataclass(frozen=True)
class Standing:
    """How far counts are from the policy's gates.

    Attributes:
        excess: Sum over the gates of what the figure is beyond the tolerance.
        accuracy: Over everyone.
        degenerate: Everyone is decided alike.
    """

    excess: float
    accuracy: float
    degenerate: bool

    @property
    def order(self) -> tuple[bool, float, float]:
        """The best first."""
        return self.degenerate, round(self.excess, 12), -self.accuracy


def gated_value(gate: Gate, totals: AuditTotals, *, k: int) -> float:
    """The gate's figure over the groups it compares; NaN where undefined, or about a class of its own."""
    if gate.positive is not None:
        return float("nan")
    table = totals.tables[gate.attribute or ""]
    rows = np.asarray([is_known(group) for group in table.groups]) & (table.n >= k)
    if gate.metric == "auc":
        return difference(auc(table.scores[rows]).value)
    values = group_metrics(table.confusion[rows], totals.positive)[gate.metric]
    return difference(values) if gate.compare == "max_difference" else ratio(values)


def standing(totals: AuditTotals, policy: Policy) -> Standing:
    """How far counts are from the policy's gates."""
    values = [gated_value(gate, totals, k=policy.disclosure.k) for gate in policy.gates]
    beyond = [_beyond(gate, value) for gate, value in zip(policy.gates, values, strict=True)]
    table = next(iter(totals.tables.values()))
    everyone = Outcomes.of(table.confusion.sum(axis=0)[None], totals.positive)
    chosen, n = int(everyone.tp[0] + everyone.fp[0]), int(everyone.n[0])
    excess = sum(max(0.0, each) for each in beyond if not np.isnan(each))
    return Standing(excess, int(everyone.correct[0]) / max(n, 1), chosen in (0, n))


def _beyond(gate: Gate, value: float) -> float:
    return value - gate.tolerance if gate.compare == "max_difference" else gate.tolerance - value


def acceptable(after: Standing, before: Standing, policy: Policy) -> bool:
    """Closer to the gates at a loss of accuracy that the policy accepts."""
    kept = after.accuracy >= before.accuracy - policy.mitigation.max_accuracy_loss
    return kept and not after.degenerate and after.excess < before.excess


def _worse(before: Standing, after: Standing, policy: Policy) -> str:
    if before.excess == 0:
        return (
            "every gated figure is within its tolerance already; only more evidence can settle what is open"
        )
    if after.excess >= before.excess:
        return "nothing that was tried brings the gated figures closer to their tolerances"
    return (
        f"what was tried costs more than {policy.mitigation.max_accuracy_loss:g} of accuracy "
        f"({before.accuracy:.3f} to {after.accuracy:.3f}) or decides everyone alike"
    )


def _alone(policy: Policy, key: str) -> Policy:
    """The policy with the gates on one attribute."""
    return policy.model_copy(update={"gate": [gate for gate in policy.gates if gate.attribute == key]})


def _by_group(found: Cuts, metric: str, index: int) -> NDArray[np.int64]:
    """(n_groups,) the safe edge of each group at which its metric is nearest the one of all at `index`."""
    [(key, table)] = found.totals.tables.items()
    positive = found.totals.positive
    curves = np.stack(
        [
            group_metrics(recut(table, np.full(len(table.groups), i), positive=positive).confusion, positive)[
                metric
            ]
            for i in range(len(found.edges))
        ]
    )
    pooled = recut(table, np.full(len(table.groups), index), positive=positive).confusion.sum(axis=0)[None]
    target = group_metrics(pooled, positive)[metric][0]
    enough = found.shown(key) & (Outcomes.of(table.confusion, positive).positives >= MIN_POSITIVES)
    chosen = np.full(len(table.groups), found.now)
    for group in np.flatnonzero(enough):
        away = np.where(found.safe(key, int(group)), np.abs(curves[:, group] - target), np.inf)
        if np.isfinite(away).any():
            chosen[group] = int(np.nanargmin(away))
    return chosen


def _decided(found: Cuts, key: str, index: NDArray[np.int64]) -> AuditTotals:
    table = recut(found.totals.tables[key], index, positive=found.totals.positive)
    return replace(found.totals, tables={key: table})
