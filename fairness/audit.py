"""The audit of a trained head: from summed counts and a policy to a report with a verdict."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fairness.counts import AuditCounts
from fairness.describe import describe, group_rates
from fairness.disclose import disclose, everyone
from fairness.edges import logit_of
from fairness.family import decide_all, positive_of
from fairness.findings import AuditReport, PolicyUsed
from fairness.gate import overall_verdict
from fairness.metrics import PROPORTIONS
from fairness.policy import Policy
from fairness.rounding import rounded
from fairness.tables import AuditTotals
from foedus.errors import AuditError
from foedus.head import LinearHead
from foedus.study import Study

__all__ = ["AuditReport", "audit_request", "build_audit"]

LIMITS = [
    "Several rows of one person at one site are allowed for by a design effect; one person at two sites "
    "counts as two.",
    "No small count can be worked out from what is written here. Who knows more than that, such as all but "
    "one of a group, may learn more.",
    "The counts are what the sites report; each commits to its own, which an auditor on site can check.",
    "Labels are taken as true; if sites label groups differently, this audit does not see it.",
]


@dataclass(frozen=True)
class Subject:
    """What is audited.

    Attributes:
        head: On standardised features.
        positive: Index of the positive class.
        classes: Their names.
        notes: What the report has to say about it.
    """

    head: LinearHead
    positive: int
    classes: list[str]
    notes: list[str] = field(default_factory=list)


def subject(study: Study, head: LinearHead) -> Subject:
    """A study's head with its classes or, of a multilabel study, the label study.positive as two: no and yes.

    There each site counts that label alone (`Examples.of_label`).
    """
    if not study.multilabel:
        return Subject(head, study.positive_index, study.study.classes)
    label = study.study.classes[study.positive_index]
    others = ", ".join(name for name in study.study.classes if name != label)
    note = f"The audit, and so its verdict, is of the label '{label}' alone; nothing is said of {others}."
    return Subject(head.of_label(study.positive_index), 1, [f"not {label}", label], [note])


def audit_request(
    policy: Policy,
    *,
    head: LinearHead,
    positive: int,
    edges: NDArray[np.float64],
    classes: Sequence[str] = (),
) -> AuditCounts:
    """What to ask the sites for.

    Args:
        policy: Names the groups.
        head: The head that is audited.
        positive: Index of the positive class.
        edges: Those that "audit-edges" found; with two classes the decisions' threshold is put among them.
        classes: The study's, for gates about another class than the positive one.

    Raises:
        AuditError: If a gate is about a class that is not there.
    """
    threshold = policy.policy.decision_threshold
    if len(head.bias) == 2:
        edges = np.union1d(edges, [logit_of(threshold)])
    totals = AuditTotals(positive, 0, {})
    about = [positive_of(gate, totals, classes) for gate in policy.gates]
    others = tuple(sorted(set(about) - {positive}))
    gated = {gate.metric for gate in policy.gates if gate.positive is None}
    metrics = tuple(metric for metric in PROPORTIONS if metric in gated)
    return AuditCounts(policy.plan, head, positive, threshold, edges, others, metrics)


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

    Disclosure control comes first; everything after it sees only counts that may be written.

    Raises:
        AuditError: If the counts do not belong to the policy or the classes, or are too few to write.
    """
    _check(policy, totals, classes)
    whole, totals = everyone(totals, policy), disclose(totals, policy)
    gates = decide_all(policy, totals, classes)
    verdict, reasons = overall_verdict(gates)
    audited = [describe(table, totals, policy) for table in totals.tables.values()]
    n_single, counted = len(policy.attributes), whole.facts(totals.positive)
    low, high = int(counted.low.positives[0]), int(counted.high.positives[0])
    report = AuditReport(
        study=study_name,
        model_digest=model_digest,
        classes=list(classes),
        positive=classes[totals.positive],
        policy=_policy_used(policy, n_classes=len(classes)),
        verdict=verdict,
        reasons=reasons,
        n=int(counted.middle.n[0]),
        positives=int(counted.middle.positives[0]),
        positives_between=None if low == high else [low, high],
        sites=totals.n_sites,
        overall=group_rates(whole, totals.positive, alpha=policy.evidence.alpha)[0],
        gates=gates,
        attributes=audited[:n_single],
        intersections=audited[n_single:],
        limits=LIMITS,
        notes=list(notes),
    )
    return rounded(report, policy.disclosure.round_n_to)


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


def _policy_used(policy: Policy, *, n_classes: int) -> PolicyUsed:
    identity, rules = policy.policy, policy.disclosure
    return PolicyUsed(
        name=identity.name,
        profile=identity.profile,
        digest=policy.digest,
        decision_threshold=identity.decision_threshold if n_classes == 2 else None,
        **policy.evidence.model_dump(),
        k=rules.k,
        disclosure_profile=rules.profile,
        zero_allowed=rules.zero_allowed,
        disclosure_min_sites=rules.min_sites,
        round_n_to=rules.round_n_to,
    )
