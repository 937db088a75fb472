"""MAML's adaptation of one head as a scikit-learn estimator."""

import numpy as np
from numpy.typing import ArrayLike

from fewshot.calibration import Floats, Integers
from fewshot.closed_form import Heads
from fewshot.estimator import ClosedFormHead
from fewshot.maml.safe import INNER_LR, Start, SteppedHeads, fit_maml
from foedus.errors import FewShotError


class MAMLHead(ClosedFormHead):
    """A linear head after gradient steps from prototypes, zeros or a meta-learnt start.

    Args:
        start: "prototype" (Proto-MAML), "zero", or (weight (n_classes, d), bias (n_classes,)) as
            `fewshot.maml.train` learns them, in the order of `classes_`.
        n_steps: Gradient steps; chosen by leave-one-out when None, 0 among the choices.
        inner_lr: Length of a step over the inverse of the support kernel's largest eigenvalue, up to 4.
        temperature: Multiplier of the scores after the steps, over the start's; chosen when None.

    Attributes:
        n_steps_: Steps taken; 0 where leave-one-out found no better head than the start.

    With fewer than three cases in some class leave-one-out says too little: prototypes stay as they are,
    and other starts take `fewshot.maml.safe.FALLBACK_STEPS` steps.
    """

    def __init__(
        self,
        start: str | tuple[ArrayLike, ArrayLike] = "prototype",
        n_steps: int | None = None,
        inner_lr: float = INNER_LR,
        temperature: float | None = None,
    ) -> None:
        self.start = start
        self.n_steps = n_steps
        self.inner_lr = inner_lr
        self.temperature = temperature

    def fit_episodes(self, support: Floats, labels: Integers) -> Heads:
        """Adapted head of each episode."""
        return fit_maml(
            support,
            labels,
            start=_read(self.start),
            n_steps=self.n_steps,
            inner_lr=self.inner_lr,
            temperature=self.temperature,
        )

    def _become(self, heads: Heads) -> None:
        super()._become(heads)
        if isinstance(heads, SteppedHeads):
            self.n_steps_ = int(heads.steps[0])


def _read(start: str | tuple[ArrayLike, ArrayLike]) -> Start:
    if start == "prototype":
        return "prototype"
    if start == "zero":
        return "zero"
    if isinstance(start, str) or len(start) != 2:
        raise FewShotError(f"start is {start!r}, expected 'prototype', 'zero', or (weight, bias)")
    return np.asarray(start[0], np.float64), np.asarray(start[1], np.float64)
