"""The approval of an audit: what is signed, what a verdict has to follow from, and what may be waived."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from math import nan
from typing import Any, Literal

from pydantic import Field

from fairness import signing
from fairness.findings import Attribute, AuditReport, GateResult, Group
from fairness.gate import TAKEN_OVER, overall_verdict
from fairness.groups import is_known
from fairness.policy import Gate, Policy
from fairness.signing import PublicKey, Signature
from foedus.config import Section, nearest
from foedus.errors import ApprovalError

ROUNDED = 5e-4
"""Figures that are rounded, where the policy asks for it, are off by at most this."""
POLICY_WAIVER = "policy"
"""Waives that the policy was changed after the evaluation."""


class Waiver(Section):
    """What a signer accepts although it is not shown, and why."""

    gate: str
    """"tpr:sex", or "policy" for a policy that was changed after the evaluation."""
    reason: str


class LogHead(Section):
    """How far log.jsonl went when it was signed."""

    size_bytes: int = Field(ge=0)
    sha256: str


class Statement(Section):
    """What an approval says; its signature covers every field."""

    run: str
    study: str
    verdict: Literal["pass", "inconclusive"]
    files: dict[str, str]
    """Path below the run folder to sha256: study, policy, model, results, audit, report and the rest."""
    log: LogHead
    waivers: list[Waiver]
    reason: str | None
    expires: str | None
    """Last day it holds (ISO 8601, UTC); null for ever."""

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON, hexadecimal."""
        return signing.digest_of(self.model_dump())


class Approval(Section):
    """A statement and who signed it."""

    statement: Statement
    signature: Signature


class Approvals(Section):
    """approval.json: one approval for each key that signed."""

    format: Literal["foedus-approval/1"] = "foedus-approval/1"
    approvals: list[Approval]


def gate_name(gate: GateResult) -> str:
    """What a waiver calls a gate: "tpr:sex"."""
    return f"{gate.metric}:{gate.attribute}"


def privacy_failures(results: Mapping[str, Any]) -> list[str]:
    """Attacks in results.json that showed more than the study claims; nobody can waive them."""
    privacy = results.get("privacy") or {}
    attack, at_site = privacy.get("attack"), privacy.get("at_site")
    found = []
    if attack and not attack["within_claim"]:
        found.append(f"an attack shows epsilon {attack['lower_bound']:.2f}; {attack['claim']:.2f} is claimed")
    if attack and attack.get("clipping_held") is False:
        found.append("one unit changed a contribution by more than the clip, so the noise does not hide it")
    if at_site and at_site.get("verdict") == "fail":
        found.append(f"the attack at site {at_site['site']} shows more than the study claims")
    return found


def waivers(report: AuditReport, policy: Policy, given: Mapping[str, str]) -> list[Waiver]:
    """What has to be waived for this audit to be approved, with the reasons given.

    Args:
        report: The audit.
        policy: Its policy, which says whether an inconclusive gate may be waived.
        given: What is waived ("tpr:sex", "policy") to the reason.

    Raises:
        ApprovalError: If the verdict is fail, a waiver is missing or not allowed, or one waives nothing.
    """
    if report.verdict == "fail":
        raise ApprovalError(
            "the verdict is fail; it cannot be approved or waived. " + " ".join(report.reasons)
        )
    needed = dict.fromkeys(gate_name(gate) for gate in report.gates if gate.verdict == "inconclusive")
    if needed and policy.evidence.inconclusive == "block":
        raise ApprovalError(
            f"{', '.join(needed)}: inconclusive, and the policy blocks that ([evidence] inconclusive = "
            '"block"); gather more evidence'
        )
    if report.policy_origin is None or report.policy_origin.after_evaluation:
        needed[POLICY_WAIVER] = None
    for gate, reason in given.items():
        if gate not in needed:
            hint = nearest(gate, list(needed)) if needed else "nothing needs a waiver"
            raise ApprovalError(f"'{gate}' needs no waiver; {hint}")
        if not reason.strip():
            raise ApprovalError(f"the waiver of '{gate}' has no reason; write --waive {gate}=REASON")
    if missing := [gate for gate in needed if gate not in given]:
        what = ", ".join(f"--waive {gate}=REASON" for gate in missing)
        raise ApprovalError(f"{_why(missing)}; to approve it all the same, sign for it with {what}")
    return [Waiver(gate=gate, reason=given[gate]) for gate in needed]


def _why(missing: Sequence[str]) -> str:
    gates = [gate for gate in missing if gate != POLICY_WAIVER]
    found = [f"{', '.join(gates)}: inconclusive"] if gates else []
    if POLICY_WAIVER in missing:
        found.append("the policy is not the one that was fixed before the evaluation")
    return "; ".join(found)


def approval_problems(
    approval: Approval,
    report: AuditReport,
    policy: Policy,
    *,
    keys: Sequence[PublicKey],
    today: date | None = None,
) -> list[str]:
    """What does not hold of one approval: signature, pinned key, term, waivers.

    Args:
        approval: As found.
        report: The audit it approves.
        policy: The audit's policy.
        keys: Who may sign; empty believes the signatures themselves.
        today: For the term; today when not given.
    """
    statement, found = approval.statement, []
    try:
        signing.verify(approval.signature, digest=statement.digest, purpose="foedus approval v1")
    except ApprovalError as error:
        return [str(error)]
    who = approval.signature.signer
    if keys and not any(signing.made_by(approval.signature, key) for key in keys):
        found.append(
            f"signed by {who} ({approval.signature.fingerprint}), whose key is not among those given"
        )
    if statement.expires and date.fromisoformat(statement.expires) < (today or datetime.now(UTC).date()):
        found.append(f"the approval by {who} expired on {statement.expires}; approve the run again")
    if statement.verdict != report.verdict:
        found.append(f"{who} approved the verdict {statement.verdict}, but it is {report.verdict}")
    try:
        waivers(report, policy, {waiver.gate: waiver.reason for waiver in statement.waivers})
    except ApprovalError as error:
        found.append(f"the approval by {who} does not stand: {error}")
    return found


def missing_roles(approvals: Sequence[Approval], policy: Policy) -> list[str]:
    """Roles the policy asks for that nobody signed as."""
    signed = {approval.signature.role for approval in approvals}
    return [role for role in policy.signoff.roles if role not in signed]


def verdict_problems(report: AuditReport, policy: Policy, *, private_failure: bool) -> list[str]:
    """Where the verdict does not follow from the gates, or a gate from its released figures.

    Args:
        report: The audit.
        policy: Its policy.
        private_failure: An attack on the study's privacy failed the audit.
    """
    found = []
    if report.policy.digest != policy.digest:
        found.append("it was decided by another policy than policy.toml")
    if [_asked(gate) for gate in policy.gates] != [_asked(gate) for gate in report.gates]:
        found.append("its gates are not those of policy.toml")
    verdict = "fail" if private_failure else overall_verdict(report.gates)[0]
    if report.verdict != verdict:
        found.append(f"the verdict is {report.verdict}, but its gates give {verdict}")
    audited = {table.attribute: table for table in (*report.attributes, *report.intersections)}
    for gate in report.gates:
        if reason := _gate_problem(gate, audited.get(gate.attribute), policy):
            found.append(f"gate {gate_name(gate)}: {reason}")
    return found


def _asked(gate: Gate | GateResult) -> tuple[str, str | None, str, float, str | None]:
    return gate.metric, gate.attribute, gate.compare, gate.tolerance, gate.positive


def _gate_problem(gate: GateResult, table: Attribute | None, policy: Policy) -> str | None:
    """Pass takes an interval within the tolerance and evidence in every group; fail a value beyond it."""
    if table is None:
        return "its attribute is not in the audit"
    groups = [group for group in table.groups if is_known(group.group)]
    evidence = {group.group: _enough(group, gate, policy) for group in groups}
    weak = [name for name, enough in evidence.items() if enough is False]
    slack = ROUNDED if policy.disclosure.round_n_to > 1 else 0.0
    nearest_end, value, far_end = _distances(gate)
    if gate.verdict == "pass" and not far_end <= slack:
        return "it passes, but the interval is not within the tolerance"
    if gate.verdict == "pass" and weak:
        return f"it passes, but there is too little evidence on {', '.join(weak)}"
    if gate.verdict == "fail" and not value > -slack:
        return "it fails, but the value is within the tolerance"
    if gate.verdict == "inconclusive" and nearest_end > slack and all(evidence.values()):
        return "it is inconclusive, but the interval is beyond the tolerance"
    return None


def _distances(gate: GateResult) -> tuple[float, float, float]:
    """How far the nearest end of the interval, the value and the far end are beyond the tolerance; NaN if undefined."""
    low, value, high = (nan if x is None else x for x in (gate.found.low, gate.found.value, gate.found.high))
    if gate.compare == "max_difference":
        return low - gate.tolerance, value - gate.tolerance, high - gate.tolerance
    return gate.tolerance - high, gate.tolerance - value, gate.tolerance - low


def _enough(group: Group, gate: GateResult, policy: Policy) -> bool | None:
    """Whether a group has the evidence the policy asks for; None where the released figures do not tell."""
    asked = policy.evidence
    if group.n is None or group.sites is None:
        return False
    rounded = policy.disclosure.round_n_to > 1
    if rounded or group.n_between or group.positives_between or group.positives is None:
        return None
    if group.n < asked.min_n or group.sites < asked.min_sites:
        return False
    if gate.metric not in TAKEN_OVER:
        return True
    rate = group.rates.get(gate.metric)
    trials = None if rate is None or gate.positive is not None else rate.trials
    if gate.metric == "auc":
        trials = min(group.positives, group.n - group.positives)
    return None if trials is None else trials >= asked.min_positives


def approval_schema() -> str:
    """The JSON schema of approval.json, as text; docs/schemas/approval.schema.json holds it."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps({**head, **Approvals.model_json_schema()}, sort_keys=True, indent=2) + "\n"
