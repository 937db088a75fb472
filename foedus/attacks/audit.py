"""The empirical privacy audit of head training at one site, on its own records; nothing leaves the site."""

from dataclasses import replace

import numpy as np

from foedus.attacks.heads import Training
from foedus.attacks.inversion import invert_updates
from foedus.attacks.lira import infer_membership
from foedus.attacks.one_run import audit_mechanism
from foedus.attacks.release import Release
from foedus.attacks.report import PrivacyAudit
from foedus.errors import AuditError
from foedus.examples import Examples

N_CANARIES = 20_000
"""At a claim of 3 (delta 1e-5) they find noise 2 times too small always, 1.5 times in 5 of 6 audits."""
BATCH_SIZES = (1, 8, 64)
MIN_RECORDS = 20


def audit_head_training(
    examples: Examples,
    *,
    n_classes: int,
    epsilon: float,
    delta: float,
    training: Training,
    release: Release,
    rng: np.random.Generator,
    n_canaries: int = N_CANARIES,
    n_heads: int = 128,
    max_records: int = 300,
) -> PrivacyAudit:
    """Attack the site's own training in three ways and set the result against the claim.

    At 300 records, 384 features, 10 classes and 60 rounds it takes 2 s on one core, and 5 s with the
    exact noise of foedus.privacy: the release is called once a round, with 128 heads in one vector.

    Args:
        examples: The site's training records, features as the head sees them (centred).
        n_classes: Labels are 0..n_classes-1.
        epsilon: Claimed for all rounds together, adding or removing one record; if batches are
            sampled, give one round and the epsilon of one release without sampling.
        delta: Claimed.
        training: Rounds, rate and clipping norm of the study.
        release: The site's own noise, at the multiplier that the claim rests on.
        rng: For canaries, halves and batches; never for the noise.
        n_canaries: For the lower bound.
        n_heads: Shadow heads, even.
        max_records: Records attacked, drawn at random; the attack knows no others.

    Raises:
        AuditError: If there are fewer than 20 records, no clipping norm, or a release is malformed.
    """
    if training.clip_norm is None:
        raise AuditError("the training to audit does not clip; give the study's clip_norm")
    if len(examples) < MIN_RECORDS:
        raise AuditError(f"{len(examples)} records are too few to attack; {MIN_RECORDS} are needed")
    targets = examples.take(rng.permutation(len(examples))[:max_records])
    bound = audit_mechanism(
        release,
        n_canaries,
        n_canaries=n_canaries,
        clip_norm=training.clip_norm,
        delta=delta,
        rng=rng,
        rounds=training.rounds,
    )
    protected = infer_membership(
        targets, n_classes=n_classes, training=training, release=release, rng=rng, n_heads=n_heads
    )
    noiseless = infer_membership(targets, n_classes=n_classes, training=training, rng=rng, n_heads=n_heads)
    one_round = replace(training, rounds=1)
    inversions = tuple(
        invert_updates(targets, size, n_classes=n_classes, training=one_round, release=release, rng=rng)
        for size in BATCH_SIZES
        if size <= len(targets)
    )
    return PrivacyAudit(epsilon, delta, bound, protected, noiseless, inversions)
