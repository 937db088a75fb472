"""Local training of a linear head on frozen features: gradient rounds, and a head of the site's own."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.labels import cross_entropies, residuals

STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0)
"""Penalties tried for a head of the site's own; in units of one example's log-loss."""
BIAS_STRENGTH = 0.01
"""The bias follows the site's own class balance almost freely (label shift)."""
SHIFT_STRENGTH = 0.1
"""Keeps the bias of the shared head finite where a class is missing at the site."""
FOLDS = 5


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
        examples: n >= 1 standardised examples; each counts its importance, where it has one.
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
            importance = None if examples.importance is None else examples.importance[rows]
            gradient, lost = residuals(features @ weight.T + bias, labels, importance)
            losses.append(float(lost.mean()))
            pull = (
                descent.weight_decay * weight
                + descent.proximal_mu * (weight - middle.weight)
                + towards.weight
            )
            step_bias = gradient.mean(axis=0) + np.float32(descent.proximal_mu) * (bias - middle.bias)
            weight -= lr * (gradient.T @ features / np.float32(len(rows)) + pull).astype(np.float32)
            bias -= lr * (step_bias + towards.bias)
    return LinearHead(weight, bias), float(np.mean(losses))


def own_head(examples: Examples, *, prior: LinearHead, rng: np.random.Generator) -> LinearHead:
    """The site's own head: midway between what it would learn alone and `prior` with the site's own bias.

    Args:
        examples: The site's training and validation examples, standardised.
        prior: The shared head (personal head) or zeros (local head: what the site learns alone).
        rng: Draws the folds.
    """
    alone = head_alone(examples, zero=LinearHead.zeros(*prior.weight.shape), rng=rng)
    return midway(alone, prior, examples) if prior.weight.any() or prior.bias.any() else alone


def head_alone(examples: Examples, *, zero: LinearHead, rng: np.random.Generator) -> LinearHead:
    """Penalised logistic regression on the site's examples; the strength with the lowest cross-validated log-loss."""
    folds = rng.permutation(len(examples)) % min(FOLDS, len(examples))
    losses = [
        sum(_held_out_loss(examples, folds, f, zero, s) for f in set(folds.tolist())) for s in STRENGTHS
    ]
    return _maximum_a_posteriori(examples, zero, STRENGTHS[int(np.argmin(losses))])


def midway(alone: LinearHead, shared: LinearHead, examples: Examples) -> LinearHead:
    """Halfway between a head learnt alone and the shared one, of which only the bias is fitted to the examples.

    The bias follows the site's class balance, the rest stays as all sites learnt it. Folds could not say
    which of the two is better, as the shared head was trained on the held-out examples too; the log-loss is
    convex in the head, so midway it is at most the mean of the two (model interpolation: Mansour et al. 2020;
    Deng et al. 2020).
    """
    own, half = _with_own_bias(examples, shared), np.float32(0.5)
    return LinearHead(half * (alone.weight + own.weight), half * (alone.bias + own.bias))


def _with_own_bias(examples: Examples, shared: LinearHead) -> LinearHead:
    """argmin over b of summed cross-entropy + SHIFT_STRENGTH/2 |b - b0|^2; the weights stay."""
    scores = examples.features.astype(np.float64) @ shared.weight.astype(np.float64).T
    centre = shared.bias.astype(np.float64)

    def objective(bias: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        found, lost = residuals(scores + bias, examples.labels)
        away = bias - centre
        value = len(examples) * float(lost.mean()) + 0.5 * SHIFT_STRENGTH * float((away**2).sum())
        return value, found.sum(axis=0) + SHIFT_STRENGTH * away

    found = minimize(objective, centre, jac=True, method="L-BFGS-B", options={"maxiter": 200})
    return LinearHead(shared.weight, found.x.astype(np.float32))


def _held_out_loss(
    examples: Examples, folds: NDArray[np.int64], fold: int, prior: LinearHead, strength: float
) -> float:
    inside, outside = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
    if not len(inside):
        return 0.0
    head = _maximum_a_posteriori(examples.take(inside), prior, strength)
    held_out = examples.take(outside)
    return float(cross_entropies(head.scores(held_out.features), held_out.labels).sum())


def _maximum_a_posteriori(examples: Examples, prior: LinearHead, strength: float) -> LinearHead:
    """argmin of summed cross-entropy + strength/2 (|W - W0|^2 + BIAS_STRENGTH |b - b0|^2)."""
    shape = prior.weight.shape
    features = np.column_stack([examples.features, np.ones(len(examples), np.float32)]).astype(np.float64)
    centre = np.column_stack([prior.weight, prior.bias]).astype(np.float64)
    penalty = np.full(centre.shape, strength)
    penalty[:, -1] *= BIAS_STRENGTH

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weight = flat.reshape(centre.shape)
        found, lost = residuals(features @ weight.T, examples.labels)
        away = weight - centre
        gradient = found.T @ features + penalty * away
        return len(examples) * float(lost.mean()) + float(0.5 * (penalty * away**2).sum()), gradient.ravel()

    found = minimize(objective, centre.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 200})
    best = found.x.reshape(shape[0], shape[1] + 1).astype(np.float32)
    return LinearHead(best[:, :-1].copy(), best[:, -1].copy())
