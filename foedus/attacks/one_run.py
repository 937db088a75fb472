"""A lower bound on epsilon from one run: plant canaries, release the sum, guess which were in it.

A canary is one coordinate of the sum, as long as the clipping norm allows; each is put in by a
fair coin. Who sees the released sum guesses the coins of the canaries it is surest of. The more
guesses are right, the larger epsilon must be. Two bounds, both at the stated confidence:

    epsilon_dp    for any (epsilon, delta)-DP mechanism (Steinke, Nasr & Jagielski 2023, theorem 5.2)
    epsilon_fdp   for a Gaussian mechanism: full-batch sums with Gaussian noise, any number of
                  rounds (Mahloujifar, Melis & Chaudhuri 2025, their numerical algorithm); tighter

Where batches are sampled the trade-off curve is not Gaussian: audit one release, without
sampling, against the epsilon of one release.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from foedus.attacks.gaussian import MAX_MU, epsilon_of
from foedus.attacks.release import Release, Vector, released
from foedus.errors import AuditError

FRACTIONS = (0.05, 0.2)
"""Canaries guessed, of all; fixed before anything is seen, each tested at its part of the error allowed."""
_MAX_EPSILON = 100.0
_GRID = 32


@dataclass(frozen=True)
class LowerBound:
    """What one run proves: with the stated confidence, epsilon is no smaller.

    Attributes:
        n_canaries: Coins flipped.
        n_guesses: Guesses made where epsilon_fdp was reached; the rest are abstentions.
        n_correct: How many of them were right.
        delta: At which both bounds hold.
        confidence: Of each bound on its own.
        mu: The Gaussian mechanism's sensitivity over noise is at least this.
        epsilon_dp: Bound that assumes nothing of the mechanism.
        epsilon_fdp: Bound for a Gaussian mechanism.
        ceiling_dp: The largest epsilon_dp this audit could have given, every guess being right.
        ceiling_fdp: The same for epsilon_fdp.
    """

    n_canaries: int
    n_guesses: int
    n_correct: int
    delta: float
    confidence: float
    mu: float
    epsilon_dp: float
    epsilon_fdp: float
    ceiling_dp: float
    ceiling_fdp: float


def audit_mechanism(
    release: Release,
    dim: int,
    *,
    n_canaries: int,
    clip_norm: float,
    delta: float,
    rng: np.random.Generator,
    rounds: int = 1,
    confidence: float = 0.95,
) -> LowerBound:
    """The lower bound on the epsilon of `rounds` releases together (add or remove one record).

    Args:
        release: The site's own way out, for a sum of shape (dim,).
        dim: Numbers in the sum.
        n_canaries: At most `dim`; spread at random over the coordinates.
        clip_norm: The most one record may contribute, L2.
        delta: Of the claim.
        rng: Places canaries and flips coins; the noise is the release's own.
        rounds: Releases that the claim covers; every canary is in all of them or in none.
        confidence: Of each bound.

    Raises:
        AuditError: If there are more canaries than coordinates, or a release is malformed.
    """
    if not 0 < n_canaries <= dim or rounds < 1:
        raise AuditError(
            f"{n_canaries} canaries in {dim} coordinates over {rounds} rounds; "
            "expected 1 to as many canaries as coordinates, and 1 round or more"
        )
    where = rng.permutation(dim)[:n_canaries]
    included = rng.random(n_canaries) < 0.5
    total = np.zeros(dim)
    total[where] = clip_norm * included
    seen = sum((released(release, total) for _ in range(rounds)), np.zeros(dim))
    return lower_bound(clip_norm * seen[where], included, delta=delta, confidence=confidence)


def lower_bound(
    scores: Vector,
    included: NDArray[np.bool_],
    *,
    delta: float,
    confidence: float = 0.95,
    fractions: Sequence[float] = FRACTIONS,
) -> LowerBound:
    """Both lower bounds on epsilon, from scores of canaries that were included by fair coins.

    Args:
        scores: (m,); high speaks for inclusion.
        included: (m,), how the coins fell.
        delta: Of the claim; epsilon_dp is held down where m * delta is not far below 0.1 (see ceiling_dp).
        confidence: Of each bound, above 0.5 and below 1.
        fractions: Of the canaries to guess, half of them the highest and half the lowest scores.
            Choose them before seeing scores; every further one costs some of the bound.

    Raises:
        AuditError: If the arrays do not match or a setting is out of range.
    """
    _check(scores, included, delta, confidence, fractions)
    m, alpha = len(scores), (1 - confidence) / len(fractions)
    counts = sorted({max(1, round(fraction * m)) for fraction in fractions})
    correct = [_correct(scores, included, count) for count in counts]
    mus = [mu_bound(c, k, n_canaries=m, alpha=alpha) for c, k in zip(correct, counts, strict=True)]
    best = int(np.argmax(mus))
    return LowerBound(
        n_canaries=m,
        n_guesses=counts[best],
        n_correct=correct[best],
        delta=delta,
        confidence=confidence,
        mu=mus[best],
        epsilon_dp=max(
            epsilon_bound(c, k, n_canaries=m, delta=delta, alpha=alpha)
            for c, k in zip(correct, counts, strict=True)
        ),
        epsilon_fdp=epsilon_of(mus[best], delta),
        ceiling_dp=max(epsilon_bound(k, k, n_canaries=m, delta=delta, alpha=alpha) for k in counts),
        ceiling_fdp=epsilon_of(max(mu_bound(k, k, n_canaries=m, alpha=alpha) for k in counts), delta),
    )


def epsilon_bound(n_correct: int, n_guesses: int, *, n_canaries: int, delta: float, alpha: float) -> float:
    """The largest epsilon that so many right guesses refute (Steinke et al. 2023, theorem 5.2).

    Args:
        n_correct: Right guesses.
        n_guesses: Guesses made; a number fixed in advance.
        n_canaries: Coins flipped, guessed or not.
        delta: Of the claim.
        alpha: Chance allowed of refuting what is true.
    """
    from scipy.stats import binom  # a second to import, which every process would spend

    successes = n_correct - np.arange(1, n_correct + 1)

    def excess(epsilon: float) -> float:
        accuracy = 1 / (1 + np.exp(-epsilon))
        slack = np.cumsum(binom.pmf(successes, n_guesses, accuracy)) / np.arange(1, n_correct + 1)
        chance = binom.sf(n_correct - 1, n_guesses, accuracy)
        return float(chance + 2 * n_canaries * delta * slack.max(initial=0.0) - alpha)

    return 0.0 if excess(0.0) > 0 else float(brentq(excess, 0.0, _MAX_EPSILON, xtol=1e-4))


def mu_bound(n_correct: int, n_guesses: int, *, n_canaries: int, alpha: float) -> float:
    """The largest mu such that so many right guesses refute every smaller one, to 0.002 below.

    The arguments are those of `epsilon_bound`.
    """
    low, high = 0.0, MAX_MU
    for _ in range(3):
        edges = np.linspace(low, high, _GRID + 1)
        possible = _possible(edges[1:], n_correct, n_guesses, n_canaries=n_canaries, alpha=alpha)
        first = int(np.argmax(possible)) if possible.any() else _GRID - 1
        low, high = edges[first], edges[first + 1]
    return float(low)


def _possible(
    mus: Vector, n_correct: int, n_guesses: int, *, n_canaries: int, alpha: float
) -> NDArray[np.bool_]:
    """Whether a mu-Gaussian mechanism allows `n_correct` or more right guesses with chance alpha.

    Mahloujifar et al. 2025. Let p[i] be the chance of exactly i right guesses of k among m canaries,
    r[i] = sum over j >= i of p[j] j/m (right ones) and h[i] = the same with (k - j)/m (wrong ones).
    Changing one canary's coin turns a wrong guess right, and the mechanism's trade-off curve f
    bounds how often that can be: r[i+1] <= 1 - f(h[i]), that is h[i] >= ndtr(ndtri(r[i+1]) - mu).
    Starting from p[n_correct] = alpha, take every h[i] as small as it can be, down to i = 0; if
    right and wrong guesses together then exceed k/m, that start was not possible.
    """
    right = np.full(mus.shape, alpha * n_correct / n_canaries)
    wrong = np.full(mus.shape, alpha * (n_guesses - n_correct) / n_canaries)
    for i in range(n_correct - 1, -1, -1):
        least = np.maximum(wrong, ndtr(ndtri(right) - mus))
        right = np.minimum(right + i / (n_guesses - i) * (least - wrong), 1.0)
        wrong = least
    return np.asarray(right + wrong <= n_guesses / n_canaries)


def _correct(scores: Vector, included: NDArray[np.bool_], n_guesses: int) -> int:
    """Right guesses when the highest scores are said to be in and the lowest out."""
    order = np.argsort(scores, kind="stable")
    n_low = n_guesses // 2
    low, high = order[:n_low], order[len(order) - (n_guesses - n_low) :]
    return int(included[high].sum() + (~included[low]).sum())


def _check(
    scores: Vector, included: NDArray[np.bool_], delta: float, confidence: float, fractions: Sequence[float]
) -> None:
    if scores.ndim != 1 or scores.shape != included.shape or not len(scores):
        raise AuditError(f"scores have shape {scores.shape} and coins {included.shape}; expected one each")
    if not np.isfinite(scores).all():
        raise AuditError("a canary's score is not finite")
    if not 0.5 < confidence < 1 or not 0 < delta < 1:
        raise AuditError(f"confidence is {confidence} and delta {delta}; expected in (0.5, 1) and (0, 1)")
    if not fractions or not all(0 < fraction <= 1 for fraction in fractions):
        raise AuditError(f"fractions are {tuple(fractions)}; expected one or more, above 0 and at most 1")
