"""`foedus fewshot audit`: a site's own head on the site's own labelled rows that it has not seen. Nothing leaves."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from clients.workplace import Workplace
from fairness.audit import AuditReport, audit_request, build_audit
from fairness.edges import AuditEdges
from fairness.origin import with_origin
from fairness.policy import Policy, load_policy, policy_text
from fairness.registered import BACKBONE_FILE, Registered
from fairness.signing import signature_text
from fewshot.adapt import AdaptedHead
from foedus import files
from foedus.adaptation import of_classes
from foedus.backbones.saving import read_tuned
from foedus.errors import AuditError, ConfigError
from foedus.examples import Examples
from foedus.runs import APPROVAL_FILE, AUDIT_FILE, POLICY_FILE, POLICY_SIGNATURE_FILE, RunFolder
from foedus.study import Study


def audit_head(run: RunFolder, site: Path, head: Path, *, policy: Path | None) -> AuditReport:
    """Audit a registered head, and keep the report beside it; an earlier approval no longer holds.

    Args:
        run: The finished run, or the bundle, that the head was fitted on.
        site: Folder with a site.toml; all rows count that the head was not fitted on.
        head: The head's file.
        policy: The auditor's policy for it; the run's when None.

    Raises:
        ConfigError: If the policy asks for more than one site.
        FewShotError: If the file is no head, or keeps no cases.
        AuditError: If every row was used to fit it.
    """
    loaded, place = AdaptedHead.load(head), Registered(head)
    source = policy or run.path / POLICY_FILE
    rules = _of_one_site(load_policy(source), source)
    study = of_classes(run.study(), list(loaded.classes))
    examples = _unseen(run, study, site, loaded)
    files.write_bytes(place.folder / POLICY_FILE, policy_text(source).encode())
    if (signature := signature_text(source)) is not None:
        files.write_bytes(place.folder / POLICY_SIGNATURE_FILE, signature.encode())
    else:
        (place.folder / POLICY_SIGNATURE_FILE).unlink(missing_ok=True)
    digest = files.sha256_file(head)
    origin = place.origin(digest)
    report = with_origin(_report(study, loaded, examples, rules, digest, name=head.stem), origin)
    (place.folder / APPROVAL_FILE).unlink(missing_ok=True)
    files.write_bytes(place.folder / BACKBONE_FILE, (run.path / "model/backbone.json").read_bytes())
    files.write_bytes(place.folder / AUDIT_FILE, report.to_json().encode())
    return report


def _of_one_site(policy: Policy, source: Path) -> Policy:
    asked = max(policy.evidence.min_sites, policy.disclosure.min_sites)
    if asked > 1:
        raise ConfigError(
            str(source),
            [
                f"it asks for {asked} sites behind a figure, and a site's own head is audited at one; give --policy "
                "with [evidence] min_sites = 1 and [disclosure] min_sites = 1"
            ],
        )
    return policy


def _unseen(run: RunFolder, study: Study, site: Path, head: AdaptedHead) -> Examples:
    """The site's labelled rows that are none of the head's cases, as the head reads them."""
    examples = Workplace(site, study).examples("all", standardiser=None, tuned=read_tuned(run.path / "model"))
    fresh = np.flatnonzero(~head.is_case(examples.features))
    if not len(fresh):
        raise AuditError(
            f"all {len(examples)} labelled rows in {site} are cases the head was fitted on; fit it with "
            "--hold-out-test, or give rows it has not seen"
        )
    found = examples.take(fresh)
    return replace(found, features=head.seen(found.features))


def _report(
    study: Study, head: AdaptedHead, examples: Examples, policy: Policy, digest: str, *, name: str
) -> AuditReport:
    positive, classes = study.positive_index, study.study.classes
    cut = AuditEdges(head.head, positive)
    edges = cut.read(cut.measure(examples))
    request = audit_request(policy, head=head.head, positive=positive, edges=edges, classes=classes)
    return build_audit(
        policy,
        request.read(request.measure(examples)),
        model_digest=digest,
        study_name=f"{study.study.name}.{name}",
        classes=classes,
        notes=[f"Of one site's own head, on {len(examples)} rows that it was not fitted on."],
    )
