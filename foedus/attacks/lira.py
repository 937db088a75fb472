"""Membership inference by likelihood ratio, LiRA (Carlini et al. 2022, algorithm 1, online).

Shadow heads are each trained on a random half of the units: patients with all their records, or
single records where each is its own unit. A unit's confidence, the mean over its records, is
Gaussian among the heads that saw it and among those that did not; the ratio of the two
densities at a head's confidence says whether that head saw the unit. Every head is the
target once, judged by all the others.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foedus.attacks.heads import Training, owners, train_heads
from foedus.attacks.release import Release
from foedus.errors import AuditError
from foedus.examples import Examples

N_RESAMPLES = 200
_LEAST_VARIANCE = 1e-9
Reals = NDArray[np.float64]
Members = NDArray[np.bool_]


@dataclass(frozen=True)
class Figure:
    """A figure and its 95 % interval (bootstrap over units)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class MembershipInference:
    """How well LiRA tells who was in the training data.

    Attributes:
        n_units: Units under attack: patients or customers, or records where each is its own.
        n_heads: Heads trained, each the target once.
        auc: Chance that a member scores above a non-member; 0.5 is a guess.
        tpr_at_1_percent: Members found where 1 % of non-members are accused wrongly; 0.01 is a guess.
        tpr_at_01_percent: The same at 0.1 %.
    """

    n_units: int
    n_heads: int
    auc: Figure
    tpr_at_1_percent: Figure
    tpr_at_01_percent: Figure


def infer_membership(
    examples: Examples,
    *,
    n_classes: int,
    training: Training,
    rng: np.random.Generator,
    release: Release | None = None,
    n_heads: int = 128,
) -> MembershipInference:
    """Train shadow heads as `training` and `release` say, and attack them.

    Args:
        examples: Two units or more, all of them targets; half are members of any one head.
        n_classes: Labels are 0..n_classes-1.
        training: Rounds, rate, clipping.
        rng: Draws the halves and the resamples; the noise is the release's own.
        release: None attacks heads without noise.
        n_heads: Even, at least 8.

    Raises:
        AuditError: If there are too few units or heads, or a release is malformed.
    """
    owner = owners(examples)
    n_units = int(owner.max(initial=-1)) + 1
    if n_units < 2 or n_heads < 8 or n_heads % 2:
        raise AuditError(
            f"{n_units} units and {n_heads} shadow heads; expected 2 units or more and an even "
            "number of heads, 8 or more"
        )
    members = draw_members(n_heads, n_units, rng)
    heads = train_heads(examples, members, n_classes=n_classes, training=training, release=release, rng=rng)
    confidences = _by_unit(heads.confidences(examples), owner)
    return evaluate(likelihood_ratios(confidences, members), members, rng=rng)


def _by_unit(confidences: Reals, owner: NDArray[np.intp]) -> Reals:
    """(n_heads, m), the mean confidence in each unit's records; `confidences` is (n_heads, n)."""
    sums = np.zeros((int(owner.max()) + 1, len(confidences)))
    np.add.at(sums, owner, confidences.T)
    return np.asarray((sums / np.bincount(owner)[:, np.newaxis]).T)


def draw_members(n_heads: int, n: int, rng: np.random.Generator) -> Members:
    """(n_heads, n); every unit is in exactly half of the heads."""
    return np.asarray(np.argsort(rng.random((n_heads, n)), axis=0) < n_heads // 2)


def likelihood_ratios(confidences: Reals, members: Members) -> Reals:
    """(n_heads, n), log density under "in" minus under "out", fitted without the head that is judged.

    Args:
        confidences: (n_heads, n).
        members: (n_heads, n), every column with 2 or more on either side.
    """
    inside, outside = _log_density(confidences, members), _log_density(confidences, ~members)
    return inside - outside


def _log_density(confidences: Reals, side: Members) -> Reals:
    centred = confidences - confidences.mean(axis=0)
    own = np.where(side, centred, 0.0)
    count = side.sum(axis=0) - side
    mean = (own.sum(axis=0) - own) / count
    square = ((own**2).sum(axis=0) - own**2) / count
    variance = np.maximum(square - mean**2, _LEAST_VARIANCE)
    return np.asarray(-0.5 * ((centred - mean) ** 2 / variance + np.log(variance)))


def evaluate(ratios: Reals, members: Members, *, rng: np.random.Generator) -> MembershipInference:
    """AUC and true positive rates over all (head, unit) pairs.

    Args:
        ratios: (n_heads, n); high speaks for membership.
        members: (n_heads, n).
        rng: Resamples units, with all heads' judgements of each.
    """
    n_heads, n = ratios.shape
    order = np.argsort(-ratios.ravel(), kind="stable")
    unit, member = order % n, members.ravel()[order]
    found = np.array([_figures(np.ones(len(order)), member)])
    resampled = np.array([_figures(weight[unit], member) for weight in _resamples(n, rng)])
    low, high = np.percentile(resampled, [2.5, 97.5], axis=0)
    figures = [Figure(*map(float, column)) for column in zip(found[0], low, high, strict=True)]
    return MembershipInference(n, n_heads, *figures)


def _resamples(n: int, rng: np.random.Generator) -> Iterator[Reals]:
    for _ in range(N_RESAMPLES):
        yield np.bincount(rng.integers(n, size=n), minlength=n).astype(np.float64)


def _figures(weight: Reals, member: Members) -> tuple[float, float, float]:
    """AUC and true positive rates at 1 % and 0.1 %, of pairs ordered by falling score."""
    true = np.cumsum(weight * member)
    false = np.cumsum(weight * ~member)
    auc = float((true * weight * ~member).sum() / (true[-1] * false[-1]))
    rates = [_rate(true, false, level) for level in (0.01, 0.001)]
    return auc, rates[0], rates[1]


def _rate(true: Reals, false: Reals, level: float) -> float:
    allowed = int(np.searchsorted(false, level * false[-1], side="right"))
    return float(true[allowed - 1] / true[-1]) if allowed else 0.0
