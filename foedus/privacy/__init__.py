"""What makes a sum safe to release: clip each unit's part, add noise, and charge the site's ledger.

Read `ledger` for the budget, `accountant` for what a release costs, `clipping` and `rows` for
how far one unit can move a sum, and `noise` for what hides it.
"""

from foedus.privacy.accountant import Gaussian, calibrate, cross_check, default_delta, epsilon
from foedus.privacy.ledger import Ledger, Reservation

__all__ = [
    "Gaussian",
    "Ledger",
    "Reservation",
    "calibrate",
    "cross_check",
    "default_delta",
    "epsilon",
]
