"""Are decisions still as right as in the audit? Tests on counts of records whose label came later."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from deploy.drift import Finding, Test, shares_differ
from fairness.findings import AuditReport, Rate
from fairness.infer import largest_difference, simultaneous_z, smallest_ratio, wilson
from fairness.policy import Gate
from foedus.examples import UNKNOWN
from foedus.outcomes import Outcomes

SHARES = ("accuracy", "tpr", "fnr", "fpr", "tnr", "ppv", "npv", "selection_rate")
Confusion = NDArray[np.int64]


def share(metric: str, confusion: Confusion, positive: int) -> tuple[int, int]:
    """(who counts in a metric, whom it is taken over), from the true classes by decisions of a group."""
    n, right = int(confusion.sum()), int(np.trace(confusion))
    tp, truths = int(confusion[positive, positive]), int(confusion[positive].sum())
    chosen = int(confusion[:, positive].sum())
    tn = n - truths - chosen + tp
    return {
        "accuracy": (right, n),
        "tpr": (tp, truths),
        "fnr": (truths - tp, truths),
        "fpr": (chosen - tp, n - truths),
        "tnr": (tn, n - truths),
        "ppv": (tp, chosen),
        "npv": (tn, n - chosen),
        "selection_rate": (chosen, n),
    }[metric]


def outcome_tests(
    found: Outcomes,
    report: AuditReport,
    *,
    positive: int,
    metrics: Sequence[str],
    least: float,
    fewest: int = 1,
) -> list[Test]:
    """Each metric against the audit's, over all and in every group; and the calibration.

    Args:
        found: Records whose label is known.
        report: The audit.
        positive: Index of its positive class.
        metrics: Which, of `SHARES`.
        least: Smallest difference of a share that matters.
        fewest: A share over fewer people is left out.
    """
    tests = [
        _compared(name, share(metric, cell, positive), rate, least=least, fewest=fewest)
        for metric in metrics
        for name, cell, rate in _cells(metric, found, report)
    ]
    return [test for test in tests if test is not None] + _calibration(found, report, positive)


def _cells(metric: str, found: Outcomes, report: AuditReport) -> Iterator[tuple[str, Confusion, Rate]]:
    """Everyone, then each group the audit gives the metric for."""
    if metric in report.overall:
        yield metric, found.confusion[0], report.overall[metric]
    for table in report.attributes:
        if table.attribute not in found.groups:
            continue
        for group in table.groups:
            if group.compared and metric in group.rates:
                cell = found.of(table.attribute, group.group)
                yield f"{metric} in {table.attribute} {group.group}", cell, group.rates[metric]


def _compared(name: str, counts: tuple[int, int], rate: Rate, *, least: float, fewest: int) -> Test | None:
    x, n = counts
    if n < max(1, fewest) or not rate.trials or (before := _before(rate, x / n)) is None:
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
    ratio_then, (chances, squares) = before.value, found.chances.tolist()
    observed, expected = float(found.confusion[0][positive].sum()), ratio_then * chances
    variance = ratio_then * (chances - min(ratio_then, 1.0) * squares)
    spread = float(np.sqrt(max(variance, 1e-9)))
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
    attribute = str(gate.attribute)
    known = [group for group in found.groups[attribute] if group != UNKNOWN]
    pairs = [share(gate.metric, found.of(attribute, group), positive) for group in known]
    x, n = (np.array([pair[i] for pair in pairs if pair[1] >= fewest]) for i in (0, 1))
    spread = wilson(x, n, z=simultaneous_z(len(n), alpha))
    ratio = gate.compare == "min_ratio"
    gap = smallest_ratio(spread) if ratio else largest_difference(spread)
    breach = gap.high < gate.tolerance if ratio else gap.low > gate.tolerance
    what = f"gate {gate.metric}:{gate.attribute}"
    kind = "smallest ratio" if ratio else "largest difference"
    reason = f"{what}: {kind} {gap.value:.3f} ({gap.low:.3f} to {gap.high:.3f}), tolerance {gate.tolerance:g}"
    return Finding(what, alpha if breach else 1.0, float(np.nan_to_num(gap.value)), bool(breach), reason)


def group_figures(
    found: Outcomes, *, positive: int, metrics: Sequence[str], alpha: float, fewest: int = 1
) -> list[dict[str, Any]]:
    """Each metric in every group with the audit's intervals: Wilson's, all groups together (Tukey).

    A share over fewer than `fewest` people is left out.
    """
    lines = []
    for attribute, groups in found.groups.items():
        names = [group for group in groups if found.of(attribute, group).sum() >= fewest]
        z = simultaneous_z(len(names), alpha)
        for metric in metrics:
            pairs = [share(metric, found.of(attribute, name), positive) for name in names]
            x, n = (np.array([pair[i] for pair in pairs], np.int64) for i in (0, 1))
            spread = wilson(x, n, z=z)
            lines += [
                {"attribute": attribute, "group": name, "metric": metric, "n": int(n[i])}
                | {key: _plain(getattr(spread, key)[i]) for key in ("value", "low", "high")}
                for i, name in enumerate(names)
                if n[i] >= fewest
            ]
    return lines


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)
