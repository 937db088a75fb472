"""Does what goes through the model look like what was audited? Tests on histograms, with false alarms under control.

Each figure is compared on the bins that the audit released, by two-sample Kolmogorov-Smirnov and, as it finds a
shift sooner, by rank sums (p: twice the smaller; with bins both say too little rather than too much). Holm's
correction is over all figures of a window. The population stability index, less what chance gives, tells the size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kstwobign, norm

from foedus.histograms import FEATURES, SCORES, TOP
from foedus.statistic import Arrays

Counts = NDArray[np.generic]


@dataclass(frozen=True)
class Finding:
    """One figure of a window against the audit.

    Attributes:
        what: "feature 3", "score of yes", "abstentions", "accuracy in sex f".
        p: Chance of a difference this large if nothing had changed.
        size: Population stability index, or the difference of two shares.
        breach: Whether it is an alarm: beyond chance over all figures of the window, and not small.
        reason: One sentence with the figures.
    """

    what: str
    p: float
    size: float
    breach: bool
    reason: str


@dataclass(frozen=True)
class Test:
    """A figure before the correction; `large` is whether its size matters."""

    what: str
    p: float
    size: float
    large: bool
    reason: str


def merged(live: Counts, audited: Counts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both histograms in the bins the audit released: each ends where its own count is above 0."""
    ends = np.flatnonzero(audited)
    if not len(ends):
        return np.zeros(0), np.zeros(0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    return np.add.reduceat(live.astype(np.float64), starts), audited[ends].astype(np.float64)


def kolmogorov_smirnov(live: NDArray[np.float64], audited: NDArray[np.float64]) -> float:
    """p of the two-sample test on histograms with the same bins (Smirnov 1939, asymptotic)."""
    n, m = live.sum(), audited.sum()
    if n == 0 or m == 0 or len(live) < 2:
        return 1.0
    distance = np.abs(np.cumsum(live) / n - np.cumsum(audited) / m).max()
    return float(np.asarray(kstwobign.sf(distance * np.sqrt(n * m / (n + m)))))


def rank_sum(live: NDArray[np.float64], audited: NDArray[np.float64]) -> float:
    """p of the rank-sum test on histograms with the same bins, ties counted (Mann & Whitney 1947)."""
    n, m = live.sum(), audited.sum()
    both = live + audited
    if n == 0 or m == 0 or len(live) < 2:
        return 1.0
    middle = np.cumsum(both) - both / 2
    size = n + m
    spread = n * m / 12 * (size + 1 - (both**3 - both).sum() / (size * (size - 1)))
    away = (live * middle).sum() - n * size / 2
    return 1.0 if spread <= 0 else float(2 * norm.sf(abs(away) / np.sqrt(spread)))


def stability_index(live: NDArray[np.float64], audited: NDArray[np.float64]) -> float:
    """Population stability index less its mean under no change, (bins - 1)(1/n + 1/m); at least 0."""
    n, m, bins = live.sum(), audited.sum(), len(live)
    if n == 0 or m == 0 or bins < 2:
        return 0.0
    p, q = (live + 0.5) / (n + bins / 2), (audited + 0.5) / (m + bins / 2)
    index = float(((p - q) * np.log(p / q)).sum())
    return max(0.0, index - float((bins - 1) * (1 / n + 1 / m)))


def shares_differ(x: int, n: int, before: float, m: int) -> float:
    """p of two shares being the same: x of n now, `before` of m then (pooled two-proportion z)."""
    if n == 0 or m == 0:
        return 1.0
    pooled = (x + before * m) / (n + m)
    spread = np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    return 1.0 if spread == 0 else float(2 * norm.sf(abs(x / n - before) / spread))


def drift_tests(
    live: Arrays, audited: Arrays, *, features: Sequence[str], classes: Sequence[str], least: float
) -> list[Test]:
    """Every feature, score and the winning probability.

    Args:
        live: Histograms of a window (`foedus.histograms`).
        audited: Those of the bundle.
        features: Their names.
        classes: Of the columns of the scores.
        least: Smallest stability index that matters.
    """
    named = [(f"feature {name}", FEATURES, row) for row, name in enumerate(features)]
    named += [(f"score of {name}", SCORES, row) for row, name in enumerate(classes)]
    named += [("winning probability", TOP, 0)]
    found = []
    for what, key, row in named:
        now, then = merged(np.atleast_2d(live[key])[row], np.atleast_2d(audited[key])[row])
        p = min(1.0, 2 * min(kolmogorov_smirnov(now, then), rank_sum(now, then)))
        size = stability_index(now, then)
        reason = f"{what} is distributed otherwise than in the audit (PSI {size:.2f}, p {p:.1e})"
        found.append(Test(what, p, size, size >= least, reason))
    return found


def decided(tests: Sequence[Test], *, alpha: float) -> list[Finding]:
    """Which of them are alarms; the chance of any if nothing changed is at most alpha (Holm 1979)."""
    order = sorted(range(len(tests)), key=lambda i: tests[i].p)
    beyond = set[int]()
    for rank, i in enumerate(order):
        if tests[i].p > alpha / (len(tests) - rank):
            break
        beyond.add(i)
    return [
        Finding(test.what, test.p, test.size, i in beyond and test.large, test.reason)
        for i, test in enumerate(tests)
    ]


def total(windows: Sequence[Mapping[str, Counts]]) -> Arrays:
    """Windows added up."""
    return {key: np.sum([window[key] for window in windows], axis=0) for key in windows[0]}
