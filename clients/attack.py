"""A site attacks its own training, as a private study would run it; nothing leaves the site."""

from dataclasses import replace

from clients.workplace import Workplace
from foedus.attacks.report import PrivacyAudit
from foedus.backbones import Centre, Standardiser, public_standardiser
from foedus.errors import AuditError
from foedus.privacy_check import check_training


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
    return check_training(site.study, site.examples("train", standardiser=standardiser or own(site)))


def own(site: Workplace) -> Standardiser:
    """The standardiser of a study with this site alone and no noise."""
    public = public_standardiser(site.spec.dim, site.study.table)
    centre = Centre(dim=site.spec.dim)
    found = centre.read(centre.measure(site.examples("train", standardiser=public)))
    return replace(public, centre=found.centre)
