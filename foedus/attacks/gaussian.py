"""The Gaussian mechanism's privacy in closed form: mu = sensitivity / standard deviation of the noise."""

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr

from foedus.errors import AuditError

MAX_MU = 64.0
"""Beyond it there is no noise to speak of."""


def delta_of(epsilon: float, mu: float) -> float:
    """The delta at which a mu-Gaussian mechanism is (epsilon, delta)-DP (Balle & Wang 2018, theorem 8)."""
    return float(ndtr(mu / 2 - epsilon / mu) - np.exp(epsilon + log_ndtr(-mu / 2 - epsilon / mu)))


def epsilon_of(mu: float, delta: float) -> float:
    """The smallest epsilon, 0 or more, at which a mu-Gaussian mechanism is (epsilon, delta)-DP.

    Raises:
        AuditError: If delta is not between 0 and 1.
    """
    _check_delta(delta)
    if mu <= 0 or delta_of(0.0, mu) <= delta:
        return 0.0
    return float(brentq(lambda epsilon: delta_of(epsilon, mu) - delta, 0.0, mu * mu + 50 * mu))


def mu_of(epsilon: float, delta: float) -> float:
    """The largest mu at which a Gaussian mechanism is (epsilon, delta)-DP; noise multiplier = 1 / mu.

    Raises:
        AuditError: If epsilon is negative or delta is not between 0 and 1.
    """
    _check_delta(delta)
    if epsilon < 0:
        raise AuditError(f"epsilon is {epsilon}; expected 0 or more")
    return float(brentq(lambda mu: delta_of(epsilon, mu) - delta, 1e-9, 2 * MAX_MU))


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise AuditError(f"delta is {delta}; expected between 0 and 1, both excluded")
