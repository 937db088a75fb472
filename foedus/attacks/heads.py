"""Many linear heads trained as one batch: full-batch gradient descent, clipped and noised as a site would.

The gradient of one record's cross-entropy is r x' with r = probabilities - one-hot and x the
features with a one appended, so its norm is |r| |x| and clipping has a closed form. That of a unit of
several records i is their sum, and its squared norm Σ_ij (r_i·r_j)(x_i·x_j).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logsumexp

from foedus.attacks.release import Release, released
from foedus.errors import AuditError
from foedus.examples import Examples
from foedus.labels import several


@dataclass(frozen=True)
class Training:
    """How a head is trained from zero.

    Attributes:
        rounds: Sums released.
        lr: Step on the mean gradient of the units expected.
        clip_norm: The most one unit may contribute to a sum, L2; None leaves gradients as they are.
        sampling: Chance of each unit to be in a sum, drawn for each anew.
    """

    rounds: int
    lr: float
    clip_norm: float | None = None
    sampling: float = 1.0


def owners(examples: Examples) -> NDArray[np.intp]:
    """(n,): number of the unit each record belongs to, from 0; its own where `units` is None."""
    if examples.units is None:
        return np.arange(len(examples))
    return np.unique(examples.units, return_inverse=True)[1]


@dataclass(frozen=True)
class Heads:
    """Attributes:
    weight: (n_heads, n_classes, d), float32.
    bias: (n_heads, n_classes), float32.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def confidences(self, examples: Examples) -> NDArray[np.float64]:
        """(n_heads, n), log(p / (1 - p)) of the true class, or set of labels (Carlini et al. 2022, section V-A)."""
        n_heads, n_classes, dim = self.weight.shape
        scores = examples.features @ self.weight.reshape(-1, dim).T
        scores = scores.reshape(len(examples), n_heads, n_classes) + self.bias
        if several(examples.labels):
            signs = 2.0 * examples.labels[:, np.newaxis] - 1
            logs = -np.logaddexp(0, -signs * scores).sum(axis=2)
            return np.asarray((logs - np.log(-np.expm1(np.minimum(logs, -1e-12)))).T)
        rows = np.arange(len(examples))
        true = scores[rows, :, examples.labels].astype(np.float64)
        scores[rows, :, examples.labels] = -np.inf
        return np.asarray((true - logsumexp(scores, axis=2)).T)


def train_heads(
    examples: Examples,
    members: NDArray[np.bool_],
    *,
    n_classes: int,
    training: Training,
    release: Release | None = None,
    rng: np.random.Generator | None = None,
) -> Heads:
    """One head for each row of `members`, trained on the units it marks.

    Args:
        examples: n records of m units, m = n where `units` is None.
        members: (n_heads, m), units in the order of `owners`.
        n_classes: Labels are 0..n_classes-1.
        training: Rounds, rate, clipping.
        release: Every round's sums go through it, all heads' in one vector; None releases them as they are.
        rng: Draws the units of each sum, where they are sampled.

    Raises:
        AuditError: If a release is malformed, or sums are to be released without a clipping norm.
    """
    if training.sampling < 1 and rng is None:
        raise AuditError("units are sampled; give a generator that draws them")
    if release is not None and training.clip_norm is None:
        raise AuditError("sums are released with noise but units are not clipped; give a clip_norm")
    n, n_heads = len(examples), len(members)
    inputs = np.column_stack([examples.features, np.ones(n, np.float32)])
    owner = owners(examples)
    lengths = _Lengths(inputs, owner)
    weight = np.zeros((n_heads * n_classes, inputs.shape[1]), np.float32)
    rate = np.float32(training.lr / max(1.0, training.sampling * float(members.sum(axis=1).mean())))
    for _ in range(training.rounds):
        residuals = _residuals((inputs @ weight.T).reshape(n, n_heads, n_classes), examples.labels)
        chosen = members.T.astype(np.float32)
        if rng is not None and training.sampling < 1:
            chosen *= rng.random(chosen.shape) < training.sampling
        if training.clip_norm is not None:
            chosen *= np.minimum(1, training.clip_norm / np.maximum(lengths.of(residuals), 1e-12))
        residuals *= chosen[owner, :, np.newaxis]
        total: NDArray[np.floating] = residuals.reshape(n, -1).T @ inputs
        if release is not None:
            total = released(release, total.astype(np.float64).ravel()).reshape(weight.shape)
        weight -= rate * total.astype(np.float32)
    weight = weight.reshape(n_heads, n_classes, -1)
    return Heads(weight[:, :, :-1], weight[:, :, -1])


def _residuals(scores: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Probabilities minus targets over the last axis, in place."""
    if several(labels):
        expit(scores, out=scores)
        scores -= labels[:, np.newaxis]
        return scores
    scores -= scores.max(axis=2, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=2, keepdims=True)
    scores[np.arange(len(labels)), :, labels] -= 1
    return scores


class _Lengths:
    """L2 norms of the units' gradients.

    Args:
        inputs: (n, d), the features and a one.
        owner: (n,), number of the unit of each record.
    """

    def __init__(self, inputs: NDArray[np.float32], owner: NDArray[np.intp]) -> None:
        self._owner, self._m = owner, int(owner.max()) + 1
        alone = self._m == len(owner)
        self._squares = np.square(inputs).sum(axis=1) if alone else None
        self._inner = (inputs @ inputs.T) * (owner[:, np.newaxis] == owner) if not alone else None

    def of(self, residuals: NDArray[np.float32]) -> NDArray[np.float32]:
        """(m, n_heads), for residuals (n, n_heads, n_classes)."""
        n, n_heads, _ = residuals.shape
        squared = np.zeros((self._m, n_heads), np.float32)
        if self._inner is None:
            each = np.einsum("nhk,nhk->nh", residuals, residuals)
            squared[self._owner] = each * np.asarray(self._squares)[:, np.newaxis]
        else:
            together = (self._inner @ residuals.reshape(n, -1)).reshape(residuals.shape)
            np.add.at(squared, self._owner, np.einsum("nhk,nhk->nh", together, residuals))
        return np.asarray(np.sqrt(np.maximum(squared, 0)), np.float32)
