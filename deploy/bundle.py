"""The bundle: one folder with everything a service needs, and every reason to trust it.

What the auditor approved lies in it byte for byte under the names the approval lists; the manifest
lists every file with its digest, and the coordinator signs the manifest. Nothing else may be there.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open

from fairness import signing
from fairness.approval import (
    Approval,
    Approvals,
    approval_problems,
    missing_roles,
    privacy_failures,
    verdict_problems,
)
from fairness.findings import AuditReport
from fairness.policy import load_policy
from fairness.signing import HEX32, PublicKey, Signature, Signer
from foedus import files
from foedus.config import Section
from foedus.errors import ApprovalError, FoedusError, ReleaseError
from foedus.study import load_study

MANIFEST_FILE, SIGNATURES_FILE = "manifest.json", "signatures.json"
STUDY_FILE, POLICY_FILE, AUDIT_FILE = "study.toml", "policy.toml", "audit.json"
APPROVAL_FILE, PRIVACY_FILE, LINEAGE_FILE = "approval.json", "privacy.json", "lineage.json"
HEAD_FILE, BACKBONE_FILE = "model/head.safetensors", "model/backbone.json"
SERVING_FILE, HISTOGRAMS_FILE = "model/serving.json", "model/histograms.safetensors"
REQUIRED = (
    *(STUDY_FILE, POLICY_FILE, AUDIT_FILE, APPROVAL_FILE, PRIVACY_FILE, LINEAGE_FILE),
    *(HEAD_FILE, BACKBONE_FILE, SERVING_FILE, "model/README.md", "model-card.yaml"),
)
OWN = frozenset({APPROVAL_FILE, PRIVACY_FILE, LINEAGE_FILE})
"""Written at the release; every other file is one that the auditor approved."""
SUFFIXES = (".json", ".toml", ".safetensors", ".md", ".yaml", ".sig")
"""What may be in a bundle. None of these can hold code that runs when it is read."""
PATH = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*){0,3}")
LARGEST_BYTES = 2**36
SectionT = TypeVar("SectionT", bound=Section)
COORDINATOR = "coordinator"
"""Role of the key that signs manifests."""


class File(Section):
    """One file of a bundle."""

    size_bytes: int = Field(ge=0, le=LARGEST_BYTES)
    sha256: str = Field(pattern=HEX32)


class Manifest(Section):
    """manifest.json: what is in the bundle; its digest is what the coordinator signs."""

    format: Literal["foedus-bundle/1"] = "foedus-bundle/1"
    model: str
    """The study's name."""
    version: int = Field(ge=1)
    run: str
    verdict: Literal["pass", "inconclusive"]
    backbone: str
    """As the study names it; the weights are not in the bundle."""
    backbone_digest: str = Field(pattern=HEX32)
    """Of weights, tap and preprocessing: a service refuses another backbone."""
    created: str
    foedus: str
    files: dict[str, File]

    @property
    def digest(self) -> str:
        """sha256 (hex) of its canonical form."""
        return signing.digest_of(self.model_dump())


class Signatures(Section):
    """signatures.json: over the manifest's digest, one for each key."""

    signatures: list[Signature] = Field(min_length=1)


@dataclass(frozen=True)
class Bundle:
    """A bundle that holds in every respect.

    Attributes:
        path: Its folder.
        manifest: What is in it.
        approvals: Who answers for it, and until when.
    """

    path: Path
    manifest: Manifest
    approvals: list[Approval]

    @property
    def name(self) -> str:
        """Of the model, as clients ask for it."""
        return self.manifest.model

    @property
    def version(self) -> str:
        """As clients ask for it."""
        return str(self.manifest.version)

    @property
    def expires(self) -> date | None:
        """Last day on which every approval holds; None for ever."""
        days = [a.statement.expires for a in self.approvals if a.statement.expires]
        return min(date.fromisoformat(day) for day in days) if days else None


def seal(folder: Path, manifest: Manifest, signer: Signer) -> None:
    """Write the manifest and the coordinator's signature over it."""
    files.write_json(folder / MANIFEST_FILE, manifest.model_dump())
    signature = signer.sign(manifest.digest, purpose="foedus bundle v1")
    files.write_json(folder / SIGNATURES_FILE, Signatures(signatures=[signature]).model_dump())


def digests(folder: Path) -> dict[str, File]:
    """Every file of a bundle that is being made."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): File(
            size_bytes=path.stat().st_size, sha256=files.sha256_file(path)
        )
        for path in found
    }


def open_bundle(path: Path, keys: Sequence[PublicKey], *, today: date | None = None) -> Bundle:
    """The bundle in a folder, after every check.

    Args:
        path: The folder.
        keys: Public keys of the coordinator and the auditors, known from elsewhere.
        today: For the term of the approvals; today when not given.

    Raises:
        ReleaseError: Listing everything that does not hold.
    """
    if problems := list(_file_problems(path)):
        raise ReleaseError(_listed(path, problems))
    manifest = _read(path / MANIFEST_FILE, Manifest, "a manifest")
    approvals = _read(path / APPROVAL_FILE, Approvals, "an approval").approvals
    problems = [
        *_signature_problems(path, manifest, keys),
        *_audit_problems(path, manifest),
        *_approval_problems(path, manifest, approvals, keys, today),
    ]
    if problems:
        raise ReleaseError(_listed(path, problems))
    return Bundle(path, manifest, approvals)


def _listed(path: Path, problems: Sequence[str]) -> str:
    return f"{path} is not served, because it does not hold: " + "; ".join(problems)


def _read(path: Path, kind: type[SectionT], what: str) -> SectionT:
    try:
        return signing.read(path, kind, what)
    except ApprovalError as error:
        raise ReleaseError(str(error)) from None


def _file_problems(path: Path) -> Iterator[str]:
    """The files are exactly those of the manifest: plain files, of the kinds allowed, byte for byte."""
    if path.is_symlink() or not path.is_dir():
        yield "it is not a folder"
        return
    try:
        found = set(_files_below(path))
        manifest = signing.read(path / MANIFEST_FILE, Manifest, "a manifest")
    except (OSError, ApprovalError, ReleaseError) as error:
        yield str(error)
        return
    for name in manifest.files:
        if not PATH.fullmatch(name) or ".." in name or not name.endswith(SUFFIXES):
            yield f"the manifest names '{name}', which has no place in a bundle"
            return
    listed = {*manifest.files, MANIFEST_FILE, SIGNATURES_FILE}
    yield from (f"{name} is not listed in the manifest" for name in sorted(found - listed))
    yield from (f"{name} is missing" for name in sorted({*listed, *REQUIRED} - found))
    for name, expected in manifest.files.items():
        if name in found:
            yield from _content_problems(path, name, expected)


def _files_below(path: Path) -> Iterator[str]:
    for folder, below, names in os.walk(path, followlinks=False):
        for name in (*below, *names):
            place = Path(folder) / name
            if place.is_symlink():
                raise ReleaseError(f"{place.relative_to(path)} is a link; a bundle holds plain files")
        for name in names:
            place = Path(folder) / name
            if not place.is_file():
                raise ReleaseError(f"{place.relative_to(path)} is not a plain file")
            yield place.relative_to(path).as_posix()


def _content_problems(path: Path, name: str, expected: File) -> Iterator[str]:
    if (path / name).stat().st_size != expected.size_bytes or files.sha256_file(
        path / name
    ) != expected.sha256:
        yield f"{name} is not what was signed (its sha256 differs)"
    elif name.endswith(".safetensors"):
        try:
            with safe_open(str(path / name), framework="numpy"):
                pass
        except (SafetensorError, OSError):
            yield f"{name} is not a safetensors file"


def _signature_problems(path: Path, manifest: Manifest, keys: Sequence[PublicKey]) -> Iterator[str]:
    found = _read(path / SIGNATURES_FILE, Signatures, "signatures").signatures
    by_role = [key for key in keys if key.role == COORDINATOR]
    if not by_role:
        yield "no coordinator's public key was given to check it against"
    for signature in found:
        try:
            signing.verify(signature, digest=manifest.digest, purpose="foedus bundle v1")
        except ApprovalError as error:
            yield str(error)
    if by_role and not any(signing.made_by(s, key) for s in found for key in by_role):
        who = ", ".join(f"{s.signer} ({s.fingerprint})" for s in found)
        yield f"it is signed by {who}, whose key is not among those given"


def _audit_problems(path: Path, manifest: Manifest) -> Iterator[str]:
    try:
        report = AuditReport.model_validate_json((path / AUDIT_FILE).read_bytes())
        study = load_study(path / STUDY_FILE)
    except (ValidationError, FoedusError) as error:
        yield f"{AUDIT_FILE} or {STUDY_FILE} cannot be read: {error}"
        return
    if report.verdict == "fail":
        yield "its audit failed"
    failures = privacy_failures({"privacy": files.read_json(path / PRIVACY_FILE)})
    yield from failures
    policy = load_policy(path / POLICY_FILE)
    yield from verdict_problems(report, policy, private_failure=bool(failures))
    if report.verdict != manifest.verdict:
        yield f"its audit says {report.verdict}, its manifest {manifest.verdict}"
    if report.model_digest != manifest.files[HEAD_FILE].sha256:
        yield f"its audit is of another model than {HEAD_FILE}"
    if not report.study == study.study.name == manifest.model:
        yield "its audit, study and manifest name different models"
    if files.read_json(path / BACKBONE_FILE)["digest"] != manifest.backbone_digest:
        yield f"{BACKBONE_FILE} names another backbone than the manifest"


def _approval_problems(
    path: Path, manifest: Manifest, approvals: list[Approval], keys: Sequence[PublicKey], today: date | None
) -> Iterator[str]:
    auditors = [key for key in keys if key.role != COORDINATOR]
    if not auditors:
        yield "no auditor's public key was given to check its approval against"
        return
    if not approvals:
        yield "no auditor has approved it"
        return
    report = AuditReport.model_validate_json((path / AUDIT_FILE).read_bytes())
    policy = load_policy(path / POLICY_FILE)
    approved = manifest.files.keys() - OWN
    for approval in approvals:
        yield from approval_problems(approval, report, policy, keys=auditors, today=today)
        statement, who = approval.statement, approval.signature.signer
        if statement.run != manifest.run:
            yield f"{who} approved run '{statement.run}'"
        for name in sorted(approved):
            if statement.files.get(name) != manifest.files[name].sha256:
                yield f"{who} approved another {name}"
    if missing := missing_roles(approvals, policy):
        yield f"the policy also asks for the signature of: {', '.join(missing)}"
    used = [approval.signature.public_key for approval in approvals]
    if len(set(used)) < len(used):
        yield "one key signed twice; each role takes a person of its own"
