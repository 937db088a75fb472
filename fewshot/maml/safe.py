"""Heads adapted by gradient steps, how many by leave-one-out: never worse there than where they start.

Gradient descent on the cross-entropy moves a linear head by combinations of support examples only, so
the steps are iterated on their coefficients: A += rate (Y - softmax(S + K A)), where S are the scores of
the start and K is the kernel of the centred support plus a constant for the intercept. Every fold of the
leave-one-out runs beside the fit itself, as one more column of coefficients.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import softmax

from fewshot.calibration import Floats, Integers, smoothed_nll
from fewshot.closed_form import Heads, fit_prototypes
from foedus.errors import FewShotError

Start = Literal["prototype", "zero"] | tuple[Floats, Floats]
"""Prototypes of the support (Proto-MAML), zeros, or weight (n_classes, d) and bias (n_classes,); with an axis of
episodes before them where episodes start differently."""
STEPS: Integers = np.array([0, 1, 2, 4, 8, 16, 32])
"""Numbers of steps that are compared."""
MULTIPLIERS: Floats = np.logspace(-0.8, 2, 15)
"""Grid of multipliers of the scores, over the start's; 1 is among them."""
SOFTNESS = float(10**-0.4)
"""What prototype scores are multiplied by while the steps are taken. Confident scores leave little to
descend: at 5 shots 1 gains half of what .4 does, and .16 and .06 no more (digits, MNIST-5k)."""
INNER_LR = 3.0
"""Length of a step over the inverse of the kernel's largest eigenvalue; 4 is where descent may diverge."""
FEWEST_FOR_LOO = 3
"""Cases of every class that leave-one-out needs to say something about the number of steps."""
FALLBACK_STEPS = 4
"""Steps with fewer cases, from a start that knows nothing of the support; prototypes then stay."""
MOST_FOLDS = 40
"""With more cases than this they are left out in groups."""
_FLOOR = 1e-9


@dataclass(frozen=True)
class SteppedHeads(Heads):
    """Linear heads of E episodes, and the steps (E,) each has taken."""

    steps: Integers


def fit_maml(
    support: Floats,
    labels: Integers,
    *,
    start: Start = "prototype",
    n_steps: int | None = None,
    inner_lr: float = INNER_LR,
    temperature: float | None = None,
) -> SteppedHeads:
    """Heads after gradient steps on the support's cross-entropy.

    Steps and temperature maximise the smoothed leave-one-out likelihood (Proto-MAML: Triantafillou et
    al. 2020, with early stopping); no step at all is among the choices. A left-out case's distance to its
    own prototype is corrected for the case missing, as `fit_prototypes` does.

    Args:
        support: (E, n, d).
        labels: (n,), every value in 0..n_classes-1 present.
        start: Where the steps begin.
        n_steps: How many; chosen when None.
        inner_lr: Length of a step over the inverse of the kernel's largest eigenvalue, up to 4.
        temperature: Multiplier of the scores after the steps, over the start's; chosen when None.

    Raises:
        FewShotError: If the start does not fit the support, or n_steps or inner_lr is out of range.
    """
    if n_steps is not None and n_steps < 0:
        raise FewShotError(f"n_steps is {n_steps}, expected 0 or more")
    if not 0 < inner_lr <= 4:
        raise FewShotError(f"inner_lr is {inner_lr}, expected above 0 and at most 4")
    usable = int(np.bincount(labels).min()) >= FEWEST_FOR_LOO
    steps = _steps(start, n_steps, usable=usable)
    multipliers = np.ones(1) if not usable else MULTIPLIERS
    multipliers = multipliers if temperature is None else np.array([float(temperature)])
    choosing = len(steps) * len(multipliers) > 1
    descent = _Descent(support, labels, start, n_folds=_n_folds(labels) if choosing else 0)
    moves, held_out = descent.run(steps, inner_lr=inner_lr)
    best = np.zeros(len(support), np.int64)
    if choosing:
        heat = multipliers[:, None, None] / descent.unit
        nll = np.stack([smoothed_nll(scores[:, None] * heat, labels) for scores in held_out], axis=1)
        best = nll.reshape(len(support), -1).argmin(-1)
    at_steps, at_multiplier = np.divmod(best, len(multipliers))
    return descent.heads(
        moves[at_steps, np.arange(len(support))], steps[at_steps], multipliers[at_multiplier]
    )


def _steps(start: Start, n_steps: int | None, *, usable: bool) -> Integers:
    if n_steps is not None:
        return np.array([n_steps])
    if usable:
        return STEPS
    return np.array([0 if isinstance(start, str) and start == "prototype" else FALLBACK_STEPS])


def _n_folds(labels: Integers) -> int:
    """Every case by itself; larger groups, so fewer of them, the more cases there are."""
    return len(labels) if len(labels) <= MOST_FOLDS else max(5, MOST_FOLDS**2 // len(labels))


class _Descent:
    """Gradient descent of E episodes on all folds at once; the last fold leaves nothing out.

    Everything reads the support minus its mean, so where the origin of the features lies does not matter.
    """

    def __init__(self, support: Floats, labels: Integers, start: Start, *, n_folds: int) -> None:
        self.labels, self.targets = labels, np.eye(int(labels.max()) + 1)[labels]
        self.mean = support.mean(1)
        self.x = support - self.mean[:, None]
        self.fold = np.empty(len(labels), np.int64)
        self.fold[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % max(n_folds, 1)
        self.keep = np.ones((len(labels), n_folds + 1))
        if n_folds:
            self.keep[np.arange(len(labels)), self.fold] = 0
        turned = self.x.transpose(0, 2, 1)
        self.kernel = self.x @ turned if len(labels) <= support.shape[2] else None
        square = turned @ self.x if self.kernel is None else self.kernel
        self.largest = np.maximum(np.linalg.eigvalsh(square)[:, -1], _FLOOR)
        self.begin = self._begin(start)
        self.unit = 1.0  # what the scores here are, over the start's own
        self.scores = np.repeat(self.begin.scores(self.x)[:, :, None], self.keep.shape[1], axis=2)
        if isinstance(start, str) and start == "prototype":
            self.unit = SOFTNESS
            self.scores = self._prototype_scores()

    def _begin(self, start: Start) -> Heads:
        """Heads of the centred support, before the first step."""
        n_episodes, n_classes, dim = len(self.x), self.targets.shape[1], self.x.shape[2]
        none = np.zeros(n_episodes)
        if isinstance(start, str):
            if start == "prototype":
                heads = fit_prototypes(self.x, self.labels)
                return Heads(
                    SOFTNESS * heads.weight, SOFTNESS * heads.bias, SOFTNESS * heads.temperature, none
                )
            if start == "zero":
                return Heads(
                    np.zeros((n_episodes, n_classes, dim)), np.zeros((n_episodes, n_classes)), none, none
                )
            raise FewShotError(f"start is '{start}', expected 'prototype', 'zero', or weight and bias")
        weight, bias = (np.asarray(part, np.float64) for part in start)
        if weight.shape[-2:] != (n_classes, dim) or bias.shape != weight.shape[:-1]:
            raise FewShotError(
                f"the start has weight {weight.shape} and bias {bias.shape}, expected {(n_classes, dim)} and "
                f"{(n_classes,)}: a row for each class of the support"
            )
        every = np.broadcast_to(weight, (n_episodes, n_classes, dim))
        return Heads(every, (every @ self.mean[..., None])[..., 0] + bias, none, none)

    def _prototype_scores(self) -> Floats:
        """(E, n, folds, n_classes): each fold has the prototypes of its own cases, at one temperature."""
        count = self.targets.T @ self.keep
        share = self.targets[:, None] * (self.keep / count[self.labels])[:, :, None]
        centres = share.reshape(len(self.labels), -1).T @ self.x
        shape = (len(self.x), 1, *share.shape[1:])
        norms = (centres**2).sum(-1).reshape(shape)
        cross = (self.x @ centres.transpose(0, 2, 1)).reshape(len(self.x), *share.shape)
        heat = self.begin.temperature[:, None, None, None]
        scores = heat * (2 * cross - norms)
        rows = np.arange(len(self.labels))
        at = (slice(None), rows, self.fold, self.labels)
        distance = (self.x**2).sum(-1) - 2 * cross[at] + norms[:, 0, self.fold, self.labels]
        seen = count[self.labels, self.fold]
        excess = 1 - (1 + 1 / count[self.labels, -1]) / (1 + 1 / seen)
        scores[at] += heat[:, :, 0, 0] * distance * excess
        return np.asarray(scores)

    def run(self, steps: Integers, *, inner_lr: float) -> tuple[Floats, list[Floats]]:
        """Coefficients (len(steps), E, n, n_classes) after so many steps, and the left-out cases' scores then."""
        rate = (inner_lr / self.largest)[:, None, None, None]
        aim, keep = self.targets[:, None], self.keep[..., None]
        rows = np.arange(len(self.labels))
        moved = np.zeros_like(self.scores)
        moves, held_out = [], []
        for step in range(int(steps.max()) + 1):
            scores = self.scores + self._effect(moved)
            if step in steps:
                moves.append(moved[:, :, -1].copy())
                held_out.append(scores[:, rows, self.fold])
            if step < steps.max():
                moved += rate * keep * (aim - softmax(scores, axis=-1))
        return np.stack(moves), held_out

    def _effect(self, moved: Floats) -> Floats:
        """What coefficients (E, n, folds, n_classes) do to the scores: the kernel times them."""
        flat = moved.reshape(*moved.shape[:2], -1)
        wide = self.x @ (self.x.transpose(0, 2, 1) @ flat) if self.kernel is None else self.kernel @ flat
        return np.asarray((wide + self._intercept(flat)[:, None]).reshape(moved.shape))

    def _intercept(self, coefficients: Floats) -> Floats:
        """(E, m) of (E, n, m): the intercept moves as far as the features' strongest direction."""
        return np.asarray(coefficients.sum(1) * (self.largest / len(self.labels))[:, None])

    def heads(self, moved: Floats, steps: Integers, multiplier: Floats) -> SteppedHeads:
        """Heads of features as they came: start plus coefficients (E, n, n_classes), times the multiplier."""
        weight = self.begin.weight + moved.transpose(0, 2, 1) @ self.x
        bias = self.begin.bias + self._intercept(moved)
        bias = bias - (weight @ self.mean[..., None])[..., 0]
        heat = multiplier[:, None] / self.unit
        return SteppedHeads(heat[..., None] * weight, heat * bias, multiplier, np.zeros(len(steps)), steps)
