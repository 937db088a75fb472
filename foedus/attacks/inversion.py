"""Gradient inversion of a linear head, in closed form.

The gradient of one record is r x' for the weight and r for the bias, so every row of the weight's
change divided by the bias's change is x itself; of a batch it is a mixture of its records, which
one record often dominates (Zhu et al. 2019 and Geiping et al. 2020 search for what is a division
here; for a layer with a bias see Geiping et al., proposition 3.1).
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from foedus.attacks.heads import Training, owners, train_heads
from foedus.attacks.release import Release
from foedus.errors import AuditError
from foedus.examples import Examples

N_BATCHES = 16
Reals = NDArray[np.float64]


@dataclass(frozen=True)
class Inversion:
    """How near the attack comes to a record's features; cosine 1 is the record itself.

    Attributes:
        batch_size: Units behind one update.
        n_batches: Updates attacked.
        raw: Mean over records of the best cosine, from an update without clipping and noise.
        released: The same from an update that left through clipping and noise.
        chance: The same from directions that have nothing to do with the records.
    """

    batch_size: int
    n_batches: int
    raw: float
    released: float
    chance: float


def invert_updates(
    examples: Examples,
    batch_size: int,
    *,
    n_classes: int,
    training: Training,
    release: Release,
    rng: np.random.Generator,
    n_batches: int = N_BATCHES,
) -> Inversion:
    """Attack updates of random batches of units, each trained on from zero.

    Args:
        examples: At least `batch_size` units; features should be centred, or all cosines are high.
        batch_size: Units in an update, each with all its records.
        n_classes: Labels are 0..n_classes-1.
        training: Its rounds are the steps behind one update.
        release: The site's way out.
        rng: Draws the batches and the directions by chance.
        n_batches: Updates attacked.

    Raises:
        AuditError: If there are too few units.
    """
    owner = owners(examples)
    n_units = int(owner.max(initial=-1)) + 1
    if n_units < batch_size:
        raise AuditError(f"{n_units} units; a batch takes {batch_size}")
    training = replace(training, sampling=1.0)  # what a sum tells of those who are in it
    open_training = replace(training, clip_norm=None)
    found = []
    for _ in range(n_batches):
        batch = examples.take(np.flatnonzero(np.isin(owner, rng.permutation(n_units)[:batch_size])))
        raw = _attack(batch, n_classes=n_classes, training=open_training, release=None)
        noised = _attack(batch, n_classes=n_classes, training=training, release=release)
        directions = rng.normal(size=(n_classes, batch.features.shape[1]))
        found.append((raw, noised, float(best_cosines(directions, batch.features).mean())))
    raw, noised, chance = np.mean(found, axis=0)
    return Inversion(batch_size, n_batches, raw=float(raw), released=float(noised), chance=float(chance))


def _attack(batch: Examples, *, n_classes: int, training: Training, release: Release | None) -> float:
    members = np.ones((1, int(owners(batch).max()) + 1), np.bool_)
    heads = train_heads(batch, members, n_classes=n_classes, training=training, release=release)
    return float(best_cosines(reconstruct(heads.weight[0], heads.bias[0]), batch.features).mean())


def reconstruct(weight_change: NDArray[np.floating], bias_change: NDArray[np.floating]) -> Reals:
    """Feature vectors behind an update, one for each class whose bias changed.

    Args:
        weight_change: (n_classes, d), of a gradient or of weights after any number of steps.
        bias_change: (n_classes,).

    Returns:
        (at most n_classes, d); exact when one record is behind the update.
    """
    moved = bias_change != 0
    return np.asarray(weight_change[moved] / bias_change[moved, np.newaxis].astype(np.float64))


def best_cosines(reconstructed: NDArray[np.floating], records: NDArray[np.floating]) -> Reals:
    """(n,), for each of (n, d) records its best cosine with any of (k, d) reconstructions; 0 if k is 0."""
    if not len(reconstructed):
        return np.zeros(len(records))
    return np.asarray((_directions(records) @ _directions(reconstructed).T).max(axis=1))


def _directions(vectors: NDArray[np.floating]) -> Reals:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float64).tiny))
