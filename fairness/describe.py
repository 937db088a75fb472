"""What the report says of every group, from counts that may be written."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fairness import within
from fairness.calibration import BINS, Calibration, calibration, coarser, curve
from fairness.findings import Attribute, CalibrationPoint, Gap, Group, Rate, RocPoint, WithinSites
from fairness.gate import as_estimate, compare
from fairness.groups import is_known
from fairness.infer import (
    Interval,
    Limits,
    detectable_gap,
    largest_difference,
    limits,
    null_variance,
    simultaneous_z,
    smallest_ratio,
)
from fairness.infer import trials as taken_over
from fairness.metrics import PROPORTIONS, auc, group_metrics
from fairness.policy import Policy
from fairness.shares import shares
from fairness.tables import AuditTotals, Counts, GroupTable

INTERVAL_METRICS = (*PROPORTIONS, "auc")
PLAIN_METRICS = ("balanced_accuracy", "f1")


def describe(table: GroupTable, totals: AuditTotals, policy: Policy) -> Attribute:
    """An attribute or intersection; suppressed groups have no number."""
    k, positive = policy.disclosure.k, totals.positive
    largest = _largest(table, k)
    rates = group_rates(table, positive, alpha=policy.evidence.alpha, reference=largest)
    detectable = _detectable(table, positive, k=k, alpha=policy.evidence.alpha)
    single = table.key in policy.attributes
    groups = []
    for i, (name, reason) in enumerate(zip(table.groups, table.hidden(k), strict=True)):
        if reason is not None:
            groups.append(_suppressed(name, reason))
            continue
        with_gap = {
            metric: rate.model_copy(update={"detectable_gap": detectable.get((metric, i))})
            for metric, rate in rates[i].items()
        }
        found = _group(table, i, positive, with_gap)
        if single:
            found = found.model_copy(update=_curves(table, i, totals, policy))
        groups.append(found)
    gaps = [_gap(metric, table, positive, policy) for metric in INTERVAL_METRICS]
    sites = _within_sites(table, totals, policy) if single else []
    return Attribute(attribute=table.key, groups=groups, gaps=gaps, within_sites=sites)


def group_rates(
    table: GroupTable, positive: int, *, alpha: float, reference: int | None = None
) -> list[dict[str, Rate]]:
    """Every metric of every group, with the group's own interval.

    Args:
        table: Counts that may be written.
        positive: Index of the positive class.
        alpha: Level of the intervals.
        reference: Index of the group that mean scores are compared with.
    """
    z = simultaneous_z(2, alpha)
    plain = _plain(table, positive)
    scored = calibration(table, positive, reference=reference)
    spread = {metric: limits(metric, table, positive, z=z) for metric in (*INTERVAL_METRICS, "oe_ratio")}
    bound = auc(table.scores).bound
    found = []
    for i in range(len(table.groups)):
        rates = {metric: _share(metric, table, positive, spread[metric], i) for metric in PROPORTIONS}
        rates["auc"] = Rate(**_at(spread["auc"], i), trials=None, bound=_null(np.ceil(bound[i] * 1e4) / 1e4))
        rates |= {metric: _figure(plain[metric][i]) for metric in PLAIN_METRICS}
        if table.expected is not None:
            rates |= _of_scores(scored, spread["oe_ratio"], i, int(table.facts(positive).middle.positives[i]))
        found.append(rates)
    return found


def _share(metric: str, table: GroupTable, positive: int, spread: Limits, i: int) -> Rate:
    share = shares(metric, table.facts(positive))
    trials = int(share.middle[1][i])
    if not share.hidden[i]:
        return Rate(**_at(spread, i), trials=trials)
    between = [int(end[i]) for end in share.between]
    ends = Interval(float("nan"), float(spread.low[i]), float(spread.high[i]))
    known = {} if np.isnan(ends.low) or np.isnan(ends.high) else as_estimate(ends).model_dump()
    nothing = {"value": None, "low": None, "high": None}
    return Rate(**{**nothing, **known}, trials=trials, hidden=True, between=between)


def _of_scores(scored: Calibration, oe: Limits, i: int, positives: int) -> dict[str, Rate]:
    error = _figure(scored.error[i]).model_copy(update={"by_chance": _null(scored.by_chance[i])})
    told = not np.isnan(scored.oe_ratio[i])
    ratio = Rate(**_at(oe, i), trials=positives) if told else _figure(np.float64("nan"))
    return {
        "oe_ratio": ratio,
        "brier": _figure(scored.brier[i]),
        "smd": _figure(scored.smd[i]),
        "calibration_error": error,
    }


def _plain(table: GroupTable, positive: int) -> dict[str, NDArray[np.float64]]:
    """Metrics without an interval; of several classes to three decimals, as they tell of classes not looked at."""
    found = group_metrics(table.confusion, positive)
    digits = 15 if table.confusion.shape[1] == 2 else 3
    return {metric: np.round(found[metric], digits) for metric in PLAIN_METRICS}


def _group(table: GroupTable, i: int, positive: int, rates: dict[str, Rate]) -> Group:
    released = table.facts(positive)
    low, high, middle = released.low, released.high, released.middle
    design = float(table.design[i])
    return Group(
        group=table.groups[i],
        suppressed=None,
        n=int(middle.n[i]),
        positives=int(middle.positives[i]),
        sites=int(table.sites[i]),
        compared=is_known(table.groups[i]),
        rates=rates,
        n_between=_between(low.n, high.n, i),
        positives_between=_between(low.positives, high.positives, i),
        design_effect=design if design > 1 else None,
    )


def _suppressed(name: str, reason: str) -> Group:
    return Group(group=name, suppressed=reason, n=None, positives=None, sites=None, compared=False, rates={})


def _between(low: Counts, high: Counts, i: int) -> list[int] | None:
    return None if low[i] == high[i] else [int(low[i]), int(high[i])]


def _curves(table: GroupTable, i: int, totals: AuditTotals, policy: Policy) -> dict[str, object]:
    """Calibration and ROC of a group in which nothing is hidden."""
    facts, rules = table.facts(totals.positive), policy.disclosure
    if totals.cut is None or not facts.exact[i] or table.released is None:
        return {}
    below = table.scores[i, :, : totals.cut].sum(axis=1)
    if (below[0], below[1]) != (facts.low.tn[i], facts.low.fn[i]):
        return {}
    found = curve(table, i, cut=totals.cut, k=rules.k, zero_allowed=rules.zero_allowed)
    if found is None:
        return {}
    few = coarser(found, BINS)
    negatives = found.n - found.positives
    above = [np.append(np.cumsum(part[::-1])[::-1], 0) for part in (negatives, found.positives)]
    rates = [part / max(1, part[0]) for part in above]
    return {
        "calibration": [
            CalibrationPoint(n=int(n), predicted=round(float(p), 4), observed=float(x / n))
            for n, p, x in zip(few.n, few.predicted, few.positives, strict=True)
        ],
        "roc": [RocPoint(fpr=float(f), tpr=float(t)) for f, t in zip(*(r[::-1] for r in rates), strict=True)]
        if min(above[0][0], above[1][0]) > 0
        else [],
    }


def _detectable(table: GroupTable, positive: int, *, k: int, alpha: float) -> dict[tuple[str, int], float]:
    """Metric and group to the smallest difference to the largest group that would be found."""
    found = {}
    for metric in INTERVAL_METRICS:
        compared = compare(metric, table, positive, k=k, alpha=alpha)
        rows = np.flatnonzero(~np.isnan(compared.found.value))
        if len(rows) < 2:
            continue
        z = simultaneous_z(len(rows), alpha)
        n = taken_over(metric, table, positive)
        largest = int(rows[np.argmax(n[rows])])
        variance = null_variance(metric, table, positive, rows=rows)
        for i in rows[rows != largest]:
            if not np.isnan(variance[i] + variance[largest]):
                found[metric, int(i)] = round(detectable_gap(variance[i], variance[largest], z=z), 4)
    return found


def _gap(metric: str, table: GroupTable, positive: int, policy: Policy) -> Gap:
    compared = compare(metric, table, positive, k=policy.disclosure.k, alpha=policy.evidence.alpha)
    defined = compared.n_groups > 1
    return Gap(
        metric=metric,
        lowest=compared.lowest if defined else None,
        highest=compared.highest if defined else None,
        difference=as_estimate(largest_difference(compared.found)),
        ratio=None if metric == "auc" else as_estimate(smallest_ratio(compared.found)),
        hidden=compared.hidden,
    )


def _within_sites(table: GroupTable, totals: AuditTotals, policy: Policy) -> list[WithinSites]:
    """Gated metrics of groups whose own counts, and those of the groups beside them, are exact."""
    if table.within is None:
        return []
    wanted = [g.metric for g in policy.gates if g.attribute == table.key and g.positive is None]
    named = np.asarray([is_known(group) for group in table.groups])
    found = []
    for metric in dict.fromkeys(wanted):
        if metric not in totals.metrics:
            continue
        share = shares(metric, table.facts(totals.positive))
        x, n = share.middle
        closed = np.asarray([reason not in (None, "nobody") for reason in table.hidden(policy.disclosure.k)])
        if (named & (share.hidden | closed)).any():
            continue
        for i in np.flatnonzero(named & (n > 0)):
            rest = named & (np.arange(len(n)) != i)
            sums = within.read(table.within[i, totals.metrics.index(metric)])
            if sums.sites < max(2, policy.disclosure.min_sites) or n[rest].sum() == 0:
                continue
            pooled = float(x[i] / n[i] - x[rest].sum() / n[rest].sum())
            found.append(_within(metric, table.groups[i], pooled, sums))
    return found


def _within(metric: str, group: str, pooled: float, found: within.Within) -> WithinSites:
    return WithinSites(
        metric=metric,
        group=group,
        sites=found.sites,
        pooled=round(pooled, 4),
        within=round(found.gap, 4),
        simpson=round(pooled - found.gap, 4),
        i_squared=round(found.i_squared, 3),
    )


def _largest(table: GroupTable, k: int) -> int | None:
    rows: Sequence[int] = [
        i
        for i, (name, reason) in enumerate(zip(table.groups, table.hidden(k), strict=True))
        if reason is None and is_known(name)
    ]
    return max(rows, key=lambda i: int(table.n[i])) if rows else None


def _at(found: Limits, i: int) -> dict[str, float | None]:
    return as_estimate(
        Interval(float(found.value[i]), float(found.low[i]), float(found.high[i]))
    ).model_dump()


def _figure(value: np.float64) -> Rate:
    """A figure without an interval, to five significant digits where it comes from scores."""
    return Rate(value=_null(value), low=None, high=None, trials=None)


def _null(value: np.float64) -> float | None:
    return None if np.isnan(value) else float(value)
