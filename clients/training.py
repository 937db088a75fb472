"""Local training of a linear head on frozen features: gradient rounds, and a head of the site's own."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from foedus.examples import Examples
from foedus.head import LinearHead

STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0)
"""Penalties tried for a head of the site's own; in units of one example's log-loss."""
BIAS_STRENGTH = 0.01
"""The bias follows the site's own class balance almost freely (label shift)."""
FOLDS = 5
Scores = NDArray[np.floating]


@dataclass(frozen=True)
class Descent:
    """How one round descends: the study's settings that reach a site."""

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float = 0.0
    proximal_mu: float = 0.0


def train(
    head: LinearHead,
    examples: Examples,
    descent: Descent,
    *,
    rng: np.random.Generator,
    centre: LinearHead | None = None,
    correction: LinearHead | None = None,
) -> tuple[LinearHead, float]:
    """Stochastic gradient descent on the mean cross-entropy.

    Args:
        head: Where to start.
        examples: n >= 1 standardised examples.
        descent: Epochs, batch size, rates.
        rng: Draws the order of the examples.
        centre: Of the proximal term (Li et al. 2020, FedProx, eq. 2); `head` when None.
        correction: Added to every gradient (Karimireddy et al. 2020, SCAFFOLD, eq. 3); nothing when None.

    Returns:
        The head after the last step, and the mean loss over all steps.
    """
    weight, bias = head.weight.copy(), head.bias.copy()
    middle = centre or head
    towards = correction or LinearHead.zeros(*weight.shape)
    lr, n = np.float32(descent.lr), len(examples)
    losses: list[float] = []
    for _ in range(descent.epochs):
        order = rng.permutation(n)
        for begin in range(0, n, descent.batch_size):
            rows = order[begin : begin + descent.batch_size]
            features, labels = examples.features[rows], examples.labels[rows]
            gradient, loss = _residuals(features @ weight.T + bias, labels)
            losses.append(loss)
            pull = (
                descent.weight_decay * weight
                + descent.proximal_mu * (weight - middle.weight)
                + towards.weight
            )
            step_bias = gradient.mean(axis=0) + np.float32(descent.proximal_mu) * (bias - middle.bias)
            weight -= lr * (gradient.T @ features / np.float32(len(rows)) + pull).astype(np.float32)
            bias -= lr * (step_bias + towards.bias)
    return LinearHead(weight, bias), float(np.mean(losses))


def _residuals(scores: Scores, labels: NDArray[np.int64]) -> tuple[Scores, float]:
    """Softmax probabilities minus one-hot labels, in the scores' own type, and the mean loss."""
    rows = np.arange(len(labels))
    shifted = scores - scores.max(axis=1, keepdims=True)
    residuals = np.exp(shifted)
    total = residuals.sum(axis=1, keepdims=True)
    loss = float((np.log(total[:, 0]) - shifted[rows, labels]).mean())
    residuals /= total
    residuals[rows, labels] -= 1
    return residuals, loss


def own_head(examples: Examples, *, prior: LinearHead, rng: np.random.Generator) -> LinearHead:
    """The site's own head: maximum a posteriori with a Gaussian prior centred on `prior`.

    The strength of the prior is chosen by cross-validated log-loss over the site's own
    examples: a site with many examples moves far from the shared head, one with few stays
    near it. With a zero prior this is penalised logistic regression on local data alone.

    Args:
        examples: The site's training and validation examples, standardised.
        prior: The shared head (personal head) or zeros (local head).
        rng: Draws the folds.
    """
    folds = rng.permutation(len(examples)) % min(FOLDS, len(examples))
    losses = [
        sum(_held_out_loss(examples, folds, f, prior, s) for f in set(folds.tolist())) for s in STRENGTHS
    ]
    return _maximum_a_posteriori(examples, prior, STRENGTHS[int(np.argmin(losses))])


def _held_out_loss(
    examples: Examples, folds: NDArray[np.int64], fold: int, prior: LinearHead, strength: float
) -> float:
    inside, outside = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
    if not len(inside):
        return 0.0
    head = _maximum_a_posteriori(examples.take(inside), prior, strength)
    held_out = examples.take(outside)
    return float(-head.log_probabilities(held_out.features)[np.arange(len(outside)), held_out.labels].sum())


def _maximum_a_posteriori(examples: Examples, prior: LinearHead, strength: float) -> LinearHead:
    """argmin of summed cross-entropy + strength/2 (|W - W0|^2 + BIAS_STRENGTH |b - b0|^2)."""
    shape = prior.weight.shape
    features = np.column_stack([examples.features, np.ones(len(examples), np.float32)]).astype(np.float64)
    centre = np.column_stack([prior.weight, prior.bias]).astype(np.float64)
    penalty = np.full(centre.shape, strength)
    penalty[:, -1] *= BIAS_STRENGTH

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weight = flat.reshape(centre.shape)
        residuals, loss = _residuals(features @ weight.T, examples.labels)
        away = weight - centre
        gradient = residuals.T @ features + penalty * away
        return len(examples) * loss + float(0.5 * (penalty * away**2).sum()), gradient.ravel()

    found = minimize(objective, centre.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 200})
    best = found.x.reshape(shape[0], shape[1] + 1).astype(np.float32)
    return LinearHead(best[:, :-1].copy(), best[:, -1].copy())
