"""Approving a finished run, and verifying everything a run folder claims.

`verify` recomputes all of it: the log's chain, every file's digest, the audit from its gates, the
report from the files, commitments and signatures. `approve` signs only what verifies.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from jinja2 import TemplateError
from pydantic import ValidationError

from fairness.approval import (
    Approval,
    Approvals,
    LogHead,
    Statement,
    approval_problems,
    missing_roles,
    privacy_failures,
    verdict_problems,
    waivers,
)
from fairness.commitments import Commitments
from fairness.findings import AuditReport
from fairness.origin import policy_origin
from fairness.policy import Policy, load_policy
from fairness.signing import PublicKey, Signer, made_by, read
from foedus import files
from foedus.errors import ApprovalError, FoedusError
from foedus.runs import (
    APPROVAL_FILE,
    AUDIT_FILE,
    CARD_FILE,
    COMMITMENTS_FILE,
    FEWSHOT_FILE,
    HEAD_FILE,
    LOG_FILE,
    MITIGATION_FILE,
    POLICY_CHANGED,
    POLICY_FILE,
    POLICY_FIXED,
    POLICY_SIGNATURE_FILE,
    REPORT_FILE,
    RESULTS_FILE,
    ROUNDS_FILE,
    SEALED,
    STATE_FILE,
    STUDY_FILE,
    RunFolder,
)
from server.results import after_attack, rendered

BACKBONE_FILE = "model/backbone.json"


@dataclass(frozen=True)
class Problem:
    """Something that does not hold.

    Attributes:
        file: Path below the run folder.
        reason: What is wrong with it.
    """

    file: str
    reason: str


@dataclass
class Verification:
    """What `verify` found.

    Attributes:
        problems: Everything that does not hold; empty if all does.
        approvals: The approvals there are, those with problems included.
        verdict: Of the audit, where it can be read.
    """

    problems: list[Problem] = field(default_factory=list)
    approvals: list[Approval] = field(default_factory=list)
    verdict: str | None = None

    @property
    def ok(self) -> bool:
        """Whether everything holds."""
        return not self.problems


def approve(
    run: RunFolder, signer: Signer, *, reason: str | None = None, waive: Mapping[str, str] | None = None
) -> Approval:
    """Sign that this run may be released, and keep the signature in approval.json.

    Args:
        run: Finished, audited, unaltered.
        signer: Who answers for it.
        reason: Written beside the signature.
        waive: Inconclusive gate ("tpr:sex"), or "policy" for one changed after evaluation, to why.

    Raises:
        ApprovalError: If anything does not verify, the verdict is fail, or a waiver is missing or not allowed.
    """
    if problems := _run_problems(run):
        listed = "; ".join(f"{problem.file}: {problem.reason}" for problem in problems)
        raise ApprovalError(f"run '{run.run_id}' does not verify, so nothing is signed: {listed}")
    report, policy = _audit(run), load_policy(run.path / POLICY_FILE)
    if failures := privacy_failures(files.read_json(run.path / RESULTS_FILE)):
        raise ApprovalError(f"{'; '.join(failures)}: nobody can waive that")
    if signer.public.role not in policy.signoff.roles:
        roles = ", ".join(policy.signoff.roles)
        raise ApprovalError(
            f"the policy asks for the signature of: {roles}; this key is a {signer.public.role}'s"
        )
    waived = waivers(report, policy, waive or {})
    earlier = [a for a in _approvals(run) if not made_by(a.signature, signer.public)]
    public = signer.public
    run.log(
        "approved", by=public.name, role=public.role, fingerprint=public.fingerprint, verdict=report.verdict
    )
    days = policy.signoff.expires_days
    statement = Statement(
        run=run.run_id,
        study=report.study,
        verdict="pass" if report.verdict == "pass" else "inconclusive",
        files=run.digests(),
        log=LogHead(**run.log_head()),
        waivers=waived,
        reason=reason,
        expires=str((datetime.now(UTC) + timedelta(days=days)).date()) if days else None,
    )
    signature = signer.sign(statement.digest, purpose="foedus approval v1")
    approval = Approval(statement=statement, signature=signature)
    standing = [a for a in earlier if a.statement.files == statement.files]
    files.write_json(run.path / APPROVAL_FILE, Approvals(approvals=[*standing, approval]).model_dump())
    return approval


def verify(run: RunFolder, *, keys: Sequence[PublicKey] = ()) -> Verification:
    """Check a run folder against itself and, given keys, against who had to sign.

    Args:
        run: Any run folder.
        keys: Public keys known from elsewhere. Each must have signed the approval, and no one else.
    """
    found = Verification(problems=_run_problems(run))
    unaltered = found.ok
    try:
        found.approvals = _approvals(run)
    except ApprovalError as error:
        found.problems.append(Problem(APPROVAL_FILE, str(error)))
    else:
        if unaltered:
            found.verdict = _audit(run).verdict
            reasons = _approval_problems(run, found.approvals, keys)
            found.problems += [Problem(APPROVAL_FILE, reason) for reason in reasons]
    return found


def _run_problems(run: RunFolder) -> list[Problem]:
    """Everything but the approval. What is altered is only named; what is not is checked for what it says."""
    found = list(_log_problems(run))
    if found:
        return found
    altered = list(_seal_problems(run))
    names = {problem.file for problem in altered}
    if not (run.path / AUDIT_FILE).exists() and AUDIT_FILE not in names:
        altered.append(Problem(AUDIT_FILE, "there is none: the study names no policy"))
    for file, check in _CHECKS.items():
        if names & {file, *_READ_BY[file]} or not (run.path / file).exists():
            continue
        try:
            altered += [Problem(file, reason) for reason in check(run)]
        except (
            FoedusError,
            ValidationError,
            ValueError,
            KeyError,
            TypeError,
            OSError,
            TemplateError,
        ) as error:
            altered.append(Problem(file, f"it cannot be used: {error}"))
    return altered


def _log_problems(run: RunFolder) -> Iterator[Problem]:
    try:
        run.verify_log()
        state = run.state()
    except (FoedusError, OSError, AttributeError, ValueError) as error:
        yield Problem(_named(run, error), str(error))
        return
    if state.get("status") != "finished":
        yield Problem(STATE_FILE, f"the run is {state.get('status')}, not finished")
    elif "log" not in state or not run.events(SEALED):
        yield Problem(LOG_FILE, "the run was not sealed; foedus audit run seals it")
    elif not run.log_begins(state["log"]):
        yield Problem(LOG_FILE, "it is not what was written")


def _seal_problems(run: RunFolder) -> Iterator[Problem]:
    sealed: dict[str, str] = run.events(SEALED)[-1]["files"]
    here = run.digests()
    for name, digest in sealed.items():
        if name not in here:
            yield Problem(name, "it is missing")
        elif here[name] != digest:
            yield Problem(name, "it is not what was written (its sha256 differs)")
    for name in here.keys() - sealed.keys():
        if name.startswith("model/") or name in _KNOWN:
            yield Problem(name, "it was not there when the run was sealed")


def _check_audit(run: RunFolder) -> Iterator[str]:
    report = _audit(run)
    policy = load_policy(run.path / POLICY_FILE)
    if report.model_digest != files.sha256_file(run.path / HEAD_FILE):
        yield f"it is of another model than {HEAD_FILE}"
    if report.study != run.study().study.name:
        yield "it is of another study"
    if report.policy_origin != policy_origin(run):
        yield "what it says of its policy's origin does not follow from the log and the signature"
    attack = files.read_json(run.path / RESULTS_FILE)["privacy"]["attack"]
    failed = after_attack(report, attack) is not report
    yield from verdict_problems(report, policy, private_failure=failed)


def _check_policy(run: RunFolder) -> Iterator[str]:
    policy_origin(run)
    events = run.events(POLICY_FIXED) + run.events(POLICY_CHANGED)
    signature = run.path / POLICY_SIGNATURE_FILE
    here = {
        "policy_sha256": files.sha256_file(run.path / POLICY_FILE),
        "signature_sha256": files.sha256_file(signature) if signature.exists() else None,
    }
    if not events or {key: events[-1].get(key) for key in here} != here:
        yield "it is not the policy that the log names"


def _check_model(run: RunFolder) -> Iterator[str]:
    about = files.read_json(run.path / BACKBONE_FILE)
    if about["head_sha256"] != files.sha256_file(run.path / HEAD_FILE):
        yield f"it names another head than {HEAD_FILE}"
    if "tuned" in about and about["tuned_sha256"] != files.sha256_file(run.path / "model" / about["tuned"]):
        yield f"it names other tuned tensors than model/{about['tuned']}"


def _check_commitments(run: RunFolder) -> Iterator[str]:
    found = Commitments.read(run.path / COMMITMENTS_FILE)
    if found.run != run.run_id:
        yield f"it is of run '{found.run}'"
    if found.audit_sha256 != files.sha256_file(run.path / AUDIT_FILE):
        yield "it belongs to another audit"
    yield from found.problems()


def _check_report(run: RunFolder) -> Iterator[str]:
    if rendered(run).encode() != (run.path / REPORT_FILE).read_bytes():
        yield "it is not what the files of the run give, or an earlier Foedus wrote it; foedus audit run writes it anew"


_CHECKS: dict[str, Callable[[RunFolder], Iterator[str]]] = {
    POLICY_FILE: _check_policy,
    BACKBONE_FILE: _check_model,
    AUDIT_FILE: _check_audit,
    COMMITMENTS_FILE: _check_commitments,
    REPORT_FILE: _check_report,
}
_READ_BY = {
    POLICY_FILE: {POLICY_SIGNATURE_FILE},
    BACKBONE_FILE: {HEAD_FILE},
    AUDIT_FILE: {POLICY_FILE, POLICY_SIGNATURE_FILE, HEAD_FILE, RESULTS_FILE, STUDY_FILE},
    COMMITMENTS_FILE: {AUDIT_FILE},
    REPORT_FILE: {
        *(AUDIT_FILE, RESULTS_FILE, COMMITMENTS_FILE, FEWSHOT_FILE, MITIGATION_FILE, STUDY_FILE),
        ROUNDS_FILE,
    },
}
"""What each check reads beside its own file: if that is altered, it is named instead."""
_KNOWN = {
    *(POLICY_FILE, POLICY_SIGNATURE_FILE, AUDIT_FILE, COMMITMENTS_FILE, FEWSHOT_FILE, MITIGATION_FILE),
    CARD_FILE,
}


def _audit(run: RunFolder) -> AuditReport:
    """audit.json, exactly as it is written.

    Raises:
        ApprovalError: If it is missing, does not follow its schema, or is not canonical.
    """
    path = run.path / AUDIT_FILE
    try:
        content = path.read_bytes()
        report = AuditReport.model_validate_json(content)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ApprovalError(f"{AUDIT_FILE} does not follow its schema at '{where}'") from None
    if report.to_json().encode() != content:
        raise ApprovalError(f"{AUDIT_FILE} is not as it was written")
    return report


def _approvals(run: RunFolder) -> list[Approval]:
    path = run.path / APPROVAL_FILE
    return read(path, Approvals, "an approval").approvals if path.exists() else []


def _approval_problems(run: RunFolder, approvals: list[Approval], keys: Sequence[PublicKey]) -> Iterator[str]:
    for key in keys:
        if not any(made_by(approval.signature, key) for approval in approvals):
            yield f"{key.name} ({key.role}, {key.fingerprint}) has not signed"
    if not approvals:
        return
    report, policy = _audit(run), load_policy(run.path / POLICY_FILE)
    for approval in approvals:
        yield from approval_problems(approval, report, policy, keys=keys)
        yield from _statement_problems(run, approval.statement, who=approval.signature.signer)
    yield from _signoff_problems(approvals, policy)


def _statement_problems(run: RunFolder, statement: Statement, *, who: str) -> Iterator[str]:
    if statement.run != run.run_id:
        yield f"{who} approved run '{statement.run}'"
    here = run.digests()
    for name, digest in statement.files.items():
        if here.get(name) != digest:
            yield f"{who} approved another {name}"
    if not run.log_begins(statement.log.model_dump()):
        yield f"{who} approved another {LOG_FILE}"


def _signoff_problems(approvals: list[Approval], policy: Policy) -> Iterator[str]:
    if missing := missing_roles(approvals, policy):
        yield f"the policy also asks for the signature of: {', '.join(missing)}"
    used = [approval.signature.public_key for approval in approvals]
    if len(set(used)) < len(used):
        yield "one key signed twice; each role takes a person of its own"


def _named(run: RunFolder, error: Exception) -> str:
    """The file an error is about."""
    known = (APPROVAL_FILE, LOG_FILE, STATE_FILE, AUDIT_FILE, POLICY_FILE)
    return next((name for name in known if name in str(error)), str(run.path.name))
