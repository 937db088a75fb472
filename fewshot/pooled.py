"""The ridge head of `fewshot.closed_form` from pooled sums, leave-one-out included: no case is needed but its own."""

from functools import cached_property

import numpy as np

from fewshot.calibration import Floats, Integers
from fewshot.closed_form import Heads
from fewshot.ridge import RidgeTotals

_FLOOR = 1e-9


class PooledRidge:
    """Ridge regression on one-hot labels of all cases behind the sums, at any penalty."""

    def __init__(self, totals: RidgeTotals) -> None:
        self.totals = totals
        self.prior = totals.class_count / totals.n
        self.scatter = totals.scatter()
        self.unit = max(float(np.trace(self.scatter)) / totals.n, _FLOOR)

    def heads(self, penalty: float, temperature: float) -> Heads:
        """The head at a penalty relative to the mean squared norm of the centred cases, as a batch of one."""
        weight, bias = self.totals.solve(penalty * self.unit / self.totals.n)
        heat = np.array([temperature])
        return Heads(temperature * weight[None], temperature * bias[None], heat, np.array([penalty]))

    def left_out(self, penalties: Floats, features: Floats, labels: Integers) -> Floats:
        """(n_penalties, n, n_classes), the score of each case ((n, d), in the sums) by the ridge without it.

        PRESS, as in `fit_ridge`, with the leverage h = 1/n + zᵀ (S + λI)⁻¹ z of the centred case z.
        """
        values, vectors = self._spectrum
        targets = np.eye(len(self.prior))[labels]
        turned = (features - self.totals.mean) @ vectors
        count, mean = self.totals.class_count, self.totals.mean
        cross = vectors.T @ (self.totals.xty[:-1] - np.outer(mean, count))
        found = []
        for penalty in penalties:
            shrunk = turned / (values + penalty * self.unit)
            fitted = self.prior + shrunk @ cross
            leverage = 1 / self.totals.n + (shrunk * turned).sum(1)
            room = np.maximum(1 - leverage, _FLOOR)[:, None]
            found.append(targets - (targets - fitted) / room)
        return np.stack(found)

    @cached_property
    def _spectrum(self) -> tuple[Floats, Floats]:
        values, vectors = np.linalg.eigh((self.scatter + self.scatter.T) / 2)
        return np.maximum(values, 0), vectors
