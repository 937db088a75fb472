"""Many linear heads trained as one batch: full-batch gradient descent, clipped and noised as a site would.

The gradient of one record's cross-entropy is r x' with r = probabilities - one-hot and x the
features with a one appended, so its norm is |r| |x| and clipping has a closed form.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from foedus.attacks.release import Release, released
from foedus.errors import AuditError
from foedus.examples import Examples


@dataclass(frozen=True)
class Training:
    """How a head is trained from zero.

    Attributes:
        rounds: Sums released.
        lr: Step on the mean gradient of the records expected.
        clip_norm: The most one record may contribute to a sum, L2; None leaves gradients as they are.
    """

    rounds: int
    lr: float
    clip_norm: float | None = None


@dataclass(frozen=True)
class Heads:
    """Attributes:
    weight: (n_heads, n_classes, d), float32.
    bias: (n_heads, n_classes), float32.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def confidences(self, examples: Examples) -> NDArray[np.float64]:
        """(n_heads, n), log(p / (1 - p)) of the true class (Carlini et al. 2022, section V-A)."""
        n_heads, n_classes, dim = self.weight.shape
        scores = examples.features @ self.weight.reshape(-1, dim).T
        scores = scores.reshape(len(examples), n_heads, n_classes) + self.bias
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
) -> Heads:
    """One head for each row of `members`, trained on the records it marks.

    Args:
        examples: n records.
        members: (n_heads, n).
        n_classes: Labels are 0..n_classes-1.
        training: Rounds, rate, clipping.
        release: Every round's sums go through it, all heads' in one vector; None releases them as they are.

    Raises:
        AuditError: If a release is malformed, or sums are to be released without a clipping norm.
    """
    if release is not None and training.clip_norm is None:
        raise AuditError("sums are released with noise but records are not clipped; give a clip_norm")
    n, n_heads = len(examples), len(members)
    inputs = np.column_stack([examples.features, np.ones(n, np.float32)])
    lengths = np.linalg.norm(inputs, axis=1, keepdims=True)
    weight = np.zeros((n_heads * n_classes, inputs.shape[1]), np.float32)
    chosen = members.T.astype(np.float32)
    rate = np.float32(training.lr / max(1.0, float(members.sum(axis=1).mean())))
    for _ in range(training.rounds):
        residuals = _residuals((inputs @ weight.T).reshape(n, n_heads, n_classes), examples.labels)
        residuals *= (chosen * _clipping(residuals, lengths, training.clip_norm))[:, :, np.newaxis]
        total: NDArray[np.floating] = residuals.reshape(n, -1).T @ inputs
        if release is not None:
            total = released(release, total.astype(np.float64).ravel()).reshape(weight.shape)
        weight -= rate * total.astype(np.float32)
    weight = weight.reshape(n_heads, n_classes, -1)
    return Heads(weight[:, :, :-1], weight[:, :, -1])


def _residuals(scores: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Softmax probabilities minus one-hot labels over the last axis, in place."""
    scores -= scores.max(axis=2, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=2, keepdims=True)
    scores[np.arange(len(labels)), :, labels] -= 1
    return scores


def _clipping(
    residuals: NDArray[np.float32], lengths: NDArray[np.float32], clip_norm: float | None
) -> NDArray[np.float32]:
    """(n, n_heads), at most 1: what shortens every gradient to the clipping norm."""
    if clip_norm is None:
        return np.ones(residuals.shape[:2], np.float32)
    norms = lengths * np.sqrt(np.einsum("nhk,nhk->nh", residuals, residuals))
    return np.asarray(np.minimum(1, clip_norm / np.maximum(norms, 1e-12)), np.float32)
