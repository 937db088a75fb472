"""Does the clip hold? Units with enormous gradients, put through the code that makes a site's contribution.

The lower bound of `one_run` attacks the noise and takes the clip for granted; noise that is in proportion
to the clip hides nobody whose part is larger. Here a unit is added to a crowd, and what the contribution
changes by is measured. It can find a clip that does not hold and never prove that it always will.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foedus.errors import AuditError

Rows = NDArray[np.int64]
Contribution = Callable[[Rows], NDArray[np.float64]]
"""Positions of some records to the sum of their units' clipped gradients, any shape."""
TOLERANCE = 1e-4
"""Of the clip: other units' float32 gradients change in the seventh digit with those beside them."""


@dataclass(frozen=True)
class ClippingCheck:
    """What the largest of the units that were tried could change.

    Attributes:
        tried: Units added, one at a time.
        largest: Largest change of the contribution (L2) over the clip.
        unclipped: Largest gradient of one of these units over the clip, had nothing been clipped.
    """

    tried: int
    largest: float
    unclipped: float

    @property
    def held(self) -> bool:
        """Whether no unit changed the contribution by more than the clip."""
        return self.largest <= 1 + TOLERANCE

    def text(self) -> str:
        """In one sentence."""
        verdict = "held" if self.held else "DID NOT HOLD"
        return (
            f"The clip {verdict}: {self.tried} units with gradients of up to {self.unclipped:.3g} times the clip "
            f"changed a contribution by at most {self.largest:.4f} of it."
        )


def check_clipping(
    contribution: Contribution,
    unclipped: Contribution,
    *,
    crowd: Rows,
    giants: Sequence[Rows],
    clip_norm: float,
) -> ClippingCheck:
    """Add each of `giants` to the crowd and see what changes.

    Args:
        contribution: The site's own code, at the study's clip.
        unclipped: The same at a clip that nothing reaches.
        crowd: Records that are always there.
        giants: The records of one unit each, none of them in the crowd.
        clip_norm: The study's.

    Raises:
        AuditError: If there is no giant, or none is beyond the clip, so that nothing is tried.
    """
    if not giants:
        raise AuditError("no unit to try the clip with was given")
    before = contribution(crowd)
    changes = [_length(contribution(np.concatenate([crowd, rows])) - before) for rows in giants]
    lengths = [_length(unclipped(rows)) for rows in giants]
    if max(lengths) <= clip_norm:
        raise AuditError("no unit's gradient is longer than the clip, so nothing tries it")
    return ClippingCheck(len(giants), max(changes) / clip_norm, max(lengths) / clip_norm)


def _length(change: NDArray[np.float64]) -> float:
    length = float(np.linalg.norm(change))
    return length if np.isfinite(length) else float("inf")
