"""A private study attacked before its model is released: does its own noise keep its own claim?

The claim under attack is that of the training rounds (without any, of the start): their noise and
their epsilon are those of the study's plan, and the noise is drawn by the code that the door uses.

Where rounds are over a sample of the units, the claim is that of one round's noise, as someone who knew
the sample would see it. That sampling and composition make less of it is the accountants' word; no
attack here tests it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foedus import gradient
from foedus.attacks.audit import N_CANARIES, audit_head_training
from foedus.attacks.clipping import ClippingCheck, Rows, check_clipping
from foedus.attacks.heads import Training
from foedus.attacks.one_run import LowerBound, audit_mechanism
from foedus.attacks.release import Release
from foedus.attacks.report import PrivacyAudit
from foedus.budget import START, plan, round_name
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.labels import decided
from foedus.noising import add_noise
from foedus.privacy.accountant import Gaussian, epsilon
from foedus.statistic import Quantity
from foedus.study import Study

SUM = "sum"
DIM, CROWD, MANY, FAR = 32, 20, 50, 1e6
"""Of the units that try the clip: features, others beside them, records of one, length of one far out."""
UNREACHED = 1e30
"""A clip that no gradient reaches."""


@dataclass(frozen=True)
class Claim:
    """What a private study says of its training, and the attacks try to refute.

    Attributes:
        of: The releases it is about, in words.
        event: Their noise.
        delta: Of the claim.
    """

    of: str
    event: Gaussian
    delta: float

    @property
    def epsilon(self) -> float:
        """Of all those releases together."""
        return epsilon([self.event], self.delta)


def claim_of(study: Study) -> Claim:
    """The rounds' claim. Without rounds the start's, which is a step from zero like theirs."""
    budget, rounds, delta = plan(study), study.federation.rounds, study.door.delta
    if not rounds:
        return Claim("the start", Gaussian(budget.multiplier(START)), delta)
    noise = budget.multiplier(round_name(1))
    if budget.sampling < 1:
        return Claim("one round to someone who knows who is in it", Gaussian(noise), delta)
    return Claim("the rounds", Gaussian(noise, steps=rounds), delta)


def release_of(claim: Claim, *, clip_norm: float) -> Release:
    """The noise of one of the claim's releases, on a sum of any length; it charges nothing."""

    def release(total: NDArray[np.float64]) -> NDArray[np.float64]:
        quantities = {SUM: Quantity(total.shape, sensitivity=clip_norm)}
        noised = add_noise({SUM: total}, quantities, multiplier=claim.event.noise_multiplier, honest=1)
        return np.asarray(noised[SUM], np.float64)

    return release


def check_mechanism(study: Study) -> LowerBound:
    """The one-run lower bound on the claim's epsilon; it needs no data."""
    claim, clip_norm = claim_of(study), study.door.clip_norm
    return audit_mechanism(
        release_of(claim, clip_norm=clip_norm),
        N_CANARIES,
        n_canaries=N_CANARIES,
        clip_norm=clip_norm,
        delta=claim.delta,
        rng=np.random.default_rng(study.study.seed),
        rounds=claim.event.steps,
    )


def check_clip(study: Study) -> ClippingCheck:
    """Enormous units against the clip of a head's rounds; it needs no data.

    A step from zero begins a head of large weights. One unit has one record far out, one many records of
    length one that agree, one both, and all are labelled wrongly.
    """
    rng, clip_norm = np.random.default_rng(study.study.seed), study.door.clip_norm
    head = LinearHead(
        *(rng.normal(0, 100, s).astype(np.float32) for s in ((study.n_classes, DIM), study.n_classes))
    )
    sizes = [1] * CROWD + [1, MANY, MANY]
    units = np.repeat(np.arange(len(sizes)), sizes)
    features = rng.normal(size=(len(units), DIM))
    features[CROWD + 1 :] = features[CROWD]
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    features[np.isin(units, [CROWD, CROWD + 2])] *= FAR
    x = features.astype(np.float32)
    scores = head.scores(x)
    wrong = (~decided(scores)).astype(np.int64) if study.multilabel else np.argmin(scores, axis=1)
    examples = Examples(x, wrong, {}, units.astype(np.str_))

    def contribution(rows: Rows, clip: float) -> NDArray[np.float64]:
        found = gradient.contribution(head, examples.take(rows), clip_norm=clip)
        return np.asarray(found[gradient.GRADIENT], np.float64)

    return check_clipping(
        lambda rows: contribution(rows, clip_norm),
        lambda rows: contribution(rows, UNREACHED),
        crowd=np.flatnonzero(units < CROWD),
        giants=[np.flatnonzero(units == unit) for unit in range(CROWD, len(sizes))],
        clip_norm=clip_norm,
    )


def check_training(
    study: Study, examples: Examples, *, clipping: ClippingCheck | None = None
) -> PrivacyAudit:
    """All attacks on a site's own training examples; nothing of it leaves the site.

    Args:
        study: The study.
        examples: The site's.
        clipping: Of the site's own rounds, where the backbone learns; of a head's when not given.

    Raises:
        AuditError: If the site has too few examples.
    """
    claim, clip_norm = claim_of(study), study.door.clip_norm
    return audit_head_training(
        examples,
        n_classes=study.n_classes,
        epsilon=claim.epsilon,
        delta=claim.delta,
        training=Training(
            max(1, study.federation.rounds), study.federation.lr, clip_norm, study.door.sampling_rate
        ),
        release=release_of(claim, clip_norm=clip_norm),
        rng=np.random.default_rng(study.study.seed),
        clipping=clipping or check_clip(study),
        of=claim.of,
        tuned=study.backbone.tuned,
    )
