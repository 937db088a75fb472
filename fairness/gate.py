"""The gate: pass, fail, or inconclusive, each with the figures that decided it.

fail: the whole interval lies beyond the tolerance. pass: it lies within, and every group the
policy names has the evidence the policy asks for. Anything else is inconclusive: too little
evidence is not evidence of fairness.
"""

from dataclasses import dataclass
from math import isnan, log, log10

import numpy as np
from numpy.typing import NDArray

from fairness.findings import Estimate, GateResult, Verdict
from fairness.groups import is_known
from fairness.infer import (
    Interval,
    Limits,
    critical_z,
    largest_difference,
    limits,
    needed_per_group,
    null_variance,
    smallest_ratio,
    trials,
    worst_calibration,
)
from fairness.policy import Gate, Policy
from fairness.tables import NOBODY, GroupTable

Rows = NDArray[np.bool_]

TAKEN_OVER = {
    "tpr": "positives",
    "fnr": "positives",
    "fpr": "negatives",
    "tnr": "negatives",
    "ppv": "positive decisions",
    "npv": "negative decisions",
    "auc": "of the rarer class",
    "oe_ratio": "positives",
}
"""What a metric is taken over, in words; all others are taken over people."""


@dataclass(frozen=True)
class Comparison:
    """The groups of a table that are compared on a metric.

    Attributes:
        shown: (n_groups,) true where a group is named in the policy and not suppressed.
        found: Simultaneous limits of the shown groups; NaN elsewhere.
        lowest: Group with the lowest defined value.
        highest: Group with the highest defined value.
        hidden: Whether a count behind a compared group is hidden.
    """

    shown: Rows
    found: Limits
    lowest: str | None
    highest: str | None
    hidden: bool = False

    @property
    def n_groups(self) -> int:
        """Groups whose metric is defined."""
        return int((~np.isnan(self.found.value)).sum())

    def among(self, rows: Rows) -> Limits:
        """The limits with every other group undefined; the critical value stays."""
        return self.found.only(rows)


def compare(
    metric: str, table: GroupTable, positive: int, *, k: int, alpha: float, z: float | None = None
) -> Comparison:
    """The groups that may be written about, with limits that hold for all of them together.

    Args:
        metric: Name in PROPORTIONS, "auc" or "oe_ratio".
        table: Counts of every group.
        positive: The class the metric is about.
        k: Fewest people in a group, where disclosure control has not decided yet.
        alpha: Level of the limits.
        z: Normal quantile to use in place of the level's.
    """
    suppressed = table.hidden(k)
    shown = np.asarray([is_known(group) for group in table.groups])
    shown &= np.asarray([reason is None for reason in suppressed])
    usable = shown & (trials(metric, table, positive) > 0)
    z = critical_z(metric, int(usable.sum()), alpha) if z is None else z
    found = limits(metric, table, positive, z=z).only(usable)
    if np.isnan(found.value).all():
        return Comparison(shown, found, None, None)
    lowest, highest = int(np.nanargmin(found.value)), int(np.nanargmax(found.value))
    hidden = found.ends is not None and bool((found.ends[0].value < found.ends[1].value).any())
    return Comparison(shown, found, table.groups[lowest], table.groups[highest], hidden)


def decide(
    gate: Gate, table: GroupTable, positive: int, policy: Policy, *, alpha: float | None = None
) -> GateResult:
    """The verdict on one gate by itself, with its reason.

    Args:
        gate: With its attribute.
        table: Of that attribute.
        positive: The class the gate is about.
        policy: Asks for the evidence.
        alpha: Level of the interval; the policy's when not set.
    """
    alpha = policy.evidence.alpha if alpha is None else alpha
    compared = compare(gate.metric, table, positive, k=policy.disclosure.k, alpha=alpha)
    weak = _weak_groups(gate, table, positive, policy)
    missing = [*dict.fromkeys(weak.values()), *_too_many_unknown(table, policy)]
    found = measure(gate, compared.found)
    solid = measure(gate, compared.among(np.asarray([group not in weak for group in table.groups])))
    verdict, needed = _verdict(gate, found=found, solid=solid, missing=missing), None
    if verdict == "inconclusive" and not _within(gate, found) and not _beyond(gate, found):
        needed = _needed(gate, table, positive, compared, alpha=alpha)
    why = _why(verdict, gate, found=found, missing=missing, needed=needed)
    return GateResult(
        metric=gate.metric,
        attribute=table.key,
        compare=gate.compare,
        tolerance=gate.tolerance,
        found=as_estimate(found),
        lowest=compared.lowest,
        highest=compared.highest,
        verdict=verdict,
        reason=f"{_figures(gate, table.key, found, compared)} → {verdict}: {why}.",
        needed=needed,
        positive=gate.positive,
        alpha=alpha,
        hidden=compared.hidden,
    )


def measure(gate: Gate, found: Limits) -> Interval:
    """The figure a gate is about."""
    if gate.metric == "oe_ratio":
        return worst_calibration(found)
    return largest_difference(found) if gate.compare == "max_difference" else smallest_ratio(found)


def is_beyond(gate: Gate, table: GroupTable, positive: int, policy: Policy, *, z: float) -> bool:
    """Whether the gate would fail with intervals of this many standard errors."""
    compared = compare(gate.metric, table, positive, k=policy.disclosure.k, alpha=0.05, z=z)
    weak = _weak_groups(gate, table, positive, policy)
    return _beyond(gate, measure(gate, compared.among(np.asarray([g not in weak for g in table.groups]))))


def _verdict(gate: Gate, *, found: Interval, solid: Interval, missing: list[str]) -> Verdict:
    """Failing takes groups with enough evidence; passing takes enough evidence in all of them."""
    if _beyond(gate, solid):
        return "fail"
    return "pass" if _within(gate, found) and not missing else "inconclusive"


def overall_verdict(results: list[GateResult]) -> tuple[Verdict, list[str]]:
    """fail if any gate fails, else inconclusive if any is, else pass; and the deciding reasons."""
    verdicts = {result.verdict for result in results}
    verdict: Verdict = (
        "fail" if "fail" in verdicts else "inconclusive" if "inconclusive" in verdicts else "pass"
    )
    return verdict, [result.reason for result in results if result.verdict == verdict]


def as_estimate(found: Interval) -> Estimate:
    """An interval with null for NaN."""
    return Estimate(value=_known(found.value), low=_known(found.low), high=_known(found.high))


SCORED = ("auc", "oe_ratio")
"""Metrics that are read from scores, not from decisions."""


def _weak_groups(gate: Gate, table: GroupTable, positive: int, policy: Policy) -> dict[str, str]:
    """Each group with less evidence than the policy asks for, and what it lacks."""
    if table.noise and gate.metric in SCORED:
        return {
            g: f"a private study releases no scores, which {gate.metric} takes"
            for g in table.groups
            if is_known(g)
        }
    evidence, k = policy.evidence, policy.disclosure.k
    over, hidden = trials(gate.metric, table, positive), table.hidden(k)
    word, exact = TAKEN_OVER.get(gate.metric), table.facts(positive).exact
    weak = {}
    for i, group in enumerate(table.groups):
        about = "" if exact[i] else "about "
        n, m, sites = int(table.n[i]), int(over[i]), int(table.sites[i])
        if not is_known(group):
            continue
        if hidden[i] is not None:
            weak[group] = f"{hidden[i]} in {group}"
        elif n < evidence.min_n:
            weak[group] = f"{about}{n} people in {group} (at least {evidence.min_n} asked for)"
        elif word and m < evidence.min_positives:
            weak[group] = f"{about}{m} {word} in {group} (at least {evidence.min_positives} asked for)"
        elif sites < evidence.min_sites:
            weak[group] = f"{group} comes from {sites} sites (at least {evidence.min_sites} asked for)"
    return weak


def _too_many_unknown(table: GroupTable, policy: Policy) -> list[str]:
    """Whoever is in no named group; where one of those is hidden, in a group with "unknown" that is shown."""
    limit, hidden = policy.evidence.max_unknown, table.hidden(policy.disclosure.k)
    known = np.asarray([is_known(group) for group in table.groups])
    total = int(table.n.sum()) if table.total is None else table.total
    closed = any(reason not in (None, NOBODY) for reason, named in zip(hidden, known, strict=True) if named)
    unknown = int(table.n[~known].sum()) if closed else total - int(table.n[known].sum())
    if unknown > limit * total:
        return [f"{table.key} is unknown for more than {limit:.0%} of the people"]
    return []


def _beyond(gate: Gate, found: Interval) -> bool:
    if gate.compare == "max_difference":
        return found.low > gate.tolerance
    return found.high < gate.tolerance


def _within(gate: Gate, found: Interval) -> bool:
    if gate.compare == "max_difference":
        return found.high <= gate.tolerance
    return found.low >= gate.tolerance


def _figures(gate: Gate, key: str, found: Interval, compared: Comparison) -> str:
    if isnan(found.value):
        return f"{gate.metric} by {key} cannot be compared"
    about = "about " if compared.hidden else ""
    shown = f"{about}{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
    if gate.metric == "oe_ratio":
        return (
            f"observed over expected cases by {key} are {compared.lowest} (lowest) to {compared.highest} (highest), "
            f"at worst {shown} of 1; at least {gate.tolerance:g} asked for"
        )
    if gate.compare == "max_difference":
        return (
            f"{gate.metric} differs by {shown} between {compared.lowest} (lowest) and "
            f"{compared.highest} (highest); tolerance {gate.tolerance:g}"
        )
    return (
        f"{gate.metric} of {compared.lowest} is {shown} times that of {compared.highest}; "
        f"at least {gate.tolerance:g} asked for"
    )


def _why(verdict: Verdict, gate: Gate, *, found: Interval, missing: list[str], needed: int | None) -> str:
    if verdict != "inconclusive":
        return f"the whole interval is {'within' if verdict == 'pass' else 'beyond'} the tolerance"
    reasons = list(missing)
    if isnan(found.value):
        few = "no group has" if gate.metric == "oe_ratio" else "fewer than two groups have"
        reasons.append(f"{few} a defined value")
    elif not missing:
        reasons.append("the interval contains the tolerance")
    if needed is not None:
        word = TAKEN_OVER.get(gate.metric, "people")
        reasons.append(
            f"about {needed:,} {word} in each group are needed to show that it is within the tolerance"
        )
    return ", ".join(reasons)


def _needed(
    gate: Gate, table: GroupTable, positive: int, compared: Comparison, *, alpha: float
) -> int | None:
    """People each compared group needs to pass if there is no gap, to two figures."""
    rows = np.flatnonzero(~np.isnan(compared.found.value))
    n = trials(gate.metric, table, positive)
    variance = null_variance(gate.metric, table, positive, rows=rows)[rows] * n[rows]
    if len(rows) < 2 or np.isnan(variance).all():
        return None
    spread, tolerance = float(np.sqrt(np.nanmax(variance))), gate.tolerance
    if gate.compare == "min_ratio":
        p = float((compared.found.value[rows] @ n[rows] + 2) / (n[rows].sum() + 4))
        spread, tolerance = spread / p, -log(tolerance)
    needed = needed_per_group(spread, tolerance, len(rows), alpha=alpha)
    return int(round(needed, 1 - int(log10(needed)))) if needed >= 100 else max(needed, 1)


def _known(value: float) -> float | None:
    return None if isnan(value) else float(value)
