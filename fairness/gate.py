"""The gate: pass, fail, or inconclusive, each with the figures that decided it.

fail: the whole interval lies beyond the tolerance. pass: it lies within, and every group the
policy names has the evidence the policy asks for. Anything else is inconclusive: too little
evidence is not evidence of fairness.
"""

from dataclasses import dataclass
from math import isnan, log, log10

import numpy as np
from numpy.typing import NDArray

from fairness.counts import GroupTable
from fairness.findings import Estimate, GateResult, Verdict
from fairness.groups import is_known
from fairness.infer import (
    Interval,
    Limits,
    largest_difference,
    limits,
    needed_per_group,
    null_variance,
    simultaneous_z,
    smallest_ratio,
    trials,
)
from fairness.policy import Gate, Policy

Rows = NDArray[np.bool_]

TAKEN_OVER = {
    "tpr": "positives",
    "fnr": "positives",
    "fpr": "negatives",
    "tnr": "negatives",
    "ppv": "positive decisions",
    "npv": "negative decisions",
    "auc": "of the rarer class",
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
    """

    shown: Rows
    found: Limits
    lowest: str | None
    highest: str | None

    @property
    def n_groups(self) -> int:
        """Groups whose metric is defined."""
        return int((~np.isnan(self.found.value)).sum())

    def among(self, rows: Rows) -> Limits:
        """The limits with every other group undefined; the critical value stays."""
        return _only(self.found, rows)


def compare(metric: str, table: GroupTable, positive: int, *, k: int, alpha: float) -> Comparison:
    """The groups with at least `k` people, with limits that hold for all of them together."""
    shown = np.asarray([is_known(group) for group in table.groups]) & (table.n >= k)
    usable = shown & (trials(metric, table, positive) > 0)
    z = simultaneous_z(int(usable.sum()), alpha)
    found = _only(limits(metric, table, positive, z=z), usable)
    if not usable.any():
        return Comparison(shown, found, None, None)
    lowest, highest = int(np.nanargmin(found.value)), int(np.nanargmax(found.value))
    return Comparison(shown, found, table.groups[lowest], table.groups[highest])


def decide(gate: Gate, table: GroupTable, positive: int, policy: Policy) -> GateResult:
    """The verdict on one gate, with its reason."""
    evidence = policy.evidence
    compared = compare(gate.metric, table, positive, k=policy.disclosure.k, alpha=evidence.alpha)
    weak = _weak_groups(gate, table, positive, policy)
    missing = [*weak.values(), *_too_many_unknown(table, policy)]
    measure = largest_difference if gate.compare == "max_difference" else smallest_ratio
    found = measure(compared.found)
    solid = measure(compared.among(np.asarray([group not in weak for group in table.groups])))
    verdict, needed = _verdict(gate, found=found, solid=solid, missing=missing), None
    if verdict == "inconclusive" and not _within(gate, found) and not _beyond(gate, found):
        needed = _needed(gate, table, positive, compared, alpha=evidence.alpha)
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
    )


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


def _weak_groups(gate: Gate, table: GroupTable, positive: int, policy: Policy) -> dict[str, str]:
    """Each group with less evidence than the policy asks for, and what it lacks."""
    evidence, k = policy.evidence, policy.disclosure.k
    over = trials(gate.metric, table, positive)
    word = TAKEN_OVER.get(gate.metric)
    weak = {}
    for i, group in enumerate(table.groups):
        n, m, sites = int(table.n[i]), int(over[i]), int(table.sites[i])
        if not is_known(group):
            continue
        if n < k:
            weak[group] = f"fewer than {k} people in {group}"
        elif n < evidence.min_n:
            weak[group] = f"{n} people in {group} (at least {evidence.min_n} asked for)"
        elif word and m < evidence.min_positives:
            weak[group] = f"{m} {word} in {group} (at least {evidence.min_positives} asked for)"
        elif sites < evidence.min_sites:
            weak[group] = f"{group} comes from {sites} sites (at least {evidence.min_sites} asked for)"
    return weak


def _too_many_unknown(table: GroupTable, policy: Policy) -> list[str]:
    limit = policy.evidence.max_unknown
    unknown = sum(int(n) for n, group in zip(table.n, table.groups, strict=True) if not is_known(group))
    if unknown > limit * int(table.n.sum()):
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
    shown = f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
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
        reasons.append("fewer than two groups have a defined value")
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


def _only(found: Limits, rows: Rows) -> Limits:
    return Limits(*(np.where(rows, part, np.nan) for part in (found.value, found.low, found.high)))


def _known(value: float) -> float | None:
    return None if isnan(value) else float(value)
