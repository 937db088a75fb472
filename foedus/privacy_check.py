"""A private study attacked before its model is released: does its own noise keep its own claim?

The claim under attack is that of the training rounds: their noise and their epsilon are those
of the study's plan, and the noise is drawn by the code that the door uses.
"""

import numpy as np
from numpy.typing import NDArray

from foedus.attacks.audit import N_CANARIES, audit_head_training
from foedus.attacks.heads import Training
from foedus.attacks.one_run import LowerBound, audit_mechanism
from foedus.attacks.release import Release
from foedus.attacks.report import PrivacyAudit
from foedus.budget import plan, round_name
from foedus.examples import Examples
from foedus.noising import add_noise
from foedus.privacy.accountant import Gaussian, epsilon
from foedus.statistic import Quantity
from foedus.study import Study

SUM = "sum"


def rounds_epsilon(study: Study) -> float:
    """What the study's rounds alone give away."""
    budget = plan(study)
    noise = Gaussian(budget.multiplier(round_name(1)), steps=study.federation.rounds)
    return epsilon([noise], study.door.delta)


def release_of_rounds(study: Study) -> Release:
    """The noise of one round's total, on a sum of any length; it charges nothing."""
    multiplier, clip_norm = plan(study).multiplier(round_name(1)), study.door.clip_norm

    def release(total: NDArray[np.float64]) -> NDArray[np.float64]:
        quantities = {SUM: Quantity(total.shape, sensitivity=clip_norm)}
        noised = add_noise({SUM: total}, quantities, multiplier=multiplier, honest=1)
        return np.asarray(noised[SUM], np.float64)

    return release


def check_mechanism(study: Study) -> LowerBound:
    """The one-run lower bound on the rounds' epsilon; it needs no data."""
    return audit_mechanism(
        release_of_rounds(study),
        N_CANARIES,
        n_canaries=N_CANARIES,
        clip_norm=study.door.clip_norm,
        delta=study.door.delta,
        rng=np.random.default_rng(study.study.seed),
        rounds=study.federation.rounds,
    )


def check_training(study: Study, examples: Examples) -> PrivacyAudit:
    """All three attacks on a site's own training examples; nothing of it leaves the site.

    Raises:
        AuditError: If the site has too few examples.
    """
    training = Training(study.federation.rounds, study.federation.lr, study.door.clip_norm)
    return audit_head_training(
        examples,
        n_classes=study.n_classes,
        epsilon=rounds_epsilon(study),
        delta=study.door.delta,
        training=training,
        release=release_of_rounds(study),
        rng=np.random.default_rng(study.study.seed),
    )
