"""`foedus monitor`: one window of live traffic against the audit; a breach closes the gate of the service.

The window is a site's own journal, or the sum of what several sites saw (`foedus.pooling`): one comparison.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from deploy.bundle import AUDIT_FILE, HISTOGRAMS_FILE, POLICY_FILE, SERVING_FILE, STUDY_FILE, Bundle
from deploy.drift import Finding, Test, decided, drift_tests, shares_differ, total
from deploy.journal import GATE_FILE, WINDOW, read_gate
from deploy.outcomes import SHARES, gate_findings, group_figures, outcome_tests
from fairness.findings import AuditReport
from fairness.policy import MonitoringSection, Policy, load_policy
from fairness.signing import read
from foedus import files, journals, outcomes
from foedus.backbones import column_names
from foedus.confidence import Serving
from foedus.errors import DataError, ReleaseError
from foedus.histograms import DECISIONS, TOP
from foedus.metrics import columns
from foedus.outcomes import Outcomes
from foedus.statistic import Arrays
from foedus.study import Study, load_study

GATE_LOG = "gate.jsonl"
SEVERITY = ("none", "warn", "shadow", "stop")


@dataclass(frozen=True)
class Seen:
    """What went through the model.

    Attributes:
        window: The day, or "all".
        live: Histograms, added up; None without any.
        outcomes: Of the records whose label is known; None where no labels were given.
        sites: How many sites it is the sum of; None for a site's own.
        waiting: Records that are noted and in no histogram yet.
    """

    window: str
    live: Arrays | None
    outcomes: Outcomes | None
    sites: int | None = None
    waiting: int = 0

    @property
    def n(self) -> int:
        """Records with histograms."""
        return 0 if self.live is None else int(self.live[DECISIONS].sum())

    @property
    def n_labelled(self) -> int:
        """Records whose label is known."""
        return 0 if self.outcomes is None else len(self.outcomes)


@dataclass(frozen=True)
class Watched:
    """What a window showed.

    Attributes:
        model, version: Of the bundle.
        window: The day, or "all".
        sites: How many sites it is the sum of; None for a site's own.
        n: Records with histograms.
        n_labelled: Records whose label is known.
        findings: Every figure that was compared.
        groups: Metrics by group with the audit's intervals.
        action: "none", or what the policy says of a breach.
        notes: What could not be compared, and why.
    """

    model: str
    version: str
    window: str
    sites: int | None
    n: int
    n_labelled: int
    findings: list[Finding]
    groups: list[dict[str, Any]]
    action: str
    notes: list[str]

    @property
    def breaches(self) -> list[Finding]:
        """The alarms."""
        return [finding for finding in self.findings if finding.breach]

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def monitor(bundle: Bundle, journal: Path, *, day: date | None = None, labels: Path | None = None) -> Watched:
    """Compare what a service noted with what was audited, and close its gate if the policy says so.

    Args:
        bundle: What is served.
        journal: The folder of `foedus serve --journal`.
        day: The window (UTC); everything of this version when not given.
        labels: CSV with id, label and the policy's attributes.

    Raises:
        DataError: If there is nothing in the journal, or the labels cannot be read.
    """
    folder, window = journal / bundle.name, str(day or "all")
    predictions = journals.read_predictions(folder, version=bundle.version, day=day)
    if not predictions:
        raise DataError(f"{folder} holds nothing of version {bundle.version} in this window")
    windows = [found for _, found in journals.read_windows(folder, version=bundle.version, day=day)]
    counted = None
    if labels is not None:
        study, policy = load_study(bundle.path / STUDY_FILE), load_policy(bundle.path / POLICY_FILE)
        counted = outcomes.counted(
            outcomes.join(predictions, labels),
            classes=study.study.classes,
            positive=study.positive_index,
            attributes=policy.attributes,
        )
    seen = Seen(window, total(windows) if windows else None, counted)
    return judge(bundle, replace(seen, waiting=max(0, len(predictions) - seen.n)), journal)


def judge(bundle: Bundle, seen: Seen, journal: Path) -> Watched:
    """Compare what was seen with what was audited, and close the gate in `journal` if the policy says so."""
    study, policy = load_study(bundle.path / STUDY_FILE), load_policy(bundle.path / POLICY_FILE)
    settings, fewest = policy.monitoring, 1 if seen.sites is None else policy.disclosure.k
    tests, notes = _tests(bundle, study, policy, seen, fewest=fewest)
    findings = decided(tests, alpha=settings.alpha / 2)
    if seen.outcomes is not None and seen.n_labelled >= settings.least_labelled:
        findings += gate_findings(
            seen.outcomes,
            policy.gates,
            positive=study.positive_index,
            alpha=settings.alpha / 2,
            fewest=policy.evidence.min_n,
        )
    breached = [finding for finding in findings if finding.breach]
    watched = Watched(
        model=bundle.name,
        version=bundle.version,
        window=seen.window,
        sites=seen.sites,
        n=seen.n,
        n_labelled=seen.n_labelled,
        findings=findings,
        groups=[] if seen.outcomes is None else _groups(seen.outcomes, study, policy, fewest=fewest),
        action=settings.breach if breached else "none",
        notes=notes,
    )
    if breached:
        _close(journal / bundle.name, watched)
    return watched


def follow(journal: Path, model: str, gate: Path) -> dict[str, Any]:
    """Close the gate of a model as another monitor closed its own, such as the one that pools all sites.

    Args:
        journal: Of the service here.
        model: Its name.
        gate: The other's gate.json; one that is open, or closed less firmly than this, changes nothing.

    Raises:
        ReleaseError: If the file is no gate.
    """
    before, other = read_gate(journal, model), files.read_json(gate)
    if not isinstance(other, dict) or other.get("action") not in SEVERITY or "reasons" not in other:
        raise ReleaseError(f"{gate} is no gate; give the gate.json beside another service's journal")
    if SEVERITY.index(other["action"]) <= SEVERITY.index(before["action"]):
        return before
    known = {key: other[key] for key in ("action", "reasons", "window", "sites") if key in other}
    return _write(journal / model, known)


def reopen(journal: Path, model: str, *, reason: str) -> dict[str, Any]:
    """Open the gate of a model again, and say why.

    Raises:
        ReleaseError: If it is open.
    """
    gate = read_gate(journal, model)
    if gate["action"] == "none":
        raise ReleaseError(f"the gate of {model} in {journal} is open")
    return _write(journal / model, {"action": "none", "reasons": [], "reopened": reason})


def _tests(
    bundle: Bundle, study: Study, policy: Policy, seen: Seen, *, fewest: int
) -> tuple[list[Test], list[str]]:
    settings, tests, notes = policy.monitoring, list[Test](), list[str]()
    if not (bundle.path / HISTOGRAMS_FILE).exists():
        notes.append("the bundle holds no histograms (a private study): only labels are compared")
    elif seen.live is None or seen.n < settings.least_n:
        later = (
            f"; {seen.waiting} more have no histogram yet (one is written for every {WINDOW}, and at the end)"
        )
        notes.append(
            f"{seen.n} records are fewer than the policy's {settings.least_n}: nothing is said of drift"
            + (later if seen.waiting else "")
        )
    else:
        tests += _drift(bundle, study, settings, seen.live, seen.n)
    if seen.outcomes is not None and seen.n_labelled < settings.least_labelled:
        notes.append(
            f"{seen.n_labelled} labels are fewer than the policy's {settings.least_labelled}: nothing is said of "
            "outcomes"
        )
    elif seen.outcomes is not None:
        report = AuditReport.model_validate_json((bundle.path / AUDIT_FILE).read_bytes())
        tests += outcome_tests(
            seen.outcomes,
            report,
            positive=study.positive_index,
            metrics=_metrics(policy),
            least=settings.least_change,
            fewest=fewest,
        )
    return tests, notes


def _drift(bundle: Bundle, study: Study, settings: MonitoringSection, live: Arrays, n: int) -> list[Test]:
    audited = files.read_arrays(bundle.path / HISTOGRAMS_FILE)
    names = column_names(study.table) if study.table else [str(i) for i in range(len(audited["features"]))]
    classes = [study.study.classes[c] for c in columns(study.n_classes)]
    tests = drift_tests(live, audited, features=names, classes=classes, least=settings.least_psi)
    serving = read(bundle.path / SERVING_FILE, Serving, "serving settings")
    if serving.abstain_below is None or serving.abstain_rate is None:
        return tests
    x = int(live[TOP][: round(serving.abstain_below * len(live[TOP]))].sum())
    m, size = int(audited[TOP].sum()), x / n - serving.abstain_rate
    reason = f"the service abstained on {x / n:.1%} of {n}, and on {serving.abstain_rate:.1%} in the test"
    p = shares_differ(x, n, serving.abstain_rate, m)
    return [*tests, Test("abstentions", p, size, abs(size) >= settings.least_change, reason)]


def _metrics(policy: Policy) -> list[str]:
    """Accuracy, and the gates' metrics that are shares."""
    gated = [gate.metric for gate in policy.gates if gate.metric in SHARES and gate.positive is None]
    return list(dict.fromkeys(["accuracy", *gated]))


def _groups(found: Outcomes, study: Study, policy: Policy, *, fewest: int) -> list[dict[str, Any]]:
    return group_figures(
        found,
        positive=study.positive_index,
        metrics=_metrics(policy),
        alpha=policy.evidence.alpha,
        fewest=fewest,
    )


def _close(folder: Path, watched: Watched) -> None:
    """Write the gate, unless it is closed more firmly already."""
    before = read_gate(folder.parent, folder.name)["action"]
    action = max(before, watched.action, key=SEVERITY.index)
    reasons = [finding.reason for finding in watched.breaches]
    pooled = {} if watched.sites is None else {"sites": watched.sites}
    _write(folder, {"action": action, "reasons": reasons, "window": watched.window, **pooled})


def _write(folder: Path, gate: dict[str, Any]) -> dict[str, Any]:
    line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **gate}
    files.write_json(folder / GATE_FILE, line)
    with (folder / GATE_LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, sort_keys=True) + "\n")
    return line


def summary(findings: Sequence[Finding]) -> Finding | None:
    """The figure that is furthest from the audit."""
    return min(findings, key=lambda finding: finding.p, default=None)
