"""How sure the figures are: intervals for rates, for the largest gap and smallest ratio, and power.

Rates: Wilson 1927. Gaps and ratios over several groups: Wilson limits at Tukey's studentized
range, combined per pair by MOVER (Zou & Donner 2008); for two groups this is Newcombe 1998.
The intervals of all pairs hold together, so the largest gap needs no further correction.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr, ndtri

from fairness.metrics import PROPORTIONS, Counts, Outcomes, Reals, auc, quotient
from fairness.shares import shares
from fairness.tables import UNIT, GroupTable

POWER = 0.8
_Z_POWER = float(ndtri(POWER))


@dataclass(frozen=True)
class Limits:
    """A value and its interval for every group; NaN where undefined. Each array is (n_groups,).

    Attributes:
        value: In the middle of what it can be where counts are hidden.
        low: Lower limit, whatever the hidden counts are.
        high: Upper limit, whatever the hidden counts are.
        ends: The limits if every hidden share is the lowest, and if every one is the highest it can be;
            None where nothing is hidden.
    """

    value: Reals
    low: Reals
    high: Reals
    ends: "tuple[Limits, Limits] | None" = None

    def take(self, rows: NDArray[np.bool_]) -> "Limits":
        """The groups where `rows` is true."""
        ends = self.ends and (self.ends[0].take(rows), self.ends[1].take(rows))
        return Limits(self.value[rows], self.low[rows], self.high[rows], ends)

    def only(self, rows: NDArray[np.bool_]) -> "Limits":
        """The same, undefined in the groups where `rows` is false."""
        ends = self.ends and (self.ends[0].only(rows), self.ends[1].only(rows))
        value, low, high = (np.where(rows, part, np.nan) for part in (self.value, self.low, self.high))
        return Limits(value, low, high, ends)


@dataclass(frozen=True)
class Interval:
    """A figure and its interval; NaN when it is undefined."""

    value: float
    low: float
    high: float


UNDEFINED = Interval(float("nan"), float("nan"), float("nan"))


@lru_cache(maxsize=256)
def simultaneous_z(n_groups: int, alpha: float) -> float:
    """Normal quantile at which all pairs of groups hold together (Tukey); 1.96 for two."""
    if n_groups <= 2:
        return float(ndtri(1 - alpha / 2))
    from scipy.stats import studentized_range  # a second to import, which most processes need not spend

    return float(studentized_range.ppf(1 - alpha, n_groups, np.inf) / np.sqrt(2))


def critical_z(metric: str, n_groups: int, alpha: float) -> float:
    """Normal quantile for a metric in so many groups: all pairs together, or for oe_ratio all groups."""
    if metric == "oe_ratio":
        return float(-ndtri(alpha / (2 * max(1, n_groups))))
    return simultaneous_z(n_groups, alpha)


def tail(metric: str, n_groups: int, z: float) -> float:
    """The level at which `critical_z` is z."""
    if metric == "oe_ratio":
        return min(1.0, 2 * n_groups * float(ndtr(-z)))
    if n_groups <= 2:
        return float(2 * ndtr(-z))
    from scipy.stats import studentized_range

    return float(studentized_range.sf(z * np.sqrt(2), n_groups, np.inf))


def wilson(successes: Counts | Reals, trials: Counts | Reals, *, z: float) -> Limits:
    """Score interval of a proportion (Wilson 1927); NaN without trials."""
    return _score_interval(quotient(successes, trials), trials, z=z)


def auc_limits(histogram: Counts, *, z: float, design: Reals | float = 1.0) -> Limits:
    """DeLong interval on the logit of the area, widened by the bound of the binning.

    Where DeLong's variance says nothing (one case on a side, or perfect separation), Wilson's
    interval with the smaller side as the number of trials.

    Args:
        histogram: (n_groups, 2, n_bins).
        z: Normal quantile.
        design: Design effect: how many rows tell as much as one.
    """
    found = auc(histogram)
    variance = found.variance * design
    spread = found.value * (1 - found.value)
    usable = (variance > 0) & (spread > 0)
    safe = np.where(usable, spread, 0.25)
    half = z * np.sqrt(np.where(usable, variance, 0.0)) / safe
    logit = np.log(np.where(usable, found.value, 0.5) / np.where(usable, 1 - found.value, 0.5))
    smaller = histogram.sum(axis=2).min(axis=1) / design
    crude = _score_interval(found.value, smaller, z=z)
    low = np.where(usable, expit(logit - half), crude.low)
    high = np.where(usable, expit(logit + half), crude.high)
    return Limits(found.value, np.clip(low - found.bound, 0, 1), np.clip(high + found.bound, 0, 1))


def limits(metric: str, table: GroupTable, positive: int, *, z: float) -> Limits:
    """A metric and its interval in every group of a table."""
    if metric == "auc":
        found = auc_limits(table.scores, z=z, design=table.design)
        return found if table.released is None else _rounded(found, 4)
    if metric == "oe_ratio":
        return oe_limits(table, positive, z=z)
    share = shares(metric, table.facts(positive))
    if table.noise > 0:
        return _noisy_interval(metric, table, positive, z=z)
    middle, low, high = (
        _score_interval(quotient(x, n), n / table.design, z=z)
        for x, n in (share.middle, share.low, share.high)
    )
    if not share.hidden.any():
        return middle
    return Limits(middle.value, low.low, np.where(share.hidden, high.high, middle.high), (low, high))


def oe_limits(table: GroupTable, positive: int, *, z: float) -> Limits:
    """Observed over expected cases: Wilson's limits of the base rate over the mean probability.

    Undefined where the sums of the scores, or the number of people or positives, are not released.
    """
    rates = limits("base_rate", table, positive, z=z)
    if table.expected is None:
        undefined = np.full(len(table.groups), np.nan)
        return Limits(undefined, undefined, undefined)
    mean = quotient(table.expected.sum(axis=1) * UNIT, table.n)
    mean = np.where(
        (mean > 0) & (rates.ends is None or rates.ends[0].value == rates.ends[1].value), mean, np.nan
    )
    return Limits(rates.value / mean, rates.low / mean, rates.high / mean)


def _rounded(found: Limits, digits: int) -> Limits:
    """To so many decimals, the interval outwards."""
    step = 10.0**digits
    return Limits(
        np.round(found.value, digits), np.floor(found.low * step) / step, np.ceil(found.high * step) / step
    )


def _effective(metric: str, table: GroupTable, positive: int) -> Reals:
    """(n_groups,) people without noise that would tell as much as the noisy counts do.

    A share of a noisy counts in b noisy ones has variance p(1 - p)/n + noise²(a(1 - 2p) + b p²)/n² (delta
    method; p from two successes and two failures more, so that 0 and 1 are not certain).
    """
    successes, n = PROPORTIONS[metric](Outcomes.of(table.confusion, positive))
    k = table.confusion.shape[1]
    a, b = PROPORTIONS[metric](Outcomes.of(np.ones((1, k, k), np.int64), positive))
    p = np.clip((successes + 2) / (n + 4), 1 / (n + 4), 1 - 1 / (n + 4))
    people = np.where(n > 0, n, np.nan).astype(np.float64)
    exact = p * (1 - p) / people
    noisy = table.noise**2 * (a[0] * (1 - 2 * p) + b[0] * p**2) / people**2
    return np.asarray(p * (1 - p) / (exact + np.maximum(noisy, 0.0)))


def _noisy_interval(metric: str, table: GroupTable, positive: int, *, z: float) -> Limits:
    """Every share p for which x - p n is no further from 0 than sampling and noise explain (Fieller 1954).

    x successes in n are sums of a and b noisy counts, so x - p n carries noise²(a(1 - 2p) + b p²) whatever
    p is; dividing first would take the noise of n for small against n. Without noise this is Wilson's.
    """
    x, n = (part.astype(np.float64) for part in PROPORTIONS[metric](Outcomes.of(table.confusion, positive)))
    k = table.confusion.shape[1]
    a, b = (part[0] for part in PROPORTIONS[metric](Outcomes.of(np.ones((1, k, k), np.int64), positive)))
    noise, value = (z * table.noise) ** 2, np.clip(quotient(x, n), 0.0, 1.0)
    square = n * n - b * noise + z * z * n
    middle = x * n - a * noise + z * z * n / 2
    root = middle * middle - square * (x * x - a * noise)
    bounded = (square > 0) & (root >= 0)
    centre = np.divide(middle, square, out=np.zeros_like(x), where=bounded)
    half = np.divide(np.sqrt(np.maximum(root, 0.0)), square, out=np.ones_like(x), where=bounded)
    low, high = np.clip(centre - half, 0.0, 1.0), np.clip(centre + half, 0.0, 1.0)
    undefined = np.isnan(value)
    return Limits(
        value,
        np.where(undefined, np.nan, np.minimum(low, value)),
        np.where(undefined, np.nan, np.maximum(high, value)),
    )


def trials(metric: str, table: GroupTable, positive: int) -> Counts:
    """(n_groups,) people a metric is taken over, about where that is hidden; for the AUC, the rarer class."""
    if metric == "auc" and table.released is None:
        return np.asarray(table.scores.sum(axis=2).min(axis=1), np.int64)
    facts = table.facts(positive).middle
    if metric in ("auc", "oe_ratio"):
        return np.minimum(facts.positives, facts.n - facts.positives) if metric == "auc" else facts.positives
    return shares(metric, table.facts(positive)).middle[1]


def largest_difference(found: Limits) -> Interval:
    """Highest minus lowest group; its interval is [largest lower, largest upper] over all pairs.

    Hidden counts: each pair's lower limit is the lowest, its upper limit the highest they allow.
    """
    rows = found.take(~np.isnan(found.value))
    if len(rows.value) < 2:
        return UNDEFINED
    bottom, top = rows.ends or (rows, rows)
    low = bottom.value[:, None] - top.value[None, :]
    low = low - np.hypot((bottom.value - bottom.low)[:, None], (top.high - top.value)[None, :])
    high = top.value[:, None] - bottom.value[None, :]
    high = high + np.hypot((top.high - top.value)[:, None], (bottom.value - bottom.low)[None, :])
    pairs = ~np.eye(len(low), dtype=bool)
    value = float(rows.value.max() - rows.value.min())
    return Interval(value, max(0.0, float(low[pairs].max())), min(1.0, float(high[pairs].max())))


def smallest_ratio(found: Limits) -> Interval:
    """Lowest over highest group; its interval is [smallest lower, smallest upper] over all pairs.

    MOVER on logarithms. A rate of 0 has no logarithm: its ratio is 0 with the quotient of the
    two limits as upper end, which is wider. Hidden counts as in `largest_difference`.
    """
    rows = found.take(~np.isnan(found.value))
    if len(rows.value) < 2 or rows.value.max() == 0:
        return UNDEFINED
    bottom, top = rows.ends or (rows, rows)
    pairs = ~np.eye(len(rows.value), dtype=bool)
    low, high = _ratio_ends(bottom, top)[0][pairs], _ratio_ends(top, bottom)[1][pairs]
    value = float(rows.value.min() / rows.value.max())
    return Interval(value, float(low.min()), min(1.0, float(high.min())))


def worst_calibration(found: Limits) -> Interval:
    """The group whose observed over expected cases are furthest from 1: the ratio, or its inverse above 1."""
    rows = found.take(~np.isnan(found.value))
    if not len(rows.value):
        return UNDEFINED
    with np.errstate(divide="ignore"):
        value = np.minimum(rows.value, 1 / rows.value)
        low = np.minimum(rows.low, 1 / rows.high)
        high = np.where(rows.high < 1, rows.high, np.where(rows.low > 1, 1 / rows.low, 1.0))
    return Interval(float(value.min()), float(low.min()), float(high.min()))


def _ratio_ends(one: Limits, other: Limits) -> tuple[Reals, Reals]:
    """(n, n) twice: ends of the ratio of each group in `one` to each in `other`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        value, low, high = (np.log(part) for part in (one.value, one.low, one.high))
        value_, low_, high_ = (np.log(part) for part in (other.value, other.low, other.high))
        gap = value[:, None] - value_[None, :]
        down = np.hypot((value - low)[:, None], (high_ - value_)[None, :])
        up = np.hypot((high - value)[:, None], (value_ - low_)[None, :])
        crude_low = np.where(one.low[:, None] == 0, 0.0, one.low[:, None] / other.high[None, :])
        crude_high = np.where(other.low[None, :] == 0, np.inf, one.high[:, None] / other.low[None, :])
        zero = np.minimum(one.value[:, None], other.value[None, :]) == 0
        return np.where(zero, crude_low, np.exp(gap - down)), np.where(zero, crude_high, np.exp(gap + up))


def null_variance(metric: str, table: GroupTable, positive: int, *, rows: NDArray[np.int64]) -> Reals:
    """(n_groups,) variance of a metric if the groups in `rows` share one value; NaN if unknown.

    Two successes and two failures are added to the shared rate, so that one of 0 or 1 does not
    look certain (Agresti & Coull 1998).
    """
    if metric == "auc":
        return auc(table.scores).variance * table.design
    if metric == "oe_ratio":
        return np.full(len(table.groups), np.nan)
    successes, n = shares(metric, table.facts(positive)).middle
    p = (successes[rows].sum() + 2) / (n[rows].sum() + 4)
    told = n / table.design if table.noise == 0 else _effective(metric, table, positive)
    return quotient(np.full(n.shape, p * (1 - p)), told)


def detectable_gap(variance: float, reference_variance: float, *, z: float) -> float:
    """Smallest true difference to the reference group that is found with power 0.8; at most 1.

    Args:
        variance: Of this group's figure if there is no difference, e.g. p (1 - p) / n.
        reference_variance: Of the reference group's figure.
        z: Critical value of the comparison.
    """
    return min(1.0, float((z + _Z_POWER) * np.sqrt(variance + reference_variance)))


def needed_per_group(standard_error: float, tolerance: float, n_groups: int, *, alpha: float) -> int:
    """People each group needs so that equal groups pass a difference gate with power 0.8.

    The upper limit is close to (observed range) + q(1 - alpha) standard errors, and the range
    of equal groups is below q(0.8) of them four times in five; q are studentized ranges.

    Args:
        standard_error: Of one group's figure with a single person, e.g. sqrt(p (1 - p)); on
            logarithms for a ratio, with `tolerance` = -log(smallest ratio accepted).
    """
    q = (simultaneous_z(n_groups, alpha) + simultaneous_z(n_groups, 1 - POWER)) * np.sqrt(2)
    return int(np.ceil((standard_error * q / tolerance) ** 2))


def _score_interval(value: Reals, n_trials: Counts | Reals, *, z: float) -> Limits:
    n = np.where(n_trials > 0, n_trials, np.nan).astype(np.float64)
    centre = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(value * (1 - value) / n + z * z / (4 * n * n))
    low = np.where(value == 0, 0.0, np.maximum(centre - half, 0))
    high = np.where(value == 1, 1.0, np.minimum(centre + half, 1))
    return Limits(value, low, high)
