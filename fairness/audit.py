"""The audit of a trained head: from summed counts and a policy to a report with a verdict."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fairness.counts import AuditCounts, AuditTotals, GroupTable
from fairness.findings import Attribute, AuditReport, Gap, Group, PolicyUsed, Rate
from fairness.gate import as_estimate, compare, decide, overall_verdict
from fairness.groups import is_known
from fairness.infer import (
    Interval,
    Limits,
    detectable_gap,
    largest_difference,
    limits,
    null_variance,
    simultaneous_z,
    smallest_ratio,
)
from fairness.infer import trials as taken_over
from fairness.metrics import PROPORTIONS, Outcomes, auc, group_metrics
from fairness.policy import Policy
from foedus.errors import AuditError
from foedus.head import LinearHead

__all__ = ["AuditReport", "audit_request", "build_audit"]

INTERVAL_METRICS = (*PROPORTIONS, "auc")
PLAIN_METRICS = ("balanced_accuracy", "f1")

LIMITS = [
    "Every row counts as one independent person; several rows of one person make the intervals too narrow.",
    "Each gate is decided at its own level alpha; there is no correction over several gates.",
    "Groups of fewer than k people are suppressed, but nothing stops a reader from subtracting published "
    "groups from published totals.",
    "The counts are what the sites report; they are not signed.",
    "Labels are taken as true; if sites label groups differently, this audit does not see it.",
]


def audit_request(
    policy: Policy, *, head: LinearHead, positive: int, edges: NDArray[np.float64]
) -> AuditCounts:
    """What to ask the sites for, given the edges that "audit-edges" found."""
    return AuditCounts(policy.plan, head, positive, policy.policy.decision_threshold, edges)


def build_audit(
    policy: Policy,
    totals: AuditTotals,
    *,
    model_digest: str,
    study_name: str,
    classes: Sequence[str],
    notes: Sequence[str] = (),
) -> AuditReport:
    """The report on summed counts. The same input gives the same bytes.

    Raises:
        AuditError: If the counts do not belong to the policy or the classes.
    """
    _check(policy, totals, classes)
    tables, positive = totals.tables, totals.positive
    gates = [decide(gate, tables[gate.attribute or ""], positive, policy) for gate in policy.gates]
    verdict, reasons = overall_verdict(gates)
    everyone = _everyone(next(iter(tables.values())))
    audited = [_attribute(table, positive, policy) for table in tables.values()]
    n_single = len(policy.attributes)
    return AuditReport(
        study=study_name,
        model_digest=model_digest,
        classes=list(classes),
        positive=classes[positive],
        policy=_policy_used(policy, n_classes=len(classes)),
        verdict=verdict,
        reasons=reasons,
        n=int(everyone.n[0]),
        positives=int(Outcomes.of(everyone.confusion, positive).positives[0]),
        sites=totals.n_sites,
        overall=_rates(everyone, positive, alpha=policy.evidence.alpha)[0],
        gates=gates,
        attributes=audited[:n_single],
        intersections=audited[n_single:],
        limits=LIMITS,
        notes=list(notes),
    )


def _check(policy: Policy, totals: AuditTotals, classes: Sequence[str]) -> None:
    expected = policy.plan.tables()
    if {key: table.groups for key, table in totals.tables.items()} != expected:
        raise AuditError("the counts are of other groups than the policy's; count again with this policy")
    table = next(iter(totals.tables.values()))
    if table.confusion.shape[1] != len(classes):
        raise AuditError(
            f"the counts are of {table.confusion.shape[1]} classes but {len(classes)} are named; "
            "audit a head of this study"
        )
    if int(table.n.sum()) < policy.disclosure.k:
        raise AuditError(
            f"there are fewer than {policy.disclosure.k} people in all sites' test data (disclosure.k); "
            "nothing can be written about them"
        )


def _everyone(table: GroupTable) -> GroupTable:
    """The table with all groups as one."""
    confusion, scores = table.confusion.sum(axis=0)[None], table.scores.sum(axis=0)[None]
    noise = table.noise * np.sqrt(len(table.groups))
    return GroupTable("everyone", ("everyone",), confusion, scores, np.ones(1, np.int64), noise=float(noise))


def _attribute(table: GroupTable, positive: int, policy: Policy) -> Attribute:
    k, alpha = policy.disclosure.k, policy.evidence.alpha
    rates = _rates(table, positive, alpha=alpha)
    detectable = _detectable(table, positive, k=k, alpha=alpha)
    outcomes = Outcomes.of(table.confusion, positive)
    groups = []
    for i, name in enumerate(table.groups):
        if table.n[i] < k:
            groups.append(_suppressed(name, k))
            continue
        with_gap = {
            m: rate.model_copy(update={"detectable_gap": detectable.get((m, i))})
            for m, rate in rates[i].items()
        }
        groups.append(
            Group(
                group=name,
                suppressed=None,
                n=int(table.n[i]),
                positives=int(outcomes.positives[i]),
                sites=int(table.sites[i]),
                compared=is_known(name),
                rates=with_gap,
            )
        )
    gaps = [_gap(metric, table, positive, policy) for metric in INTERVAL_METRICS]
    return Attribute(attribute=table.key, groups=groups, gaps=gaps)


def _suppressed(name: str, k: int) -> Group:
    reason = f"fewer than {k} people"
    return Group(group=name, suppressed=reason, n=None, positives=None, sites=None, compared=False, rates={})


def _rates(table: GroupTable, positive: int, *, alpha: float) -> list[dict[str, Rate]]:
    """Every metric of every group, with the group's own interval."""
    z = simultaneous_z(2, alpha)
    plain, areas = group_metrics(table.confusion, positive), auc(table.scores)
    spread = {metric: limits(metric, table, positive, z=z) for metric in INTERVAL_METRICS}
    over = {metric: taken_over(metric, table, positive) for metric in PROPORTIONS}
    found = []
    for i in range(len(table.groups)):
        rates = {
            metric: Rate(
                **_at(spread[metric], i),
                trials=int(over[metric][i]) if metric in over else None,
                bound=_null(areas.bound[i]) if metric == "auc" else None,
            )
            for metric in INTERVAL_METRICS
        }
        for metric in PLAIN_METRICS:
            rates[metric] = Rate(value=_null(plain[metric][i]), low=None, high=None, trials=None)
        found.append(rates)
    return found


def _detectable(table: GroupTable, positive: int, *, k: int, alpha: float) -> dict[tuple[str, int], float]:
    """Metric and group to the smallest difference to the largest group that would be found."""
    found = {}
    for metric in INTERVAL_METRICS:
        compared = compare(metric, table, positive, k=k, alpha=alpha)
        rows = np.flatnonzero(~np.isnan(compared.found.value))
        if len(rows) < 2:
            continue
        z = simultaneous_z(len(rows), alpha)
        n = taken_over(metric, table, positive)
        largest = int(rows[np.argmax(n[rows])])
        variance = null_variance(metric, table, positive, rows=rows)
        for i in rows[rows != largest]:
            if not np.isnan(variance[i] + variance[largest]):
                found[metric, int(i)] = detectable_gap(float(variance[i]), float(variance[largest]), z=z)
    return found


def _gap(metric: str, table: GroupTable, positive: int, policy: Policy) -> Gap:
    compared = compare(metric, table, positive, k=policy.disclosure.k, alpha=policy.evidence.alpha)
    difference = largest_difference(compared.found)
    defined = compared.n_groups > 1
    return Gap(
        metric=metric,
        lowest=compared.lowest if defined else None,
        highest=compared.highest if defined else None,
        difference=as_estimate(difference),
        ratio=None if metric == "auc" else as_estimate(smallest_ratio(compared.found)),
    )


def _policy_used(policy: Policy, *, n_classes: int) -> PolicyUsed:
    identity, evidence = policy.policy, policy.evidence
    return PolicyUsed(
        name=identity.name,
        profile=identity.profile,
        digest=policy.digest,
        decision_threshold=identity.decision_threshold if n_classes == 2 else None,
        **evidence.model_dump(),
        k=policy.disclosure.k,
    )


def _at(found: Limits, i: int) -> dict[str, float | None]:
    interval = Interval(float(found.value[i]), float(found.low[i]), float(found.high[i]))
    return as_estimate(interval).model_dump()


def _null(value: np.float64) -> float | None:
    return None if np.isnan(value) else float(value)
