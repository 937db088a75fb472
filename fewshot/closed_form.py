"""Heads of many episodes at once, in closed form: linear, with the temperature folded in.

Both functions take support features of E episodes that share one label vector, and return
heads whose softmax is the predicted probability, so an episode is scored by one product.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from scipy.special import log_softmax

from fewshot.calibration import TEMPERATURES, Floats, Integers, smoothed_nll

PENALTIES: Floats = np.logspace(-1, 1, 5)
"""Grid of ridge penalties, relative to the mean squared norm of the centred support."""
RIDGE_FEWEST_FOR_LOO = 3
"""Cases of every class the ridge's leave-one-out needs. With one the class would vanish; with two
it compares one case against two and is 10-24 points underconfident where the fallback is off by
0-12 (docs/fewshot.md)."""
RIDGE_FALLBACK = (1.0, 16.0)
"""Penalty and temperature with fewer cases than that in some class."""
PRIOR_STRENGTHS: Floats = np.array([0.0, 0.25, 0.5, 1.0])
"""Grid of how far a head goes towards the weights it is shrunk to; 1 makes their scores as large as the targets."""
PRIOR_FALLBACK = 0.35
"""The same with fewer cases than leave-one-out needs."""
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
        by_class = self.weight @ query.transpose(0, 2, 1)  # small matrix first: a fifth faster
        return np.asarray(by_class.transpose(0, 2, 1) + self.bias[:, None])

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
        support: (E, n, d); what is computed has its precision.
        labels: (n,), every value in 0..n_classes-1 present.
        temperature: Multiplier of the squared distance; chosen when None.
    """
    count = np.bincount(labels)
    share = (np.eye(len(count)) / count)[labels].astype(support.dtype)
    centres = share.T @ support
    if temperature is None:
        chosen = _prototype_temperatures(support, labels, centres, count).astype(support.dtype)
    else:
        chosen = np.full(len(support), temperature, support.dtype)
    return prototype_heads(centres, chosen)


def prototype_heads(centres: Floats, temperature: Floats) -> Heads:
    """The linear heads of prototypes (E, n_classes, d) at temperatures (E,)."""
    weight = 2 * temperature[:, None, None] * centres
    bias = -temperature[:, None] * (centres**2).sum(-1)
    return Heads(weight, bias, temperature, np.zeros(len(centres)))


def squared_distances(x: Floats, centres: Floats) -> Floats:
    """(..., n, m), squared Euclidean distance of (..., n, d) to (..., m, d), not below 0."""
    cross = x @ np.swapaxes(centres, -1, -2)
    squares = (x**2).sum(-1)[..., :, None] + (centres**2).sum(-1)[..., None, :]
    return np.asarray(np.maximum(squares - 2 * cross, 0))


def prototype_temperatures(centres: Floats, count: Integers) -> Floats:
    """(E, n_temperatures), what heads of prototypes (E, n_classes, d) choose from; one if a class has one case."""
    if count.min() < PROTOTYPE_FEWEST_FOR_LOO:
        return prototype_fallback(centres)
    return np.asarray(TEMPERATURES / _between(centres))


def prototype_fallback(centres: Floats) -> Floats:
    """(E, 1), the fixed temperature of prototypes (E, n_classes, d)."""
    return np.asarray(PROTOTYPE_FALLBACK / _between(centres))


def _between(centres: Floats) -> Floats:
    """(E, 1), mean squared distance of two prototypes."""
    squares = squared_distances(centres, centres).sum((-1, -2))
    n_pairs = max(centres.shape[1] * (centres.shape[1] - 1), 1)
    return np.asarray(np.maximum(squares / n_pairs, _FLOOR)[:, None])


def left_out_distances(support: Floats, labels: Integers, centres: Floats, count: Integers) -> Floats:
    """(..., n, n_classes), squared distances of support cases (..., n, d), the own one as a query would see it."""
    distances = squared_distances(support, centres)
    factor = (count + 1) / np.maximum(count - 1, 1)
    distances[..., np.arange(len(labels)), labels] *= factor[labels]
    return distances


def _prototype_temperatures(support: Floats, labels: Integers, centres: Floats, count: Integers) -> Floats:
    grid = prototype_temperatures(centres, count)
    if grid.shape[1] == 1:
        return grid[:, 0]
    distances = left_out_distances(support, labels, centres, count)
    nll = smoothed_nll(-grid[:, :, None, None] * distances[:, None], labels)
    return np.asarray(grid[np.arange(len(support)), nll.argmin(-1)])


def fit_ridge(
    support: Floats,
    labels: Integers,
    *,
    penalty: float | None = None,
    temperature: float | None = None,
    towards: Floats | None = None,
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
        towards: (E, n_classes, d), weights to shrink towards instead of 0, such as features of the
            texts that name the classes. Their scale does not matter: it is chosen with the rest
            (`PRIOR_STRENGTHS`), and 0 is among the choices.
    """
    ridge = _Ridge(support, labels)
    count = np.bincount(labels)
    penalties, temperatures = ridge_choices(count, penalty, temperature)
    if towards is None:
        start = np.zeros((1, 1, *ridge.shape))
    else:
        few = count.min() < RIDGE_FEWEST_FOR_LOO
        strengths = np.array([PRIOR_FALLBACK]) if few else PRIOR_STRENGTHS
        start = strengths[:, None, None, None] * ridge.scaled(towards)
    best = np.zeros(len(support), np.int64)
    if len(start) * len(penalties) * len(temperatures) > 1:
        left_out = np.stack([ridge.left_out(penalties, weight) for weight in start], axis=1)
        nll = smoothed_nll(left_out[:, :, :, None] * temperatures[:, None, None], labels)
        best = nll.reshape(len(support), -1).argmin(-1)
    at_start, rest = np.divmod(best, len(penalties) * len(temperatures))
    at_penalty, at_temperature = np.divmod(rest, len(temperatures))
    chosen, heat = penalties[at_penalty], temperatures[at_temperature]
    began = start[at_start, np.arange(len(support)) if towards is not None else 0]
    weight, bias = ridge.solve(chosen, began)
    return Heads(heat[:, None, None] * weight, heat[:, None] * bias, heat, chosen)


def left_out_ridge(support: Floats, labels: Integers, heads: Heads) -> Floats:
    """(n, n_classes), the score of each case ((n, d)) without it, by the ridge of a batch of one fitted on all."""
    ridge = _Ridge(support[None], labels)
    fitted = heads.scores(support[None])[0] / heads.temperature[0]
    room = np.maximum(1 - ridge.leverage(heads.penalty)[0, 0], _FLOOR)[:, None]
    return np.asarray(ridge.targets - (ridge.targets - fitted) / room)


class _Ridge:
    """Ridge regression of E episodes on one-hot labels, at any penalty and from any start."""

    def __init__(self, support: Floats, labels: Integers) -> None:
        self.targets = np.eye(int(labels.max()) + 1)[labels]
        self.prior = self.targets.mean(0)
        self.mean = support.mean(1)
        self.x = support - self.mean[:, None]
        self.unit = np.maximum((self.x**2).sum((1, 2)) / len(labels), _FLOOR)

    @cached_property
    def spectrum(self) -> tuple[Floats, Floats]:
        """Left singular vectors and squared singular values of the centred support: only a choice needs them."""
        return _spectrum(self.x)

    @property
    def vectors(self) -> Floats:
        """(E, n, r)."""
        return self.spectrum[0]

    @property
    def values(self) -> Floats:
        """(E, r)."""
        return self.spectrum[1]

    @property
    def shape(self) -> tuple[int, int]:
        """Of an episode's weights: (n_classes, d)."""
        return len(self.prior), self.x.shape[2]

    def scaled(self, weight: Floats) -> Floats:
        """The weights (E, n_classes, d), with scores on the support as large as the centred targets."""
        centred = weight - weight.mean(1, keepdims=True)
        scores = self.x @ centred.transpose(0, 2, 1)
        size = np.sqrt((scores**2).mean((1, 2)))
        aim = float(np.sqrt(((self.targets - self.prior) ** 2).mean()))
        return np.asarray(centred * (aim / np.maximum(size, _FLOOR))[:, None, None])

    def left_out(self, penalties: Floats, start: Floats) -> Floats:
        """(E, n_penalties, n, n_classes), the score of each example by the ridge without it."""
        begun = self.x @ start.transpose(0, 2, 1)
        projected = self.vectors.transpose(0, 2, 1) @ (self.targets - self.prior - begun)
        kept = self._kept(penalties)
        fitted = (self.vectors[:, None] * kept[:, :, None]) @ projected[:, None] + self.prior + begun[:, None]
        room = np.maximum(1 - self.leverage(penalties), _FLOOR)[..., None]
        return np.asarray(self.targets - (self.targets - fitted) / room)

    def leverage(self, penalties: Floats) -> Floats:
        """(E, n_penalties, n), the weight of each example in its own score."""
        squares = (self.vectors**2).transpose(0, 2, 1)
        return np.asarray(1 / len(self.targets) + self._kept(penalties) @ squares)

    def _kept(self, penalties: Floats) -> Floats:
        values = self.values[:, None]
        return np.asarray(values / (values + penalties[:, None] * self.unit[:, None, None]))

    def solve(self, penalty: Floats, start: Floats) -> tuple[Floats, Floats]:
        """Weights (E, n_classes, d) and biases (E, n_classes) at each episode's penalty (E,)."""
        begun = self.x @ start.transpose(0, 2, 1)
        dual = self._dual(self.targets - self.prior - begun, penalty * self.unit)
        weight = start + dual.transpose(0, 2, 1) @ self.x
        return weight, self.prior - (weight @ self.mean[..., None])[..., 0]

    def _dual(self, residual: Floats, penalty: Floats) -> Floats:
        """(E, n, n_classes), (X Xᵀ + penalty)⁻¹ residual, or what of it X does not annihilate."""
        n_examples, dim = self.x.shape[1:]
        if n_examples <= dim and "spectrum" not in self.__dict__:
            kernel = self.x @ self.x.transpose(0, 2, 1)
            kernel += penalty[:, None, None] * np.eye(n_examples)
            return np.linalg.solve(kernel, np.broadcast_to(residual, (len(kernel), *residual.shape[-2:])))
        projected = self.vectors.transpose(0, 2, 1) @ residual
        return np.asarray(self.vectors @ (projected / (self.values + penalty[:, None])[..., None]))


def ridge_choices(count: Integers, penalty: float | None, temperature: float | None) -> tuple[Floats, Floats]:
    """Penalties and temperatures that ridge heads choose from, given the cases of each class; those given stay."""
    usable = count.min() >= RIDGE_FEWEST_FOR_LOO
    penalties = PENALTIES if usable else np.array([RIDGE_FALLBACK[0]])
    temperatures = TEMPERATURES if usable else np.array([RIDGE_FALLBACK[1]])
    return (
        penalties if penalty is None else np.array([float(penalty)]),
        temperatures if temperature is None else np.array([float(temperature)]),
    )


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
