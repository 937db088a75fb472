"""A private round at a site: the sum of its units' clipped gradients, over head and tuned backbone together.

Where the study samples ([door] sampling_rate), each unit is in a round with that chance, on its own, by
the operating system's randomness: who is in it is as secret as the noise (foedus.privacy.noise).
The head alone has a closed form (foedus.gradient). Where the backbone learns, Opacus gives the
gradient of each record; a unit's are added before they are clipped.
"""

from typing import TYPE_CHECKING

import numpy as np

from clients.workplace import Workplace
from foedus import gradient
from foedus.backbones import Standardiser
from foedus.model import Model
from foedus.privacy.noise import poisson_sample
from foedus.statistic import Arrays

if TYPE_CHECKING:
    from numpy.typing import NDArray


def private_gradient(
    site: Workplace, shared: Model, standardiser: Standardiser, *, clip_norm: float
) -> Arrays:
    """The contribution of a site to a round of a private study; see `foedus.gradient.quantities`.

    Raises:
        BackboneError: If a layer's statistics would depend on other records.
    """
    rows = site.data.rows("train")
    drawn = drawn_units(site.data.units[rows], site.study.door.sampling_rate)
    if not site.study.backbone.tuned:
        examples = site.examples("train", standardiser=standardiser)
        return gradient.contribution(shared.head, examples.take(drawn), clip_norm=clip_norm)
    from clients.per_record import clipped_sum

    rows = rows[drawn]
    site.tunable.load(shared.backbone)
    found = clipped_sum(
        site.tunable,
        site.kept(rows),
        site.data.labels[rows],
        _numbered(site.data.units[rows]),
        head=shared.head,
        standardiser=standardiser,
        clip_norm=clip_norm,
    )
    return {gradient.GRADIENT: found}


def drawn_units(units: "NDArray[np.str_]", rate: float) -> "NDArray[np.int64]":
    """Positions of the records of a Poisson sample of the units, in order; all at a rate of 1.

    Args:
        units: (n,), who each record belongs to.
        rate: Chance of each unit, above 0.
    """
    owner = _numbered(units)
    inside = poisson_sample(int(owner.max(initial=-1)) + 1, rate)
    return np.flatnonzero(inside[owner])


def _numbered(units: "NDArray[np.str_]") -> "NDArray[np.int64]":
    return np.unique(units, return_inverse=True)[1].astype(np.int64)
