"""What the audit is handed: how a site lets a sum go."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from foedus.errors import AuditError

Vector = NDArray[np.float64]
Release = Callable[[Vector], Vector]
"""A sum over clipped records, (n,) of any length, to what leaves the site, (n,).

It must treat every entry alike, draw fresh noise on every call and leave no trace (no ledger
entry): an audit calls it for canaries and shadow heads, which are nobody's data.
"""


def released(release: Release, total: Vector) -> Vector:
    """`release(total)`, checked.

    Raises:
        AuditError: If what comes back has another shape or is not finite.
    """
    found = np.asarray(release(total), np.float64)
    if found.shape != total.shape:
        raise AuditError(f"the release returned shape {found.shape} for a sum of shape {total.shape}")
    if not np.isfinite(found).all():
        raise AuditError("the release returned numbers that are not finite")
    return found
