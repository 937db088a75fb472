"""What the start brings and what training adds: the gates on the head before the first gradient round.

The start is a ridge head (or prototypes) on the frozen backbone, from one round of sums: a disparity
that it has was in the backbone's features and the labels before anybody trained.
"""

from dataclasses import fields
from typing import Any

from fairness.audit import AuditReport, audit_request, build_audit, subject
from fairness.edges import AuditEdges
from fairness.mitigation import AsideCounts
from fairness.policy import load_policy
from foedus.runs import POLICY_FILE, RunFolder
from server.federation import Federation
from server.rounds import Training

PRIVATE = (
    "The policy asks for an audit of the start, which has no place in this study's privacy budget; only the "
    "trained model was audited."
)


def audit_of_start(federation: Federation, training: Training, run: RunFolder) -> AuditReport | None:
    """The audit of the start; None unless the policy asks for it and the study is not private.

    Afterwards statistics are measured with the start's backbone: see `Federation.use`.
    """
    if not (run.path / POLICY_FILE).exists() or federation.study.door.private:
        return None
    policy, study = load_policy(run.path / POLICY_FILE), federation.study
    if not policy.policy.audit_start:
        return None
    seen = subject(study, federation.use(training.start))
    classes, edges_of = seen.classes, AuditEdges(seen.head, seen.positive)
    edges = federation.ask(edges_of, split="test", what="the audit of the start")
    request = audit_request(policy, head=seen.head, positive=seen.positive, edges=edges, classes=classes)
    aside = AsideCounts(**{field.name: getattr(request, field.name) for field in fields(request)})
    totals = federation.ask(aside, split="test", what="the audit of the start")
    return build_audit(policy, totals, model_digest="the start", study_name=study.study.name, classes=classes)


def start_and_trained(
    start: AuditReport | None, trained: AuditReport | None, *, best_round: int
) -> dict[str, Any] | None:
    """Each gate before and after training, for results.json; None if either was not audited."""
    if start is None or trained is None:
        return None
    rows = [
        {
            "metric": after.metric,
            "attribute": after.attribute,
            "compare": after.compare,
            "tolerance": after.tolerance,
            "start": before.found.model_dump(),
            "trained": after.found.model_dump(),
        }
        for before, after in zip(start.gates, trained.gates, strict=True)
    ]
    return {"policy_digest": trained.policy.digest, "best_round": best_round, "gates": rows}


def private_note(federation: Federation, run: RunFolder) -> list[str]:
    """A sentence where the policy asks for what a private study cannot give."""
    if not federation.study.door.private or not (run.path / POLICY_FILE).exists():
        return []
    return [PRIVATE] if load_policy(run.path / POLICY_FILE).policy.audit_start else []
