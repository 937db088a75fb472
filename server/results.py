"""What a finished run leaves: the model, its card, results.json, audit.json, report.html."""

from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np

from fairness.audit import AuditReport, audit_request, build_audit, subject
from fairness.card import card_yaml, front_matter
from fairness.cohorts import AUDITS_FILE, Cohort, append, refuse_near
from fairness.edges import AuditEdges
from fairness.figures import quality_without_small_counts, without_small_counts
from fairness.origin import policy_origin, with_origin
from fairness.policy import Policy, load_policy
from fairness.private import noise_notes, private_audit_request
from fairness.report import render_report
from fairness.tables import AuditTotals
from foedus import __version__, files
from foedus.backbones import describe, registry
from foedus.backbones.saving import save_tuned
from foedus.backbones.zero_shot import on_standardised
from foedus.budget import statement
from foedus.data.quality import DataQuality
from foedus.evaluation import Evaluation
from foedus.head import LinearHead
from foedus.label_metrics import LABEL_SCALARS
from foedus.metrics import SCALARS, Metrics
from foedus.model import Model
from foedus.privacy_check import check_clip, check_mechanism, claim_of
from foedus.runs import (
    AUDIT_FILE,
    CARD_FILE,
    COMMITMENTS_FILE,
    FEWSHOT_FILE,
    HEAD_FILE,
    MITIGATION_FILE,
    POLICY_FILE,
    REPORT_FILE,
    RESULTS_FILE,
    RunFolder,
)
from foedus.study import Study
from server.commitments import Listening
from server.federation import Federation
from server.rounds import Training


def save_model(federation: Federation, model: Model, run: RunFolder) -> str:
    """Write the model folder; returns the head file's sha256."""
    standardiser = federation.standardiser
    extra = {} if standardiser is None else standardiser.arrays()
    digest = files.write_arrays(run.path / HEAD_FILE, {**model.head.arrays(), **extra})
    tuned = save_tuned(federation.study, model.backbone, run.path / "model") if model.backbone else {}
    spec = describe(federation.study.backbone, federation.study.table)
    backbone = {
        "source": spec.source,
        "modality": spec.modality,
        "tap": spec.tap,
        "dim": spec.dim,
        "digest": spec.digest,
        "weights_sha256": spec.weights_sha256,
        "preprocessing": dict(spec.preprocessing),
        **({"task": "multilabel"} if federation.study.multilabel else {}),
        "classes": federation.study.study.classes,
        "head_sha256": digest,
        "foedus": __version__,
        **tuned,
    }
    files.write_json(run.path / "model/backbone.json", backbone)
    return digest


def evaluate(federation: Federation, training: Training) -> dict[str, Metrics]:
    """Start, federated model and, where the backbone reads texts, the zero-shot baseline.

    On all sites' test examples together. A private study pays for each evaluation, and asks for one.
    """
    if federation.study.door.private:
        several = federation.study.multilabel
        private = Evaluation([federation.use(training.best)], counts_only=True, multilabel=several)
        [[best]] = federation.ask(private, split="test", what="the final test")
        return {"federated": best.metrics}
    study = federation.study
    raw = None  # how alike texts are says which class is nearest, not which labels a record has
    if not study.multilabel:
        raw = registry.zero_shot(study.backbone, study.table, study.study.texts)
    standardiser = federation.standardiser
    baseline: dict[str, LinearHead] = {}
    found: dict[str, Metrics] = {}
    if raw is not None and standardiser is not None and standardiser.colour is not None:
        # Aligned features differ by site; the baseline reads them as they are.
        plain = replace(federation, standardiser=None)
        found = _test(plain, {"zero_shot": raw}, what="the test of the zero-shot baseline")
    elif raw is not None and standardiser is not None:
        baseline = {"zero_shot": on_standardised(raw, standardiser)}
    if training.best.backbone:  # the baseline belongs to the backbone as it was pre-trained
        before = {"start": federation.use(training.start), **baseline}
        found |= _test(federation, before, what="the test of the start")
        return found | _test(federation, {"federated": federation.use(training.best)}, what="the final test")
    heads = {"start": training.start.head, "federated": training.best.head, **baseline}
    return found | _test(federation, heads, what="the final test")


def _test(federation: Federation, heads: dict[str, LinearHead], *, what: str) -> dict[str, Metrics]:
    """All figures of each head, on all sites' test examples together."""
    evaluation = Evaluation(list(heads.values()), detail=True, multilabel=federation.study.multilabel)
    found = federation.ask(evaluation, split="test", what=what)
    return {name: best.metrics for name, [best] in zip(heads, found, strict=True)}


def data_quality(federation: Federation) -> dict[str, Any] | None:
    """What every site counted while it read its data, summed; None in a private study, which spends nothing on it."""
    study = federation.study
    if study.door.private:
        return None
    columns = [column.name for column in study.table.columns] if study.table else []
    plain = replace(federation, standardiser=None, backbone={})  # it is about records, not about features
    return plain.ask(DataQuality(columns), split="all")


def run_audit(
    federation: Federation,
    head: LinearHead,
    run: RunFolder,
    *,
    model_digest: str,
    attack: dict[str, Any] | None = None,
) -> AuditReport | None:
    """The audit of the federated head by the run's policy; None if the study has none.

    An attack that shows more than the study's privacy claim fails it, whatever the gates say.

    Raises:
        AuditError: If an earlier audit beside this run differs by so few people that they could be told.
    """
    if not (run.path / POLICY_FILE).exists():
        return None
    study = federation.study
    policy = load_policy(run.path / POLICY_FILE)
    heard = Listening(federation)
    totals, notes = _audit_totals(federation, head, policy, heard)
    seen = subject(study, head)
    report = build_audit(
        policy,
        totals,
        model_digest=model_digest,
        study_name=study.study.name,
        classes=seen.classes,
        notes=[*seen.notes, *notes],
    )
    report = after_attack(report, attack)
    report = with_origin(report, policy_origin(run))
    if not study.door.private:  # there the ledger counts what is asked
        cohort = Cohort.of(report, run=run.run_id, sites=federation.cohort.values())
        refuse_near(cohort, run.path.parent / AUDITS_FILE, k=policy.disclosure.k)
        append(cohort, run.path.parent / AUDITS_FILE)
    files.write_bytes(run.path / AUDIT_FILE, report.to_json().encode())
    heard.write(run)
    return report


def after_attack(report: AuditReport, attack: dict[str, Any] | None) -> AuditReport:
    """The report, failed by an attack that refutes what the study promises."""
    reasons = []
    if attack is not None and not attack["within_claim"]:
        reasons.append(
            f"an attack shows an epsilon of at least {attack['lower_bound']:.2f} for {attack.get('of', 'the rounds')}, "
            f"where {attack['claim']:.2f} is claimed → fail: the noise is not what was claimed."
        )
    if attack is not None and attack.get("clipping_held") is False:
        reasons.append(
            f"one unit changed a contribution by {attack['largest_change']:.2f} times the clip → fail: the noise is in "
            "proportion to the clip and does not hide it."
        )
    if not reasons:
        return report
    return report.model_copy(update={"verdict": "fail", "reasons": [*reasons, *report.reasons]})


def _audit_totals(
    federation: Federation, head: LinearHead, policy: Policy, heard: Listening
) -> tuple[AuditTotals, list[str]]:
    """What the audit is computed from: exact counts or, in a private study, noisy ones and what that costs."""
    study = federation.study
    seen = subject(study, head)
    if not study.door.private:
        edges = federation.ask(AuditEdges(seen.head, seen.positive), split="test")
        request = audit_request(
            policy, head=seen.head, positive=seen.positive, edges=edges, classes=seen.classes
        )
        return federation.ask(request, split="test", listen=heard), []
    private = private_audit_request(policy, head=seen.head, positive=seen.positive)
    joint = federation.ask(private, split="test", listen=heard)
    deviation = federation.deviation(private)
    totals = private.totals(joint, deviation=deviation, n_sites=len(federation.cohort))
    return totals, noise_notes(policy, totals)


def build_results(
    federation: Federation, training: Training, models: dict[str, Metrics], figures: list[dict[str, Any]]
) -> dict[str, Any]:
    """results.json: pooled-over-sites metrics of each model, released figures of each site, their means."""
    sites = [{**found, "pooled": None, "released": True} for found in figures]
    silent = sorted(set(federation.cohort.values()) - {str(found["site"]) for found in figures})
    blank = {
        "n_train": None,
        "n_test": None,
        "pooled": None,
        "federated": None,
        "personal": None,
        "local": None,
    }
    sites += [{"site": name, "released": False, **blank} for name in silent]
    return {
        "study": federation.study.study.name,
        **({"task": "multilabel"} if federation.study.multilabel else {}),
        "classes": federation.study.study.classes,
        "rounds": training.round,
        "best_round": training.best_round,
        "models": {"pooled": None, **models},
        "sites": sorted(sites, key=lambda site: str(site["site"])),
        "mean": {kind: mean_metrics(sites, kind) for kind in ("federated", "personal", "local")},
        "refused": [{"site": site, "reason": reason} for site, reason in sorted(federation.refused.items())],
        "held_out": None,
        "privacy": {
            **statement(federation.study),
            "attack": attack(federation.study),
            "at_site": None,
            "accuracy_noise": accuracy_noise(federation, training.best.head, models["federated"]),
        },
        "notes": [],
    }


def attack(study: Study) -> dict[str, Any] | None:
    """The one-run lower bound on what a private study's training gives away, and whether its clip holds.

    Where the backbone learns, only a site can try the clip (clients.attack): None until one has.
    """
    if not study.door.private:
        return None
    clipping = None if study.backbone.tuned else check_clip(study)
    claimed, bound = claim_of(study), check_mechanism(study)
    claim = claimed.epsilon
    return {
        "of": claimed.of,
        "claim": claim,
        "lower_bound": max(bound.epsilon_dp, bound.epsilon_fdp),
        "highest_possible": max(bound.ceiling_dp, bound.ceiling_fdp),
        "within_claim": max(bound.epsilon_dp, bound.epsilon_fdp) <= claim,
        "clipping_held": None if clipping is None else clipping.held,
        "largest_change": None if clipping is None else clipping.largest,
    }


def accuracy_noise(federation: Federation, head: LinearHead, found: Metrics) -> float | None:
    """Standard deviation that noise on the confusion counts gives the accuracy of a private study.

    The accuracy is k cells over the sum of k² cells; the first order in the noise of each.
    """
    if not federation.study.door.private or found["accuracy"] is None:
        return None
    k, accuracy, n = federation.study.n_classes, found["accuracy"], max(1, found["n"])
    spread = np.sqrt(k * (1 - accuracy) ** 2 + (k * k - k) * accuracy**2)
    return float(federation.deviation(Evaluation([head], counts_only=True)) * spread / n)


def mean_metrics(sites: list[dict[str, Any]], kind: str) -> dict[str, float | None] | None:
    """Unweighted mean over sites of each metric, over the sites where it is defined."""
    found = [site[kind] for site in sites if site.get(kind)]
    if not found:
        return None
    means: dict[str, float | None] = {"n": sum(int(metrics["n"]) for metrics in found)}
    for key in (*SCALARS, *(key for key in LABEL_SCALARS if key in found[0])):
        values = [metrics[key] for metrics in found if metrics[key] is not None]
        means[key] = float(np.mean(values)) if values else None
    return means


def write_results(run: RunFolder, results: dict[str, Any]) -> None:
    """Write results.json; where a policy asks for k people behind every count, the figures keep to it."""
    if (run.path / POLICY_FILE).exists() and not run.study().door.private:
        k = load_policy(run.path / POLICY_FILE).disclosure.k
        results["models"] = without_small_counts(results, k)["models"]
        results["data_quality"] = quality_without_small_counts(results["data_quality"], k)
    files.write_json(run.path / RESULTS_FILE, results)


def write_report(run: RunFolder) -> None:
    """Write report.html."""
    files.write_bytes(run.path / REPORT_FILE, rendered(run).encode())


def rendered(run: RunFolder) -> str:
    """report.html as what the run folder holds gives it."""
    fewshot, audit, mitigation, commitments = (
        files.read_json(run.path / name) if (run.path / name).exists() else None
        for name in (FEWSHOT_FILE, AUDIT_FILE, MITIGATION_FILE, COMMITMENTS_FILE)
    )
    results = files.read_json(run.path / RESULTS_FILE)
    day = (run.events("audited")[-1:] or run.events("created"))[-1]["time"][:10]
    return render_report(
        results,
        run.rounds(),
        fewshot,
        audit,
        study=run.study().model_dump(mode="json"),
        mitigation=mitigation,
        commitments=commitments,
        on=date.fromisoformat(day),
    )


def write_card(run: RunFolder, results: dict[str, Any], audit: AuditReport | None) -> None:
    """The model card: what it is, how good, for whom, and what was not shown."""
    study = run.study()
    modality = describe(study.backbone, study.table).modality
    plain = study.model_dump(mode="json")
    metrics = results["models"]["federated"]
    shown = ", ".join(f"{key} {value:.3f}" for key, value in metrics.items() if isinstance(value, float))
    verdict = audit.verdict if audit else "not audited: the study names no policy"
    label = f", of the label '{audit.positive}' alone" if audit and study.multilabel else ""
    aligned = [
        "- The standardised features are aligned before the head reads them: whitened by the covariance of the "
        "site's own training examples, then multiplied by `feature-colour` (CORAL).",
    ]
    head = front_matter(plain, results, modality=modality, verdict=audit.verdict if audit else None)
    lines = [
        f"{head}# {study.study.name}",
        "",
        f"A linear head on `{study.backbone.source}`, trained by {len(results['sites'])} sites together with Foedus "
        f"{__version__} ({study.federation.strategy}, {results['rounds']} rounds; door mode `{study.door.mode}`).",
        "",
        f"- Classes: {', '.join(study.study.classes)}",
        f"- Test examples of all sites together: {metrics['n']}; {shown}",
        f"- Fairness verdict: **{verdict}**{label}",
        "- `head.safetensors`: `weight` (classes, features), `bias`, and the standardisation of the features "
        "(`feature-mean`, `feature-scale`): scores = ((x - mean) / scale) @ weight.T + bias.",
        *(
            ["- Any number of labels a record: sigmoid(score) is each label's probability."]
            * study.multilabel
        ),
        *(aligned if study.backbone.align == "coral" else []),
        "- `backbone.json`: the frozen backbone, its digest and preprocessing.",
        "",
        "Do not deploy it unless the verdict is pass and an auditor has signed it.",
        "",
    ]
    files.write_bytes(run.path / "model/README.md", "\n".join(lines).encode())
    digest = files.sha256_file(run.path / HEAD_FILE)
    found = audit.to_dict() if audit else None
    card = card_yaml(plain, results, found, modality=modality, model_digest=digest, version=__version__)
    files.write_bytes(run.path / CARD_FILE, card.encode())
