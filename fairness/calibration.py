"""How right a model's chances are in each group: from sums of probabilities and of their squares.

Observed over expected cases and the Brier score are exact. The calibration error of ten bins of
equal size is never 0, even for a model that is always right about its chances; what chance alone
would give stands beside it.
"""

from dataclasses import dataclass

import numpy as np

from fairness.metrics import quotient
from fairness.tables import UNIT, Counts, GroupTable, Reals

BINS = 10
MOST_POINTS = 30
"""On a ROC curve."""


@dataclass(frozen=True)
class Calibration:
    """Figures of every group; NaN where they are undefined or hidden. Each array is (n_groups,).

    Attributes:
        oe_ratio: Cases observed over cases expected.
        brier: Mean squared difference between probability and label.
        smd: Mean probability minus that of the largest compared group, in standard deviations.
        error: Mean distance between probability and share of positives over ten bins.
        by_chance: That of a model that is always right about its chances.
    """

    oe_ratio: Reals
    brier: Reals
    smd: Reals
    error: Reals
    by_chance: Reals


def calibration(table: GroupTable, positive: int, *, reference: int | None) -> Calibration:
    """The figures of a table.

    Args:
        table: With or without disclosure control; hidden sums are zeros and give NaN.
        positive: Index of the positive class.
        reference: The group the others' mean probability is compared with.
    """
    none = np.full(len(table.groups), np.nan)
    if table.expected is None or table.moments is None:
        return Calibration(none, none, none, none, none)
    facts, expected = table.facts(positive).middle, table.expected * UNIT
    told = expected.sum(axis=1) > 0
    n, positives = np.where(told, facts.n, 0), np.where(told, facts.positives, 0)
    squares, of_positives = table.moments[:, 0] * UNIT, table.moments[:, 1] * UNIT
    mean = quotient(expected.sum(axis=1), n)
    spread = quotient(squares, n) - mean**2
    smd = none.copy()
    if reference is not None and told[reference]:
        both = np.sqrt(np.maximum(0.0, (spread + spread[reference]) / 2))
        smd = np.where(np.arange(len(n)) == reference, np.nan, quotient(mean - mean[reference], both))
    error, by_chance = _error(table, positive)
    return Calibration(
        quotient(positives, expected.sum(axis=1)),
        quotient(squares - 2 * of_positives + positives, n),
        smd,
        error,
        by_chance,
    )


def _error(table: GroupTable, positive: int) -> tuple[Reals, Reals]:
    """Expected calibration error over ten bins, and its mean if every chance is right (normal approximation)."""
    exact = table.facts(positive).exact
    n_bins = table.scores.shape[2]
    starts = np.unique(np.arange(min(BINS, n_bins)) * n_bins // BINS)
    cells = np.add.reduceat(table.scores, starts, axis=2).astype(np.float64)
    n, positives = cells.sum(axis=1), cells[:, 1]
    chances = np.zeros(table.scores.shape[::2]) if table.expected is None else table.expected * UNIT
    expected = np.add.reduceat(chances, starts, axis=1)
    people = np.where(exact & (expected.sum(axis=1) > 0), n.sum(axis=1), 0)
    p = np.clip(np.where(n > 0, expected / np.maximum(n, 1), 0.0), 0.0, 1.0)
    error = quotient(np.abs(positives - expected).sum(axis=1), people)
    return error, quotient(np.sqrt(2 / np.pi * n * p * (1 - p)).sum(axis=1), people)


@dataclass(frozen=True)
class Curve:
    """Adjacent bins of one group, put together; every array is (n_points,), in order of the score.

    Attributes:
        n: People.
        positives: Of the positive class.
        predicted: Mean probability.
    """

    n: Counts
    positives: Counts
    predicted: Reals


def curve(table: GroupTable, group: int, *, cut: int, k: int, zero_allowed: bool) -> Curve | None:
    """The group's scores in bins that each hold k or more people of either label (or none).

    The threshold of the decisions is one of the edges: beside exact counts of the decisions, any other
    would tell of the people between the two.

    Args:
        table: With scores and sums of probabilities.
        group: Index of a group with no hidden count.
        cut: Number of bins below the threshold.
        k: Fewest people of a label in a bin.
        zero_allowed: Whether a bin may hold nobody of a label.

    Returns:
        None if no such bins exist.
    """
    cells = table.scores[group].astype(np.float64)
    expected = np.zeros(cells.shape[1]) if table.expected is None else table.expected[group] * UNIT
    rows, size = np.vstack([cells, expected]).T, cells.sum() / MOST_POINTS

    def fine(part: Reals) -> bool:
        return all(x >= k or (zero_allowed and x == 0) for x in part[:2])

    parts: list[Reals] = []
    for side in (rows[:cut], rows[cut:]):
        merged, held = [], np.zeros(3)
        for row in side:
            held = held + row
            if held[:2].sum() >= max(size, 1) and fine(held):
                merged.append(held)
                held = np.zeros(3)
        merged = [*merged, held] if held[:2].sum() > 0 else merged
        while len(merged) > 1 and not fine(merged[-1]):
            merged[-2:] = [merged[-2] + merged[-1]]
        parts += merged
    if not parts or not all(fine(part) for part in parts):
        return None
    n = np.asarray([part[:2].sum() for part in parts], np.int64)
    return Curve(n, np.asarray([part[1] for part in parts], np.int64), np.asarray([p[2] for p in parts]) / n)


def coarser(found: Curve, most: int) -> Curve:
    """Adjacent points put together until at most `most` are left."""
    starts = np.unique(np.linspace(0, len(found.n), min(most, len(found.n)), endpoint=False).astype(int))
    n = np.add.reduceat(found.n, starts)
    expected = np.add.reduceat(found.n * found.predicted, starts)
    return Curve(n, np.add.reduceat(found.positives, starts), expected / n)
