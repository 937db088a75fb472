"""What a list of noisy releases costs: epsilon at a given delta.

Every release is a Gaussian mechanism, on everyone or on a Poisson sample. The figure reported
is Google's privacy loss distribution (dp-accounting), which errs upwards only; a list without
sampling has the exact formula of Balle and Wang (2018). Opacus' PRV accountant, another code
by other people, confirms it to 2 %. The neighbouring relation is part of the figure: "add-remove"
compares data with and without one unit; "replace" swaps one unit for another and costs 1.3 to
2.3 times as much for the same noise.
"""

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any, Literal

import numpy as np

from foedus.errors import PrivacyError

# dp-accounting takes 2 s to import and Opacus 9 s, so both are imported where they are used.

Relation = Literal["add-remove", "replace"]
AGREEMENT = 0.02
"""Relative difference between the two accountants above which neither is believed."""
_WORTH_COMPUTING = 500.0
"""Above this much divergence no reader cares how large epsilon is; see `_epsilon`."""
_COARSEST = 1e-3


@dataclass(frozen=True, order=True)
class Gaussian:
    """Releases with Gaussian noise, one after another.

    Attributes:
        noise_multiplier: Standard deviation of the noise over the L2 sensitivity to adding or
            removing one unit.
        sampling: Probability with which each unit takes part in a release, independently
            (Poisson); 1 when all do.
        steps: Number of releases.

    Raises:
        PrivacyError: If one of them is out of range.
    """

    noise_multiplier: float
    sampling: float = 1.0
    steps: int = 1

    def __post_init__(self) -> None:
        if not (0 < self.noise_multiplier < math.inf and 0 < self.sampling <= 1 and self.steps >= 1):
            raise PrivacyError(
                f"noise_multiplier {self.noise_multiplier}, sampling {self.sampling} and steps {self.steps} "
                "describe no noisy release; expected above 0, in (0, 1] and at least 1"
            )


def combine(events: Iterable[Gaussian]) -> tuple[Gaussian, ...]:
    """The same releases with equal ones counted together, in a fixed order."""
    steps: Counter[tuple[float, float]] = Counter()
    for event in events:
        steps[event.noise_multiplier, event.sampling] += event.steps
    return tuple(sorted(Gaussian(noise, sampling, count) for (noise, sampling), count in steps.items()))


def epsilon(events: Iterable[Gaussian], delta: float, *, relation: Relation = "add-remove") -> float:
    """Epsilon of all `events` together; never below the true one by more than rounding.

    Events without sampling compose exactly to one Gaussian, and when there is nothing else the
    formula of Balle and Wang is used. Otherwise the privacy loss distributions are composed by
    FFT on a grid fine enough that the error is below about 0.1 %, upwards.

    Raises:
        PrivacyError: If delta is not between 0 and 1.
    """
    if not 0 < delta < 1:
        raise PrivacyError(f"delta is {delta}; expected above 0 and below 1, such as 1e-5")
    return _epsilon(combine(events), delta, relation)


def cross_check(events: Iterable[Gaussian], delta: float, *, accountant: str = "prv") -> float:
    """Epsilon (add-remove) by Opacus' accountant, once it agrees with `epsilon` to 2 %.

    Below 0.1 the two need only agree to 0.002.

    Raises:
        PrivacyError: If they do not agree, if Opacus cannot tell, or if `accountant` is one
            that must not be used.
    """
    _check_accountant(accountant)
    combined = combine(events)
    ours = epsilon(combined, delta)
    if not combined:
        return 0.0
    theirs = _opacus_prv(combined, delta, error=max(ours / 200, 2e-4))
    if not abs(theirs - ours) <= max(AGREEMENT * ours, 0.002):
        raise PrivacyError(
            f"two accountants disagree on these releases: {ours:.4f} (PLD) and {theirs:.4f} (PRV) differ by "
            "more than 2 %; release nothing and report this with the list of releases"
        )
    return theirs


def calibrate(
    target: float,
    delta: float,
    *,
    steps: int = 1,
    sampling: float = 1.0,
    earlier: Sequence[Gaussian] = (),
    relation: Relation = "add-remove",
) -> float:
    """The smallest noise multiplier (to 0.01 %, upwards) that keeps `steps` releases within `target`.

    Args:
        target: Epsilon after the releases.
        delta: Of the guarantee.
        steps: Releases to come.
        sampling: Of each of them.
        earlier: Releases already made; the new ones get what these have left.
        relation: Of the guarantee.

    Raises:
        PrivacyError: If `earlier` has left nothing, or the target is not above 0.
    """
    spent = epsilon(earlier, delta, relation=relation)
    if not spent < target < math.inf:
        raise PrivacyError(
            f"epsilon {target} is asked for and earlier releases have spent {spent:.4f}; nothing is left"
        )
    low, high = 0.0, _closed_form_noise(target, delta, relation) * math.sqrt(steps)
    if not earlier and sampling == 1:
        return high

    def fits(noise: float) -> bool:
        return epsilon([*earlier, Gaussian(noise, sampling, steps)], delta, relation=relation) <= target

    while not fits(high):
        low, high = high, 2 * high
    while high - low > 1e-4 * high:
        middle = math.sqrt(low * high) if low else high / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def distributed_sigma(total: float, honest: int) -> float:
    """What each site adds so that the noise of any `honest` of them reaches `total`.

    Raises:
        PrivacyError: If nobody is counted on.
    """
    if honest < 1:
        raise PrivacyError(f"{honest} honest noise shares cannot reach any total; expected at least 1")
    return total / math.sqrt(honest)


def default_delta(units: int) -> float:
    """min(1e-5, 1/(10 n)): well below the chance of publishing one unit's record at random."""
    return min(1e-5, 1 / (10 * max(units, 1)))


@lru_cache(maxsize=4096)
def _epsilon(combined: tuple[Gaussian, ...], delta: float, relation: Relation) -> float:
    """Sampling only ever helps, so the formula without it is an upper bound, and the answer when all
    is huge (`_divergence` is no guarantee, it only tells when not to compute)."""
    bound = _without_sampling(combined, delta, relation)
    sampled = [event for event in combined if event.sampling < 1]
    divergence = _divergence(combined, relation)
    if not sampled or divergence > _WORTH_COMPUTING:
        return bound
    interval = _interval(divergence, sum(event.steps for event in sampled))
    parts = [_loss(event, interval, relation) for event in sampled]
    plain = [event for event in combined if event.sampling == 1]
    if plain:
        parts.append(_loss(Gaussian(_as_one(plain)), interval, relation))
    composed = reduce(lambda left, right: left.compose(right), parts)
    return min(bound, float(composed.get_epsilon_for_delta(delta)))


def _as_one(events: Iterable[Gaussian]) -> float:
    """Noise multiplier of the one Gaussian release that equals all `events` without sampling."""
    return 1 / math.sqrt(math.fsum(event.steps / event.noise_multiplier**2 for event in events))


def _without_sampling(combined: tuple[Gaussian, ...], delta: float, relation: Relation) -> float:
    """Balle and Wang 2018, theorem 8; replacing one unit moves a sum by twice the sensitivity."""
    from dp_accounting.gaussian_mechanism import get_epsilon_gaussian

    if not combined:
        return 0.0
    return float(get_epsilon_gaussian(_as_one(combined) / _reach(relation), delta))


def _closed_form_noise(target: float, delta: float, relation: Relation) -> float:
    from dp_accounting.gaussian_mechanism import get_sigma_gaussian

    return float(get_sigma_gaussian(target, delta)) * _reach(relation) * (1 + 1e-9)


def _reach(relation: Relation) -> float:
    return 1.0 if relation == "add-remove" else 2.0


def _divergence(combined: Iterable[Gaussian], relation: Relation) -> float:
    """Rényi divergence of order 2 (Mironov et al. 2019, for integer orders), as a measure of scale."""
    total = 0.0
    for event in combined:
        exponent = min((_reach(relation) / event.noise_multiplier) ** 2, 700.0)
        total += event.steps * math.log1p(event.sampling**2 * math.expm1(exponent))
    return total


def _interval(divergence: float, steps: int) -> float:
    """Grid of the privacy loss: the error grows as steps x interval² / sqrt(divergence) (measured)."""
    wanted = max(0.1 * math.sqrt(divergence / steps), 1e-9)
    halvings = max(0, math.ceil(math.log2(_COARSEST / wanted)))
    return float(_COARSEST / 2.0**halvings)


@lru_cache(maxsize=64)
def _loss(event: Gaussian, interval: float, relation: Relation) -> Any:
    one = _loss_of_one(event.noise_multiplier, event.sampling, interval, relation)
    return one.self_compose(event.steps) if event.steps > 1 else one


@lru_cache(maxsize=64)
def _loss_of_one(noise_multiplier: float, sampling: float, interval: float, relation: Relation) -> Any:
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld import privacy_loss_distribution

    neighbours = (
        NeighboringRelation.ADD_OR_REMOVE_ONE if relation == "add-remove" else NeighboringRelation.REPLACE_ONE
    )
    return privacy_loss_distribution.from_gaussian_mechanism(
        noise_multiplier,
        sampling_prob=sampling,
        value_discretization_interval=interval,
        neighboring_relation=neighbours,
    )


def _check_accountant(name: str) -> None:
    if name == "gdp":
        raise PrivacyError(
            "Opacus' 'gdp' accountant is refused: it rests on a limit of infinitely many steps and reports "
            "less epsilon than is spent (1.62 where 1.83 is true); use 'prv'"
        )
    if name != "prv":
        raise PrivacyError(f"'{name}' cannot confirm epsilon to 2 %; use 'prv'")


def _opacus_prv(combined: tuple[Gaussian, ...], delta: float, *, error: float) -> float:
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(event.noise_multiplier, event.sampling, event.steps) for event in combined]
    try:
        with np.errstate(divide="ignore"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Optimal order is the")  # only sizes its own grid
            return float(accountant.get_epsilon(delta, eps_error=error))
    except (RuntimeError, ValueError) as reason:
        raise PrivacyError(
            f"Opacus' PRV accountant could not compute these releases ({reason}); epsilon stays unconfirmed"
        ) from reason
