"""A site attacks its own training, as a private study would run it; nothing leaves the site."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from clients.workplace import Workplace
from foedus.attacks.clipping import ClippingCheck, Rows, check_clipping
from foedus.attacks.report import PrivacyAudit
from foedus.backbones import Centre, Standardiser, public_standardiser
from foedus.errors import AuditError
from foedus.head import LinearHead
from foedus.privacy_check import UNREACHED, check_training

if TYPE_CHECKING:
    from numpy.typing import NDArray

CROWD, MANY, WEIGHT = 8, 12, 1e4
"""Of the units that try the clip: others beside them, records of one and more, deviation of the head's weights."""


def attack(site: Workplace, standardiser: Standardiser | None = None) -> PrivacyAudit:
    """All three attacks of foedus.attacks on the site's training examples.

    Args:
        site: Where we are.
        standardiser: The run's; made from the site's own examples when not given.

    Raises:
        AuditError: If the study is not private, or the site has too few training examples.
    """
    if not site.study.door.private:
        raise AuditError(
            f'the study\'s door is "{site.study.door.mode}", which promises no epsilon to attack; '
            'set door.mode = "secure+ddp" or "local-dp"'
        )
    standardiser = standardiser or own(site)
    clipping = try_clip(site, standardiser) if site.study.backbone.tuned else None
    return check_training(site.study, site.examples("train", standardiser=standardiser), clipping=clipping)


def try_clip(site: Workplace, standardiser: Standardiser) -> ClippingCheck:
    """Enormous units against the clip where the backbone learns, made of the site's own records.

    Under a head of enormous weights every gradient is; one unit has one record, one has many.

    Raises:
        AuditError: If the site has too few training examples.
    """
    from clients.per_record import clipped_sum

    rows, clip_norm = site.data.rows("train")[: CROWD + MANY], site.study.door.clip_norm
    if len(rows) < CROWD + 2:
        raise AuditError(f"{len(rows)} training examples are too few to attack; {CROWD + 2} are needed")
    rng = np.random.default_rng(site.study.study.seed)
    shape = (site.study.n_classes, site.spec.dim)
    head = LinearHead(rng.normal(0, WEIGHT, shape).astype(np.float32), np.zeros(shape[0], np.float32))
    owner = np.minimum(np.arange(len(rows)), CROWD + 1)
    kept, labels = site.kept(rows), site.data.labels[rows]
    site.tunable.load(site.tunable.initial())

    def contribution(chosen: Rows, clip: float) -> "NDArray[np.float64]":
        return clipped_sum(
            site.tunable,
            tuple(array[chosen] for array in kept),
            labels[chosen],
            np.unique(owner[chosen], return_inverse=True)[1].astype(np.int64),
            head=head,
            standardiser=standardiser,
            clip_norm=clip,
        )

    return check_clipping(
        lambda chosen: contribution(chosen, clip_norm),
        lambda chosen: contribution(chosen, UNREACHED),
        crowd=np.flatnonzero(owner < CROWD),
        giants=[np.flatnonzero(owner == unit) for unit in (CROWD, CROWD + 1)],
        clip_norm=clip_norm,
    )


def own(site: Workplace) -> Standardiser:
    """The standardiser of a study with this site alone and no noise."""
    public = public_standardiser(site.spec.dim, site.study.table)
    centre = Centre(dim=site.spec.dim)
    found = centre.read(centre.measure(site.examples("train", standardiser=public)))
    return replace(public, centre=found.centre)
