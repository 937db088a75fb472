"""Where an audit's policy comes from: fixed before the test data were asked, by whom signed, or changed later."""

from fairness.findings import AuditReport, PolicyOrigin
from fairness.signing import file_signature
from foedus import files
from foedus.runs import POLICY_FILE, POLICY_FIXED, RunFolder


def policy_origin(run: RunFolder) -> PolicyOrigin:
    """What the run's log and the signature beside its policy say.

    Raises:
        ApprovalError: If the signature does not fit the policy.
        RunError: If the log cannot be read.
    """
    path = run.path / POLICY_FILE
    digest, signature = files.sha256_file(path), file_signature(path, purpose="foedus policy v1")
    fixed = [str(line["policy_sha256"]) for line in run.events(POLICY_FIXED)][:1]
    return PolicyOrigin(
        file_sha256=digest,
        fixed_sha256=fixed[0] if fixed else None,
        after_evaluation=fixed != [digest],
        signed_by=signature.signer if signature else None,
        role=signature.role if signature else None,
        public_key=signature.public_key if signature else None,
        signed_at=signature.time if signature else None,
    )


def with_origin(report: AuditReport, origin: PolicyOrigin) -> AuditReport:
    """The report that says so, first of all if the policy came after the results."""
    reasons = [after_evaluation(origin), *report.reasons] if origin.after_evaluation else report.reasons
    return report.model_copy(update={"policy_origin": origin, "reasons": reasons})


def after_evaluation(origin: PolicyOrigin) -> str:
    """The sentence on a policy that was not fixed before the evaluation."""
    if origin.fixed_sha256 is None:
        return (
            f"Policy given after evaluation: none was fixed before the test data were asked; this one is "
            f"{origin.file_sha256}. An approval takes a waiver."
        )
    return (
        f"Policy changed after evaluation: {origin.fixed_sha256} was fixed before the test data were asked; "
        f"this one is {origin.file_sha256}. An approval takes a waiver."
    )
