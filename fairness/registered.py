"""The audit of one head that a site registered: what lies beside the head's file, and whether it holds.

    heads/ward.safetensors          the head
    heads/ward.audit/policy.toml    by which it was audited (and its signature, if it has one)
    heads/ward.audit/backbone.json  what the head reads: as in the bundle, byte for byte
    heads/ward.audit/audit.json     the report
    heads/ward.audit/approval.json  who answers for it; the signature covers all of the above

A head is audited only while every byte of these is what was approved, and the bundle has this backbone.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from fairness.approval import (
    Approval,
    Approvals,
    LogHead,
    Statement,
    approval_problems,
    missing_roles,
    verdict_problems,
    waivers,
)
from fairness.findings import AuditReport, PolicyOrigin
from fairness.policy import Policy, load_policy
from fairness.signing import PublicKey, Signer, file_signature, made_by, read
from foedus import files
from foedus.errors import ApprovalError, FoedusError
from foedus.runs import APPROVAL_FILE, AUDIT_FILE, POLICY_FILE, POLICY_SIGNATURE_FILE

SUFFIX = ".audit"
BACKBONE_FILE = "backbone.json"
EVIDENCE = (POLICY_FILE, BACKBONE_FILE, AUDIT_FILE)


@dataclass(frozen=True)
class Registered:
    """A head's file and the audit beside it.

    Attributes:
        path: The head.
    """

    path: Path

    @property
    def folder(self) -> Path:
        """Where its audit lies."""
        return self.path.with_suffix(SUFFIX)

    @property
    def files(self) -> list[Path]:
        """The head and what there is of its audit."""
        names = (*EVIDENCE, POLICY_SIGNATURE_FILE, APPROVAL_FILE)
        return [self.path, *(self.folder / name for name in names if (self.folder / name).exists())]

    def policy(self) -> Policy:
        """By which it was audited."""
        return load_policy(self.folder / POLICY_FILE)

    def report(self) -> AuditReport:
        """audit.json.

        Raises:
            ApprovalError: If it is missing, or not as it was written.
        """
        path = self.folder / AUDIT_FILE
        try:
            content = path.read_bytes()
            report = AuditReport.model_validate_json(content)
        except OSError:
            raise ApprovalError(
                f"{self.path} has no audit; see foedus fewshot audit --register {self.path.parent} --name "
                f"{self.path.stem}"
            ) from None
        except ValidationError:
            raise ApprovalError(f"{path} is no audit; it was altered or cut off") from None
        if report.to_json().encode() != content:
            raise ApprovalError(f"{path} is not as it was written; it was altered")
        return report

    def origin(self, head_sha256: str) -> PolicyOrigin:
        """Where its policy comes from: fixed by the first audit of this head, before any test row was read."""
        path = self.folder / POLICY_FILE
        digest, signature = files.sha256_file(path), file_signature(path, purpose="foedus policy v1")
        fixed: str | None = digest
        if (self.folder / AUDIT_FILE).exists():
            before = self.report()
            if before.model_digest == head_sha256 and before.policy_origin is not None:
                fixed = before.policy_origin.fixed_sha256
        return PolicyOrigin(
            file_sha256=digest,
            fixed_sha256=fixed,
            after_evaluation=fixed != digest,
            signed_by=signature.signer if signature else None,
            role=signature.role if signature else None,
            public_key=signature.public_key if signature else None,
            signed_at=signature.time if signature else None,
        )

    def digests(self, head_sha256: str) -> dict[str, str]:
        """What an approval is bound to: file to sha256."""
        names = [name for name in (*EVIDENCE, POLICY_SIGNATURE_FILE) if (self.folder / name).exists()]
        beside = {f"{self.folder.name}/{name}": files.sha256_file(self.folder / name) for name in names}
        return {self.path.name: head_sha256, **beside}

    def approvals(self) -> list[Approval]:
        """Those there are."""
        path = self.folder / APPROVAL_FILE
        return read(path, Approvals, "an approval").approvals if path.exists() else []

    def approve(
        self, signer: Signer, *, reason: str | None = None, waive: Mapping[str, str] | None = None
    ) -> Approval:
        """Sign that this head may answer as audited, and keep the signature.

        Raises:
            ApprovalError: If the audit does not hold or is of another head, the verdict is fail, or a waiver is
                missing or not allowed.
        """
        digest = files.sha256_file(self.path)
        report, policy = self.report(), self.policy()
        if problems := list(self._audit_problems(digest, report, policy)):
            raise ApprovalError(f"nothing is signed for {self.path}: {'; '.join(problems)}")
        if signer.public.role not in policy.signoff.roles:
            roles = ", ".join(policy.signoff.roles)
            raise ApprovalError(
                f"the policy asks for the signature of: {roles}; this key is a {signer.public.role}'s"
            )
        days = policy.signoff.expires_days
        statement = Statement(
            run=report.study,
            study=report.study,
            verdict="pass" if report.verdict == "pass" else "inconclusive",
            files=self.digests(digest),
            log=LogHead(size_bytes=0, sha256=hashlib.sha256(b"").hexdigest()),
            waivers=waivers(report, policy, waive or {}),
            reason=reason,
            expires=str((datetime.now(UTC) + timedelta(days=days)).date()) if days else None,
        )
        signature = signer.sign(statement.digest, purpose="foedus approval v1")
        found = Approval(statement=statement, signature=signature)
        standing = [
            other
            for other in self.approvals()
            if other.statement.files == statement.files and not made_by(other.signature, signer.public)
        ]
        files.write_json(self.folder / APPROVAL_FILE, Approvals(approvals=[*standing, found]).model_dump())
        return found

    def problems(
        self, head_sha256: str, *, backbone_sha256: str, keys: Sequence[PublicKey], today: date | None = None
    ) -> list[str]:
        """Why the head is not audited; empty if it is.

        Args:
            head_sha256: Of the head that answers.
            backbone_sha256: Of the bundle's backbone.json.
            keys: Auditors' public keys, known from elsewhere.
            today: For the term; today when not given.
        """
        try:
            report, policy, approvals = self.report(), self.policy(), self.approvals()
            found = list(self._audit_problems(head_sha256, report, policy))
            here = self.digests(head_sha256)
        except (FoedusError, OSError) as error:
            return [str(error)]
        if here.get(f"{self.folder.name}/{BACKBONE_FILE}") != backbone_sha256:
            found.append("it was audited on another version of the model")
        if not approvals:
            found.append("no auditor has approved it; see foedus approve")
        if not keys:
            found.append("no auditor's public key was given to check its approval against")
        for approval in approvals:
            found += approval_problems(approval, report, policy, keys=keys, today=today)
            if approval.statement.files != here:
                found.append(f"{approval.signature.signer} approved other files")
        if missing := missing_roles(approvals, policy):
            found.append(f"the policy also asks for the signature of: {', '.join(missing)}")
        if len({each.signature.public_key for each in approvals}) < len(approvals):
            found.append("one key signed twice; each role takes a person of its own")
        return found

    def _audit_problems(self, head_sha256: str, report: AuditReport, policy: Policy) -> list[str]:
        found = verdict_problems(report, policy, private_failure=False)
        if report.model_digest != head_sha256:
            found.append("its audit is of another head; the file was changed")
        if report.verdict == "fail":
            found.append("its audit failed")
        origin = report.policy_origin
        if origin is None or origin.file_sha256 != files.sha256_file(self.folder / POLICY_FILE):
            found.append("its audit names another policy than policy.toml")
        return found
