"""`foedus audit mitigate`: what could be done about a run's gaps, tried on its sites.

Thresholds come from one more sum over the test data. Training that balances groups is tried on the
development data (training and validation examples), so that the test data choose nothing; every
candidate goes into the run's log, and the one chosen is audited once on the test data.
"""

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.app import app as client_app
from fairness.audit import audit_request
from fairness.edges import AuditEdges
from fairness.findings import AuditReport
from fairness.mitigation import AsideCounts, acceptable, cuts, gated_value, standing, with_threshold
from fairness.policy import Policy, load_policy
from fairness.remedies import (
    NOTES,
    Alternative,
    Mitigation,
    Offer,
    audited,
    changes,
    front,
    gate_changes,
    offers_of,
)
from fairness.tables import AuditTotals
from foedus import files
from foedus.backbones import Standardiser
from foedus.backbones.saving import read_tuned
from foedus.errors import AuditError
from foedus.head import LinearHead
from foedus.runs import AUDIT_FILE, HEAD_FILE, MITIGATION_FILE, POLICY_FILE, RunFolder
from foedus.site import find_sites
from foedus.study import Study
from server.federation import Federation
from server.local_grid import LocalGrid
from server.results import write_report
from server.rounds import run_rounds
from server.start import begin

STRENGTHS = (0.5, 1.0)
STEPS = (-1.0, -0.5, 0.0, 0.5, 1.0)
"""Thresholds tried around the policy's, in logits."""


@dataclass(frozen=True)
class _Candidate:
    """A head and a threshold, and how they do on the development data."""

    name: str
    attribute: str | None
    strength: float
    head: LinearHead
    federation: Federation
    threshold: float
    totals: AuditTotals


def mitigate(run: RunFolder) -> Mitigation:
    """Try what the policy allows, write mitigation.json and the report, log every candidate.

    Raises:
        AuditError: If the run has no audit, is private, or has more than two classes.
        RunError: If its sites are gone.
    """
    logging.getLogger("flwr").setLevel(logging.WARNING)  # as in server.app
    study = run.study()
    _require(run, study)
    policy = load_policy(run.path / POLICY_FILE)
    before = AuditReport.model_validate(files.read_json(run.path / AUDIT_FILE))
    folders = find_sites(Path(run.state()["sites"]))
    federation, head = _as_trained(run, study, folders)
    totals, edges = _counts(federation, head, policy, "test", (policy.policy.decision_threshold,))
    _, now = with_threshold(edges, policy.policy.decision_threshold)
    offers = offers_of(policy, before, totals, edges, now)
    alternatives, trained = _search(run, study, policy, federation, head, folders, before)
    found = Mitigation(
        study=before.study,
        model_digest=before.model_digest,
        policy_digest=policy.digest,
        **policy.mitigation.model_dump(),
        offers=[*offers, *trained],
        alternatives=alternatives,
        notes=NOTES,
    )
    for each in alternatives:
        run.log("alternative", **each.model_dump(exclude={"on_front"}))
    run.log("mitigated", offers=[each.name for each in found.offers if each.refused is None])
    files.write_bytes(run.path / MITIGATION_FILE, found.to_json().encode())
    write_report(run)
    run.seal()
    return found


def _require(run: RunFolder, study: Study) -> None:
    if not (run.path / AUDIT_FILE).exists() or not (run.path / POLICY_FILE).exists():
        raise AuditError("the run has no audit; there is no gap to look at. See foedus audit run.")
    if study.door.private:
        raise AuditError(
            "a mitigation asks the sites again, and the privacy budget of this study has no room for it; "
            'plan federation.balance in a study with door.mode = "secure-only".'
        )
    if study.multilabel:
        raise AuditError(
            "the study is multilabel; mitigation looks at two classes: run one study for this label."
        )
    if study.n_classes != 2:
        raise AuditError(f"the study has {study.n_classes} classes; mitigation looks at two.")


def _as_trained(run: RunFolder, study: Study, folders: Sequence[Path]) -> tuple[Federation, LinearHead]:
    arrays = files.read_arrays(run.path / HEAD_FILE)
    federation = Federation.enlist(LocalGrid(client_app, folders), study, run.run_id)
    federation.standardiser = Standardiser.from_arrays(arrays)
    federation.backbone = read_tuned(run.path / "model")
    return federation, LinearHead.from_arrays(arrays)


def _counts(
    federation: Federation,
    head: LinearHead,
    policy: Policy,
    split: str,
    thresholds: Sequence[float],
    edges: NDArray[np.float64] | None = None,
) -> tuple[AuditTotals, NDArray[np.float64]]:
    """The audit's counts on a split, with these thresholds among the edges."""
    positive = federation.study.positive_index
    if edges is None:
        edges = federation.ask(AuditEdges(head, positive), split=split)
    for threshold in thresholds:
        edges, _ = with_threshold(edges, threshold)
    classes = federation.study.study.classes
    request = audit_request(policy, head=head, positive=positive, edges=edges, classes=classes)
    aside = AsideCounts(**{field.name: getattr(request, field.name) for field in fields(request)})
    return federation.ask(aside, split=split, what="counting once more"), request.edges


def _search(
    run: RunFolder,
    study: Study,
    policy: Policy,
    federation: Federation,
    head: LinearHead,
    folders: Sequence[Path],
    before: AuditReport,
) -> tuple[list[Alternative], list[Offer]]:
    """Candidates over strengths and thresholds, and the best of them on the test data."""
    if study.backbone.tuned:
        return [], []
    models: list[tuple[str, str | None, float, LinearHead, Federation]] = [
        ("as trained", None, 0.0, head, federation)
    ]
    for attribute in sorted({str(gate.attribute) for gate in policy.gates} & set(policy.attributes)):
        for strength in STRENGTHS:
            balanced = _balanced(study, policy, attribute, strength)
            other, again = _train(run, balanced, folders)
            models.append(
                (f"balanced by {attribute}, strength {strength:g}", attribute, strength, again, other)
            )
    candidates = [each for model in models for each in _development(model, policy)]
    standings = [standing(each.totals, policy) for each in candidates]
    today = next(
        s
        for c, s in zip(candidates, standings, strict=True)
        if c.attribute is None and c.threshold == policy.policy.decision_threshold
    )
    fine = [i for i, s in enumerate(standings) if acceptable(s, today, policy)]
    best = min(fine, key=lambda i: standings[i].order) if fine else None
    on_front = front([(s.accuracy, s.excess) for s in standings])
    found = [
        _alternative(
            c, policy, accuracy=s.accuracy, within=s.excess == 0, on_front=on_front[i], chosen=i == best
        )
        for i, (c, s) in enumerate(zip(candidates, standings, strict=True))
    ]
    return found, [] if best is None else [_trained_offer(candidates[best], policy, before)]


def _balanced(study: Study, policy: Policy, attribute: str, strength: float) -> Study:
    settings: dict[str, Any] = {
        "balance": "group",
        "balance_groups": {attribute: policy.attributes[attribute]},
        "balance_strength": strength,
    }
    start = "ridge" if study.federation.start == "prototypes" else study.federation.start
    return study.model_copy(
        update={"federation": study.federation.model_copy(update={**settings, "start": start})}
    )


def _train(run: RunFolder, study: Study, folders: Sequence[Path]) -> tuple[Federation, LinearHead]:
    """The same recipe with other settings, leaving nothing behind."""
    federation = Federation.enlist(LocalGrid(client_app, folders), study, f"{run.run_id[:59]}-alt")
    with tempfile.TemporaryDirectory() as scratch:
        training = run_rounds(federation, begin(federation), RunFolder(Path(scratch)), lambda line: None)
    return federation, training.best.head


def _development(
    model: tuple[str, str | None, float, LinearHead, Federation], policy: Policy
) -> list[_Candidate]:
    """One model at every threshold, on training and validation examples together."""
    name, attribute, strength, head, federation = model
    logit = np.log(policy.policy.decision_threshold / (1 - policy.policy.decision_threshold))
    near = [float(1 / (1 + np.exp(-(logit + step)))) for step in STEPS if step]
    thresholds = [policy.policy.decision_threshold, *near]
    training, edges = _counts(federation, head, policy, "train", thresholds)
    validation, _ = _counts(federation, head, policy, "validation", (), edges)
    together = _added(training, validation)
    found = []
    for threshold in thresholds:
        _, index = with_threshold(edges, threshold)
        totals = cuts(policy, together, edges, index).at(index)
        found.append(_Candidate(name, attribute, strength, head, federation, threshold, totals))
    return found


def _added(left: AuditTotals, right: AuditTotals) -> AuditTotals:
    tables = {
        key: replace(
            table,
            confusion=table.confusion + right.tables[key].confusion,
            scores=table.scores + right.tables[key].scores,
        )
        for key, table in left.tables.items()
    }
    return replace(left, tables=tables)


def _alternative(
    candidate: _Candidate, policy: Policy, *, accuracy: float, within: bool, on_front: bool, chosen: bool
) -> Alternative:
    figures = {
        f"{gate.metric} by {gate.attribute}": gated_value(gate, candidate.totals, k=policy.disclosure.k)
        for gate in policy.gates
    }
    return Alternative(
        name=candidate.name,
        attribute=candidate.attribute,
        strength=candidate.strength,
        threshold=round(candidate.threshold, 4),
        accuracy=round(accuracy, 3),
        figures={name: None if np.isnan(value) else round(value, 2) for name, value in figures.items()},
        within=within,
        on_front=on_front,
        chosen=chosen,
    )


def _trained_offer(candidate: _Candidate, policy: Policy, before: AuditReport) -> Offer:
    """The chosen candidate, audited on the test data."""
    identity = policy.policy.model_copy(update={"decision_threshold": candidate.threshold})
    moved = policy.model_copy(update={"policy": identity})
    totals, _ = _counts(candidate.federation, candidate.head, moved, "test", (candidate.threshold,))
    after = audited(moved, totals, before)
    settings = "the study stays as it is"
    if candidate.attribute is not None:
        groups = ", ".join(f'"{group}"' for group in policy.attributes[candidate.attribute])
        settings = (
            f'train again with [federation] balance = "group", balance_groups = {{ {candidate.attribute} = '
            f"[{groups}] }}, balance_strength = {candidate.strength:g}"
        )
    return Offer(
        name=f"{candidate.name}, threshold {candidate.threshold:.3f}",
        how=f"{settings}; decide for the positive class from a probability of {candidate.threshold:.3f}.",
        refused=None,
        thresholds={"everyone": candidate.threshold},
        gates=gate_changes(before, after),
        changes=changes(before, after),
    )
