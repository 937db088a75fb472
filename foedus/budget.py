"""How a private study spends its epsilon: every release has its noise before the first is made.

Releases are Gaussian sums. Over all units, their noise adds up exactly: n releases with multipliers
z_i are one Gaussian release with 1/z² = Σ 1/z_i² (Dong, Roth & Su 2022, corollary 3.3). The plan fixes
a multiplier z for (epsilon, delta) and gives release i a share s_i of the budget, z_i = z / √s_i, with
Σ s_i = 1. Where rounds are sums over a random sample of the units ([door] sampling_rate), that no longer
holds: the other releases keep their noise, and the rounds' is searched for with the accountant, so that
all together spend epsilon. Site and coordinator read the same plan from the study, so the coordinator
cannot ask for less noise or for one release more.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from math import sqrt
from typing import Any

from foedus.errors import DoorError
from foedus.privacy.accountant import Gaussian, calibrate, cross_check, epsilon
from foedus.search import SearchSection
from foedus.study import Study

CENTRE, START, TEST, AUDIT, ROUND = "centre", "start", "test", "audit", "round "
CENTRE_SHARE, TEST_SHARE, AUDIT_SHARE = 0.05, 0.1, 0.2
START_SHARE = 0.4
"""Of what is left for training; the rounds have the rest in equal parts. All of it where there are none."""


RELEASES = {
    "centre": CENTRE,
    "private-prototypes": START,
    "private-ridge": START,
    "evaluation": TEST,
    "private-audit": AUDIT,
}
"""Statistic to the release it is; any other has no place in a private study."""


def release_of(statistic: str) -> str:
    """The release that a statistic is.

    Raises:
        DoorError: If it has no place in a private study.
    """
    if statistic not in RELEASES:
        raise DoorError(f"'{statistic}' has no place in a private study; it stays here")
    return RELEASES[statistic]


def round_name(number: int) -> str:
    """The release of one round, 1..rounds."""
    return f"{ROUND}{number}"


@dataclass(frozen=True)
class Plan:
    """Every release of a study.

    Attributes:
        total: Noise multiplier of the whole study, as if it were one release.
        shares: Release to its share of the budget; they sum to one, less with [search].
        delta: Of the guarantee.
        sampling: Chance of each unit to be in a round.
        sampled: Noise multiplier of each round; None where all units are in it.
    """

    total: float
    shares: dict[str, float]

    delta: float
    sampling: float = 1.0
    sampled: float | None = None

    def spent_after(self, number: int) -> float:
        """Epsilon of everything up to and with that round."""
        names = [CENTRE, START, *(round_name(k) for k in range(1, number + 1))]
        return epsilon([self.event(name) for name in names if name in self.shares], self.delta)

    @property
    def events(self) -> list[Gaussian]:
        """Every release."""
        return [self.event(name) for name in self.shares]

    def event(self, release: str) -> Gaussian:
        """A release as it is charged.

        Raises:
            DoorError: If the plan has no such release.
        """
        multiplier = self.multiplier(release)
        return Gaussian(multiplier, self.sampling) if release.startswith(ROUND) else Gaussian(multiplier)

    def multiplier(self, release: str) -> float:
        """Standard deviation of a release's noise over what one unit can change (L2).

        Raises:
            DoorError: If the plan has no such release.
        """
        if release not in self.shares:
            raise DoorError(
                f"'{release}' is not among the releases of this study's privacy plan "
                f"({', '.join(self.shares)}); it stays here"
            )
        if self.sampled is not None and release.startswith(ROUND):
            return self.sampled
        return self.total / sqrt(self.shares[release])


def statement(study: Study) -> dict[str, Any]:
    """What a study promises about privacy, for results.json, the report and the model card.

    Raises:
        PrivacyError: If the two accountants do not agree on a private study's releases.
    """
    door = study.door
    if not door.private:
        return {"mode": door.mode, "guarantee": None}
    budget = plan(study)
    return {
        "mode": door.mode,
        "guarantee": "differential privacy",
        "epsilon": epsilon(budget.events, door.delta),
        "epsilon_prv": cross_check(budget.events, door.delta),
        "delta": door.delta,
        "sampling_rate": door.sampling_rate,
        "relation": "adding or removing one unit of one site",
        "unit": "the patient or customer where the site names an id column, else the record",
        "releases": {name: budget.multiplier(name) for name in budget.shares},
    }


@lru_cache(maxsize=64)
def _total(epsilon: float, delta: float) -> float:
    return calibrate(epsilon, delta, steps=1)


def plan(study: Study) -> Plan:
    """The releases of a private study, in order, and their shares.

    A study with [search] leaves epsilon_share of the budget to the trials of foedus tune, whose own
    plans are `trial_shares`.
    """
    total = _total(study.door.epsilon, study.door.delta)
    if study.search is not None and study.search.trial is not None:
        return Plan(total, trial_shares(study, study.search), study.door.delta)
    federation = study.federation
    shares = {CENTRE: CENTRE_SHARE}
    after = {TEST: TEST_SHARE}
    if study.fairness is not None:
        after[AUDIT] = AUDIT_SHARE
    left = 1 - CENTRE_SHARE - sum(after.values())
    if federation.start != "zero":
        shares[START] = (START_SHARE if federation.rounds else 1) * left
        left -= shares[START]
    shares |= {round_name(k): left / federation.rounds for k in range(1, federation.rounds + 1)}
    own = 1.0 if study.search is None else 1 - study.search.epsilon_share
    found = Plan(total, {name: own * share for name, share in (shares | after).items()}, study.door.delta)
    rate, rounds = study.door.sampling_rate, federation.rounds
    if rate == 1 or not rounds:
        return found
    others = tuple(found.multiplier(name) for name in found.shares if not name.startswith(ROUND))
    sampled = _sampled(study.door.epsilon, study.door.delta, rate, rounds, others)
    return replace(found, sampling=rate, sampled=sampled)


@lru_cache(maxsize=64)
def _sampled(epsilon: float, delta: float, rate: float, rounds: int, others: tuple[float, ...]) -> float:
    """Noise of rounds over a sample that spend what the other releases leave (a second or so)."""
    earlier = [Gaussian(multiplier) for multiplier in others]
    return calibrate(epsilon, delta, steps=rounds, sampling=rate, earlier=earlier)


def trial_shares(study: Study, search: SearchSection) -> dict[str, float]:
    """Shares of one trial on one rung; all trials' releases, and their one start, have equal ones.

    The number of releases of a bracket is known before the first, so the part of the search is
    never exceeded. The validation of a rung is the trial's test.
    """
    before = [CENTRE] if study.federation.start == "zero" else [CENTRE, START]
    rounds = [round_name(k) for k in range(1, study.federation.rounds + 1)]
    each = search.epsilon_share / search_releases(study, search)
    return dict.fromkeys([*before, *rounds, TEST], each)


def search_releases(study: Study, search: SearchSection) -> int:
    """Releases of a whole search, the start of all trials with them."""
    return (1 if study.federation.start == "zero" else 2) + search.releases
