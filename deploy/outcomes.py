"""Labels that arrive later, joined by id: accuracy, calibration and the audit's figures by group."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from deploy.drift import Finding, Test, shares_differ
from fairness.findings import AuditReport, Rate
from fairness.infer import largest_difference, simultaneous_z, smallest_ratio, wilson
from fairness.policy import Gate
from foedus.errors import DataError
from foedus.examples import UNKNOWN

SHARES = ("accuracy", "tpr", "fnr", "fpr", "tnr", "ppv", "npv", "selection_rate")
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Outcomes:
    """Records whose label is known.

    Attributes:
        labels: (n,), indices of the true classes.
        decisions: (n,), of what the service said.
        probabilities: (n, n_classes), as audited.
        groups: Attribute to (n,) group names.
    """

    labels: NDArray[np.int64]
    decisions: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    groups: dict[str, NDArray[np.str_]]

    def __len__(self) -> int:
        return len(self.labels)


def join(
    predictions: Sequence[Mapping[str, Any]], path: Path, *, classes: Sequence[str], attributes: Sequence[str]
) -> Outcomes:
    """The predictions whose label is in a CSV file with columns id, label and, if known, the attributes.

    Raises:
        DataError: If the file has no such columns, or a label is no class.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        rows = {row["id"]: row for row in reader if row.get("id")}
        columns = reader.fieldnames or []
    if not {"id", "label"} <= set(columns):
        raise DataError(f"{path} has columns {', '.join(columns)}; it needs id and label")
    pairs = [(line, rows[line["id"]]) for line in predictions if line["id"] in rows]
    if unknown := sorted({row["label"] for _, row in pairs} - set(classes)):
        raise DataError(f"{path}: '{unknown[0]}' is not a class; {', '.join(classes)} are")
    place = {name: index for index, name in enumerate(classes)}
    return Outcomes(
        labels=np.array([place[row["label"]] for _, row in pairs], np.int64),
        decisions=np.array([place[line["label"]] for line, _ in pairs], np.int64),
        probabilities=np.array([line["probabilities"] for line, _ in pairs]).reshape(-1, len(classes)),
        groups={name: np.array([row.get(name) or UNKNOWN for _, row in pairs]) for name in attributes},
    )


def share(metric: str, found: Outcomes, positive: int) -> tuple[Flags, Flags]:
    """(whom a metric is taken over, who counts in it), each (n,)."""
    label, decision = found.labels == positive, found.decisions == positive
    everyone = np.ones(len(found), bool)
    return {
        "accuracy": (everyone, found.labels == found.decisions),
        "tpr": (label, decision),
        "fnr": (label, ~decision),
        "fpr": (~label, decision),
        "tnr": (~label, ~decision),
        "ppv": (decision, label),
        "npv": (~decision, ~label),
        "selection_rate": (everyone, decision),
    }[metric]


def outcome_tests(
    found: Outcomes, report: AuditReport, *, positive: int, metrics: Sequence[str], least: float
) -> list[Test]:
    """Each metric against the audit's, over all and in every group; and the calibration.

    Args:
        found: Records whose label is known.
        report: The audit.
        positive: Index of its positive class.
        metrics: Which, of `SHARES`.
        least: Smallest difference of a share that matters.
    """
    tests = [
        _compared(metric, name, rows, found, rate, positive=positive, least=least)
        for metric in metrics
        for name, rows, rate in _cells(metric, found, report)
    ]
    return [test for test in tests if test is not None] + _calibration(found, report, positive)


def _cells(metric: str, found: Outcomes, report: AuditReport) -> Iterator[tuple[str, Flags, Rate]]:
    """Everyone, then each group the audit gives the metric for."""
    if metric in report.overall:
        yield metric, np.ones(len(found), bool), report.overall[metric]
    for table in report.attributes:
        if table.attribute not in found.groups:
            continue
        for group in table.groups:
            rows = found.groups[table.attribute] == group.group
            if group.compared and metric in group.rates:
                yield f"{metric} in {table.attribute} {group.group}", rows, group.rates[metric]


def _compared(
    metric: str, name: str, rows: Flags, found: Outcomes, rate: Rate, *, positive: int, least: float
) -> Test | None:
    over, counted = share(metric, found, positive)
    n, x = int((over & rows).sum()), int((over & counted & rows).sum())
    if n == 0 or not rate.trials or (before := _before(rate, x / n)) is None:
        return None
    now = x / n
    reason = f"{name} was {before:.3f} in the audit and is {now:.3f} of {n}"
    size = now - before
    return Test(name, shares_differ(x, n, before, rate.trials), size, abs(size) >= least, reason)


def _before(rate: Rate, now: float) -> float | None:
    """The audited share; of one whose count is hidden, what it can be that is nearest to what it is now."""
    if rate.value is not None or rate.between is None or not rate.trials:
        return rate.value
    low, high = rate.between[0] / rate.trials, rate.between[-1] / rate.trials
    return min(max(now, low), high)


def _calibration(found: Outcomes, report: AuditReport, positive: int) -> list[Test]:
    """Observed over expected cases, against the audit's."""
    before = report.overall.get("oe_ratio")
    if before is None or before.value is None or not len(found):
        return []
    chances = found.probabilities[:, positive] * before.value
    observed, expected = float((found.labels == positive).sum()), float(chances.sum())
    spread = float(np.sqrt(np.maximum(chances * (1 - np.minimum(chances, 1)), 1e-9).sum()))
    p = float(2 * norm.sf(abs(observed - expected) / spread))
    ratio = observed / max(expected, 1e-9)
    reason = f"{observed:.0f} cases were seen where the audited model leads to expect {expected:.0f}"
    return [Test("calibration", p, ratio - 1, abs(ratio - 1) >= 0.1, reason)]


def gate_findings(
    found: Outcomes, gates: Sequence[Gate], *, positive: int, alpha: float, fewest: int
) -> list[Finding]:
    """The audit's gates decided again: a breach where the interval is beyond the tolerance.

    Args:
        found: Records whose label is known.
        gates: Of the policy; those of shares and single attributes are looked at.
        positive: Index of the positive class.
        alpha: Level of the intervals, split over the gates (Bonferroni).
        fewest: Groups with fewer people in a metric's denominator are left out.
    """
    usable = [g for g in gates if g.metric in SHARES and g.attribute in found.groups and g.positive is None]
    return [
        _gate(found, gate, positive=positive, alpha=alpha / len(usable), fewest=fewest) for gate in usable
    ]


def _gate(found: Outcomes, gate: Gate, *, positive: int, alpha: float, fewest: int) -> Finding:
    values = found.groups[str(gate.attribute)]
    over, counted = share(gate.metric, found, positive)
    names = [
        g for g in sorted(set(values.tolist())) if g != UNKNOWN and (over & (values == g)).sum() >= fewest
    ]
    n = np.array([int((over & (values == name)).sum()) for name in names])
    x = np.array([int((over & counted & (values == name)).sum()) for name in names])
    spread = wilson(x, n, z=simultaneous_z(len(names), alpha))
    ratio = gate.compare == "min_ratio"
    gap = smallest_ratio(spread) if ratio else largest_difference(spread)
    breach = gap.high < gate.tolerance if ratio else gap.low > gate.tolerance
    what = f"gate {gate.metric}:{gate.attribute}"
    kind = "smallest ratio" if ratio else "largest difference"
    reason = f"{what}: {kind} {gap.value:.3f} ({gap.low:.3f} to {gap.high:.3f}), tolerance {gate.tolerance:g}"
    return Finding(what, alpha if breach else 1.0, float(np.nan_to_num(gap.value)), bool(breach), reason)


def group_figures(
    found: Outcomes, *, positive: int, metrics: Sequence[str], alpha: float
) -> list[dict[str, Any]]:
    """Each metric in every group with the audit's intervals: Wilson's, all groups together (Tukey)."""
    lines = []
    for attribute, values in found.groups.items():
        names = sorted(set(values.tolist()))
        z = simultaneous_z(len(names), alpha)
        for metric in metrics:
            over, counted = share(metric, found, positive)
            n = np.array([int((over & (values == name)).sum()) for name in names])
            x = np.array([int((over & counted & (values == name)).sum()) for name in names])
            spread = wilson(x, n, z=z)
            lines += [
                {"attribute": attribute, "group": name, "metric": metric, "n": int(n[i])}
                | {key: _plain(getattr(spread, key)[i]) for key in ("value", "low", "high")}
                for i, name in enumerate(names)
            ]
    return lines


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)
