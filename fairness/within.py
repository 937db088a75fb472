"""Gaps within sites: what is left of a difference once each site is compared with itself.

A site that sees more women and more ill people makes a gap between women and men that no site has.
Each site finds its own difference between a group and the policy's other groups, and only weighted
sums leave: Mantel & Haenszel 1959 (risk difference, weight m₁m₀/(m₁+m₀)) for the gap within sites;
with the inverse variance v as weight, Σv, Σvd and Σvd² give Cochran's Q and Higgins' I² (2002).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairness.metrics import PROPORTIONS, Outcomes
from foedus.statistic import Quantity

Reals = NDArray[np.float64]
N_SUMS = 6
"""Sites that have both sides, Σw, Σwd, Σv, Σvd, Σvd²."""
MOST = 2.0**32


@dataclass(frozen=True)
class Within:
    """A group against the policy's other groups, site by site.

    Attributes:
        sites: Sites that have someone on both sides.
        gap: Mantel-Haenszel difference; NaN without a site.
        q: Cochran's Q; NaN with fewer than two sites.
        i_squared: Share of the differences' variation that is more than chance, 0..1.
    """

    sites: int
    gap: float
    q: float
    i_squared: float


def quantity(n_groups: int, n_metrics: int) -> Quantity:
    """What the door has to know about the sums of one attribute."""
    return Quantity((n_groups, n_metrics, N_SUMS), "real", -MOST, MOST, 2.0**-20)


def measure(
    confusion: NDArray[np.int64], positive: int, metrics: Sequence[str], *, known: NDArray[np.bool_]
) -> Reals:
    """One site's terms, (n_groups, n_metrics, 6).

    Args:
        confusion: (n_groups, n_classes, n_classes), this site's.
        positive: Index of the positive class.
        metrics: Names in PROPORTIONS.
        known: (n_groups,), true for the groups that are compared.
    """
    outcomes = Outcomes.of(confusion, positive)
    found = np.zeros((len(known), len(metrics), N_SUMS))
    for column, metric in enumerate(metrics):
        x, m = (np.where(known, part, 0).astype(np.float64) for part in PROPORTIONS[metric](outcomes))
        others_x, others_m = x.sum() - x, m.sum() - m
        rows = known & (m > 0) & (others_m > 0)
        x, m, others_x, others_m = x[rows], m[rows], others_x[rows], others_m[rows]
        d, w = x / m - others_x / others_m, m * others_m / (m + others_m)
        v = np.minimum(1 / (_variance(x, m) + _variance(others_x, others_m)), MOST)
        found[rows, column] = np.stack([np.ones(len(d)), w, w * d, v, v * d, v * d * d], axis=1)
    return found


def read(sums: Reals) -> Within:
    """From the (6,) sums of all sites."""
    sites, w, wd, v, vd, vdd = (float(value) for value in sums)
    gap = wd / w if w > 0 else float("nan")
    if sites < 2:
        return Within(int(sites), gap, float("nan"), float("nan"))
    q = max(0.0, vdd - vd * vd / v)
    return Within(int(sites), gap, q, max(0.0, 1 - (sites - 1) / q) if q > 0 else 0.0)


def _variance(x: Reals, m: Reals) -> Reals:
    """Of a share, with half a success and half a failure more, so that 0 and 1 are not certain."""
    p = (x + 0.5) / (m + 1)
    return np.asarray(p * (1 - p) / m)
