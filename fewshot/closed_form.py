"""Heads of many episodes at once, in closed form: linear, with the temperature folded in.

Both functions take support features of E episodes that share one label vector, and return
heads whose softmax is the predicted probability, so an episode is scored by one product.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.special import log_softmax

from fewshot.calibration import TEMPERATURES, Floats, Integers, smoothed_nll
from foedus.study import Method

PENALTIES: Floats = np.logspace(-1, 1, 5)
"""Grid of ridge penalties, relative to the mean squared norm of the centred support."""
RIDGE_FEWEST_FOR_LOO = 3
"""Cases of every class the ridge's leave-one-out needs. With one the class would vanish; with two
it compares one case against two and is 10-24 points underconfident where the fallback is off by
0-12 (docs/fewshot.md)."""
RIDGE_FALLBACK = (1.0, 16.0)
"""Penalty and temperature with fewer cases than that in some class."""
PROTOTYPE_FEWEST_FOR_LOO = 2
"""Cases of every class that the prototypes' leave-one-out needs; it corrects for the case missing."""
PROTOTYPE_FALLBACK = 10.0
"""Temperature with fewer cases, over the mean squared distance between prototypes."""
_FLOOR = 1e-9


@dataclass(frozen=True)
class Heads:
    """Linear heads of E episodes.

    Attributes:
        weight: (E, n_classes, d), float64.
        bias: (E, n_classes), float64.
        temperature: (E,), already multiplied into weight and bias.
        penalty: (E,), the relative ridge penalty; 0 for prototypes.
    """

    weight: Floats
    bias: Floats
    temperature: Floats
    penalty: Floats

    def scores(self, query: Floats) -> Floats:
        """(E, q, n_classes), logits of query features (E, q, d)."""
        return np.asarray(query @ self.weight.transpose(0, 2, 1) + self.bias[:, None])

    def log_probabilities(self, query: Floats) -> Floats:
        """(E, q, n_classes), rows log-sum to 0."""
        return np.asarray(log_softmax(self.scores(query), axis=-1))


def fit_prototypes(support: Floats, labels: Integers, *, temperature: float | None = None) -> Heads:
    """Prototype heads: scores -t‖x - μ‖², up to a term that all classes share.

    The temperature maximises the smoothed leave-one-out likelihood of the support. The distance
    to a prototype without the example is (n/(n-1))² times the distance to the one with it and
    (1 + 1/(n-1)) σ² in the mean; a query's is (1 + 1/n) σ². So the own distance is multiplied by
    (n+1)/(n-1), the factor that makes it what a query would see.

    Args:
        support: (E, n, d).
        labels: (n,), every value in 0..n_classes-1 present.
        temperature: Multiplier of the squared distance; chosen when None.
    """
    count = np.bincount(labels)
    one_hot = np.eye(len(count))[labels]
    centres = (one_hot / count).T @ support
    norms = (centres**2).sum(-1)
    if temperature is None:
        chosen = _prototype_temperatures(support, labels, centres, count)
    else:
        chosen = np.full(len(support), float(temperature))
    weight = 2 * chosen[:, None, None] * centres
    return Heads(weight, -chosen[:, None] * norms, chosen, np.zeros(len(support)))


def squared_distances(x: Floats, centres: Floats) -> Floats:
    """(..., n, m), squared Euclidean distance of (..., n, d) to (..., m, d), not below 0."""
    cross = x @ np.swapaxes(centres, -1, -2)
    squares = (x**2).sum(-1)[..., :, None] + (centres**2).sum(-1)[..., None, :]
    return np.asarray(np.maximum(squares - 2 * cross, 0))


def _prototype_temperatures(support: Floats, labels: Integers, centres: Floats, count: Integers) -> Floats:
    between = squared_distances(centres, centres)
    n_pairs = max(len(count) * (len(count) - 1), 1)
    unit = np.maximum(between.sum((-1, -2)) / n_pairs, _FLOOR)
    if count.min() < PROTOTYPE_FEWEST_FOR_LOO:
        return np.asarray(PROTOTYPE_FALLBACK / unit)
    distances = squared_distances(support, centres)
    factor = (count + 1) / (count - 1)
    distances[:, np.arange(len(labels)), labels] *= factor[labels]
    grid = TEMPERATURES / unit[:, None]
    nll = smoothed_nll(-grid[:, :, None, None] * distances[:, None], labels)
    return np.asarray(grid[np.arange(len(support)), nll.argmin(-1)])


def fit_ridge(
    support: Floats, labels: Integers, *, penalty: float | None = None, temperature: float | None = None
) -> Heads:
    """Ridge heads on one-hot targets with an unpenalised intercept.

    Penalty and temperature maximise the smoothed leave-one-out likelihood, computed exactly from
    one eigendecomposition by PRESS: the score of example i without i is
    y_i - (y_i - ŷ_i) / (1 - h_ii) with h_ii = 1/n + Σ_k u_ik² s_k / (s_k + λ), where 1/n is the
    intercept's share. With fewer than three cases in some class, `RIDGE_FALLBACK`.

    Args:
        support: (E, n, d).
        labels: (n,), every value in 0..n_classes-1 present.
        penalty: Relative to the mean squared norm of the centred support; chosen when None.
        temperature: Multiplier of the scores; chosen when None.
    """
    n_examples = len(labels)
    targets = np.eye(int(labels.max()) + 1)[labels]
    prior = targets.mean(0)
    mean = support.mean(1)
    x = support - mean[:, None]
    vectors, values = _spectrum(x)
    unit = np.maximum(values.sum(-1) / n_examples, _FLOOR)
    projected = vectors.transpose(0, 2, 1) @ (targets - prior)

    usable = np.bincount(labels).min() >= RIDGE_FEWEST_FOR_LOO
    penalties = _grid(penalty, PENALTIES if usable else np.array([RIDGE_FALLBACK[0]]))
    temperatures = _grid(temperature, TEMPERATURES if usable else np.array([RIDGE_FALLBACK[1]]))
    best = np.zeros(len(support), np.int64)
    if len(penalties) * len(temperatures) > 1:
        kept = values[:, None] / (values[:, None] + penalties[:, None] * unit[:, None, None])
        fitted = (vectors[:, None] * kept[:, :, None]) @ projected[:, None] + prior
        leverage = 1 / n_examples + kept @ (vectors**2).transpose(0, 2, 1)
        left_out = targets - (targets - fitted) / np.maximum(1 - leverage, _FLOOR)[..., None]
        nll = smoothed_nll(left_out[:, :, None] * temperatures[:, None, None], labels)
        best = nll.reshape(len(support), -1).argmin(-1)
    at_penalty, at_temperature = np.divmod(best, len(temperatures))
    chosen, heat = penalties[at_penalty], temperatures[at_temperature]

    dual = vectors @ (projected / (values + (chosen * unit)[:, None])[..., None])
    weight = dual.transpose(0, 2, 1) @ x
    bias = prior - (weight @ mean[..., None])[..., 0]
    return Heads(heat[:, None, None] * weight, heat[:, None] * bias, heat, chosen)


def _grid(value: float | None, choices: Floats) -> Floats:
    return choices if value is None else np.array([float(value)])


def _spectrum(x: Floats) -> tuple[Floats, Floats]:
    """Left singular vectors (E, n, r) and squared singular values (E, r) of (E, n, d).

    From the n x n kernel when n <= d (few-shot), from the d x d Gram matrix otherwise.
    """
    n_examples, dim = x.shape[1:]
    if n_examples <= dim:
        values, vectors = np.linalg.eigh(x @ x.transpose(0, 2, 1))
        return vectors, np.maximum(values, 0)
    values, right = np.linalg.eigh(x.transpose(0, 2, 1) @ x)
    present = values > 1e-12 * np.maximum(values.max(-1, keepdims=True), _FLOOR)
    roots = np.sqrt(np.where(present, values, 1))
    vectors = np.where(present[:, None], x @ right / roots[:, None], 0)
    return vectors, np.where(present, values, 0)


class Fit(Protocol):
    """Heads of E episodes from support (E, n, d) and shared labels (n,)."""

    def __call__(self, support: Floats, labels: Integers, /) -> Heads: ...


FITS: dict[Method, Fit] = {"prototypical": fit_prototypes, "ridge": fit_ridge}
"""The study's methods."""
