"""How a private study spends its epsilon: every release has its noise before the first is made.

All releases are Gaussian sums over all units (no sampling), so their noise adds up exactly:
n releases with multipliers z_i are one Gaussian release with 1/z² = Σ 1/z_i² (Dong, Roth & Su
2022, corollary 3.3). The plan fixes a multiplier z for (epsilon, delta) and gives release i a
share s_i of the budget, z_i = z / √s_i, with Σ s_i = 1. Site and coordinator read the same plan
from the study, so the coordinator cannot ask for less noise or for one release more.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import sqrt
from typing import Any

from foedus.errors import DoorError
from foedus.privacy.accountant import Gaussian, calibrate, cross_check, epsilon
from foedus.study import Study

CENTRE, START, TEST, AUDIT = "centre", "start", "test", "audit"
CENTRE_SHARE, TEST_SHARE, AUDIT_SHARE = 0.05, 0.1, 0.2
START_SHARE = 0.4
"""Of what is left for training; the rounds have the rest in equal parts."""


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
    return f"round {number}"


@dataclass(frozen=True)
class Plan:
    """Every release of a study.

    Attributes:
        total: Noise multiplier of the whole study, as if it were one release.
        shares: Release to its share of the budget; they sum to one.
        delta: Of the guarantee.
    """

    total: float
    shares: dict[str, float]

    delta: float

    def spent_after(self, number: int) -> float:
        """Epsilon of everything up to and with that round."""
        names = [CENTRE, START, *(round_name(k) for k in range(1, number + 1))]
        return epsilon([Gaussian(self.multiplier(name)) for name in names if name in self.shares], self.delta)

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
    events = [Gaussian(budget.multiplier(name)) for name in budget.shares]
    return {
        "mode": door.mode,
        "guarantee": "differential privacy",
        "epsilon": epsilon(events, door.delta),
        "epsilon_prv": cross_check(events, door.delta),
        "delta": door.delta,
        "relation": "adding or removing one unit of one site",
        "unit": "the patient or customer where the site names an id column, else the record",
        "releases": {name: budget.multiplier(name) for name in budget.shares},
    }


@lru_cache(maxsize=64)
def _total(epsilon: float, delta: float) -> float:
    return calibrate(epsilon, delta, steps=1)


def plan(study: Study) -> Plan:
    """The releases of a private study, in order, and their shares."""
    federation = study.federation
    shares = {CENTRE: CENTRE_SHARE}
    after = {TEST: TEST_SHARE}
    if study.fairness is not None:
        after[AUDIT] = AUDIT_SHARE
    left = 1 - CENTRE_SHARE - sum(after.values())
    if federation.start != "zero":
        shares[START] = START_SHARE * left
        left -= shares[START]
    shares |= {round_name(k): left / federation.rounds for k in range(1, federation.rounds + 1)}
    return Plan(_total(study.door.epsilon, study.door.delta), shares | after, study.door.delta)
