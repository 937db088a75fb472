"""`foedus release`: from an approved run to a signed bundle. What the auditor approved is copied byte for byte."""

import hmac
import importlib.metadata
import shutil
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from deploy import bundle as bundles
from deploy.bundle import Bundle, Manifest, open_bundle
from deploy.releases import STEPS, Releases
from fairness.signing import PublicKey, Signer
from foedus import __version__, approval, files
from foedus.errors import ReleaseError
from foedus.runs import (
    APPROVAL_FILE,
    AUDIT_FILE,
    CARD_FILE,
    HEAD_FILE,
    POLICY_FILE,
    POLICY_SIGNATURE_FILE,
    RESULTS_FILE,
    SERVING_FILE,
    STUDY_FILE,
    RunFolder,
)

TOP_LEVEL = (STUDY_FILE, POLICY_FILE, POLICY_SIGNATURE_FILE, AUDIT_FILE, APPROVAL_FILE, CARD_FILE)
PACKAGES = ("torch", "timm", "transformers", "peft", "numpy", "flwr")
"""What the lineage gives the versions of."""


def release(run: RunFolder, signer: Signer, *, keys: Sequence[PublicKey], to: Path) -> Bundle:
    """Build, sign, check and log the next version of a run's model.

    Args:
        run: Finished, audited and approved.
        signer: The coordinator.
        keys: Public keys of the auditors whose approval counts.
        to: Folder of all releases; this one is `to`/STUDY/NNNN.

    Raises:
        ReleaseError: Listing why the run may not be released; nothing was then written.
    """
    if signer.public.role != bundles.COORDINATOR:
        raise ReleaseError(
            f"a bundle is signed by the coordinator, and this key is a {signer.public.role}'s; make one with "
            "foedus auditor init --role coordinator"
        )
    if run.study().multilabel:
        raise ReleaseError(
            "a model of several labels a record is not served; foedus export writes it as ONNX"
        )
    report = _require_approved(run, keys)
    releases = Releases(to / run.study().study.name)
    version = releases.next_version()
    with tempfile.TemporaryDirectory(dir=_made(releases.path), prefix=".draft-") as draft:
        folder = Path(draft) / "bundle"
        _fill(folder, run, signer)
        about = files.read_json(run.path / "model/backbone.json")
        manifest = Manifest(
            model=run.study().study.name,
            version=version,
            run=run.run_id,
            verdict=report,
            backbone=about["source"],
            backbone_digest=about["digest"],
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            foedus=__version__,
            files=bundles.digests(folder),
        )
        bundles.seal(folder, manifest, signer)
        open_bundle(folder, [*keys, signer.public])
        target = releases.bundle(version)
        if target.exists():  # a release that was cut off before its log said so
            shutil.rmtree(target)
        folder.rename(target)
    evidence = [
        manifest.files[HEAD_FILE].sha256,
        *(manifest.files[name].sha256 for name in (AUDIT_FILE, APPROVAL_FILE)),
        manifest.digest,
    ]
    for state, digest in zip(STEPS, evidence, strict=True):
        releases.record(state, signer, model=manifest.model, version=version, evidence=digest)
    return open_bundle(target, [*keys, signer.public])


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _require_approved(run: RunFolder, keys: Sequence[PublicKey]) -> Any:
    """The audit's verdict, once everything about the run holds.

    Raises:
        ReleaseError: Listing what does not.
    """
    found = approval.verify(run, keys=keys)
    problems = [f"{problem.file}: {problem.reason}" for problem in found.problems]
    if not problems and found.verdict == "fail":
        problems.append("its audit failed")
    if not problems and not found.approvals:
        problems.append("no auditor has approved it; see foedus approve")
    if not problems and not keys:
        problems.append("no auditor's public key was given; --trust NAME.pub says whose approval counts")
    if not problems and run.study().backbone.align != "none":
        problems.append(
            "each site aligns its features by its own covariance (backbone.align), so no model stands alone"
        )
    if not problems and not (run.path / SERVING_FILE).exists():
        problems.append(f"it has no {SERVING_FILE}; foedus audit run writes it, then approve the run again")
    if problems:
        raise ReleaseError(f"run '{run.run_id}' is not released: {'; '.join(problems)}")
    return found.verdict


def _fill(folder: Path, run: RunFolder, signer: Signer) -> None:
    """Copy what was approved, and write what is known only now."""
    sealed = [name for name in run.digests() if name.startswith("model/")]
    names = [name for name in sealed if name.endswith(bundles.SUFFIXES)]
    for name in (*TOP_LEVEL, *names):
        if (run.path / name).exists():
            files.write_bytes(folder / name, (run.path / name).read_bytes())
    results = files.read_json(run.path / RESULTS_FILE)
    files.write_json(folder / bundles.PRIVACY_FILE, without_sites(results["privacy"]))
    files.write_json(folder / bundles.LINEAGE_FILE, lineage(run, results, signer))


def lineage(run: RunFolder, results: dict[str, Any], signer: Signer) -> dict[str, Any]:
    """Where the model comes from: sites by pseudonym, rounds, versions."""
    study, about = run.study(), files.read_json(run.path / "model/backbone.json")
    return {
        "run": run.run_id,
        "log": run.log_head(),
        "study_sha256": files.sha256_file(run.path / STUDY_FILE),
        "sites": sorted(pseudonym(str(site["site"]), signer) for site in results["sites"]),
        "strategy": study.federation.strategy,
        "door": study.door.mode,
        "rounds": results["rounds"],
        "best_round": results["best_round"],
        "backbone": {key: about[key] for key in ("source", "digest", "weights_sha256", "tap")},
        "versions": {"foedus": about["foedus"], **{name: _version(name) for name in PACKAGES}},
    }


def pseudonym(site: str, signer: Signer) -> str:
    """The same name for the same site in all of a coordinator's releases; only its private key gives it."""
    secret = signer.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return "site-" + hmac.new(secret, site.encode(), "sha256").hexdigest()[:10]


def without_sites(privacy: dict[str, Any]) -> dict[str, Any]:
    """The privacy statement without the name of the site that was attacked."""
    at_site = privacy.get("at_site")
    return {
        **privacy,
        "at_site": None if at_site is None else {**at_site, "site": "one site"},
    }


def _version(package: str) -> str:
    return importlib.metadata.version(package)
