"""Prediction sets with a guarantee from a support set alone: full conformal prediction with a ridge head.

A query joins the support as a case of each class in turn. Every case, the query included, is scored
by the ridge head fitted without it, and the class stays in the set unless nearly all support cases
fit theirs better (Vovk, Gammerman and Shafer 2005, algorithm 2.4). No case is set apart to calibrate.

With an unpenalised intercept the residual without case i is α_i / (M⁻¹)_ii, M = [[K + λI, 1], [1ᵀ, 0]]
and M [α; b] = [y; 0] (Cawley and Talbot 2004). A query adds a row and a column to M, so M⁻¹ changes by
one outer product that depends on its features alone: no class of no query is fitted from scratch.

The guarantee needs scores that treat the query like a support case, so nothing is chosen from the
support: rows lie on the unit sphere and the penalty is a constant.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewshot.calibration import Floats, Integers
from foedus.errors import FewShotError

PENALTY = 0.3
"""Of .1, .3, 1 and 3 the smallest sets, or within .02 classes of them, in docs/fewshot.md; no coverage rests on it."""
_TIE = 1e-9
_BATCH_FLOATS = 2**22
"""About how many numbers a batch of queries may hold: 32 MiB."""


@dataclass(frozen=True)
class ConformalSets:
    """Sets of classes for queries that come from where the support cases came from.

    Attributes:
        support: (n, d), features on the unit sphere.
        labels: (n,), every value in 0..n_classes-1 present.
    """

    support: Floats
    labels: Integers

    @classmethod
    def of(cls, support: NDArray[np.floating], labels: Integers) -> "ConformalSets":
        """From features of any length; (n, d) and (n,)."""
        return cls(unit_rows(support), labels)

    def p_values(self, query: NDArray[np.floating], *, per_class: bool = False) -> Floats:
        """How well each class fits each query, among the support cases.

        Args:
            query: (q, d).
            per_class: Compare with the cases of that class alone, so that each class by itself is covered.

        Returns:
            (q, n_classes), multiples of 1/(n+1), or of 1/(n_c+1) per class. The true class has p ≤ alpha
            with probability alpha at most.
        """
        system = self._system()
        rows = unit_rows(query)
        size = max(1, _BATCH_FLOATS // (len(self.labels) * self._one_hot.shape[1] ** 2))
        parts = [
            self._batch(rows[i : i + size], system, per_class=per_class) for i in range(0, len(rows), size)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, self._one_hot.shape[1]))

    def sets(
        self, query: NDArray[np.floating], *, alpha: float, per_class: bool = False
    ) -> NDArray[np.bool_]:
        """(q, n_classes), whether a class is in the set that misses the truth with probability alpha at most.

        Raises:
            FewShotError: If alpha is not between 0 and 1.
        """
        if not 0 < alpha < 1:
            raise FewShotError(f"alpha is {alpha}, expected a number between 0 and 1 such as 0.1")
        return np.asarray(self.p_values(query, per_class=per_class) > alpha + _TIE)

    @property
    def _one_hot(self) -> Floats:
        return np.eye(int(self.labels.max()) + 1)[self.labels]

    def _system(self) -> Floats:
        """(n + 1, n + 1), the inverse of M."""
        n = len(self.labels)
        bordered = np.zeros((n + 1, n + 1))
        bordered[:n, :n] = self.support @ self.support.T + PENALTY * np.eye(n)
        bordered[n, :n] = bordered[:n, n] = 1
        return np.asarray(np.linalg.inv(bordered))

    def _batch(self, query: Floats, inverse: Floats, *, per_class: bool) -> Floats:
        targets, n = self._one_hot, len(self.labels)
        edge = np.hstack([query @ self.support.T, np.ones((len(query), 1))])
        moved = edge @ inverse
        room = (query**2).sum(1) + PENALTY - (edge * moved).sum(1)
        alphas = inverse[:n, :n] @ targets
        fitted = moved[:, :n] @ targets  # (q, n_classes), of the query without itself
        diagonal = np.diag(inverse)[:n] + moved[:, :n] ** 2 / room[:, None]
        step = moved[:, :n] / room[:, None]
        surprise = fitted[:, None, :] - np.eye(targets.shape[1])  # (q, candidate, n_classes)
        residual = alphas + step[:, None, :, None] * surprise[:, :, None, :]
        left_out = targets - residual / diagonal[:, None, :, None]
        theirs = _worst_margin(left_out, self.labels)  # (q, candidate, n)
        candidates = np.arange(targets.shape[1])
        own = _worst_margin(np.repeat(fitted[:, None], len(candidates), axis=1), candidates)
        worse = theirs >= own[:, :, None] - _TIE
        if not per_class:
            return np.asarray((1 + worse.sum(-1)) / (n + 1))
        same = (worse * targets.T).sum(-1)
        return np.asarray((1 + same) / (targets.sum(0) + 1))


def unit_rows(rows: NDArray[np.floating]) -> Floats:
    """(..., d), float64, each row at length one; a row of zeros stays."""
    exact = np.asarray(rows, np.float64)
    length = np.linalg.norm(exact, axis=-1, keepdims=True)
    return np.asarray(exact / np.where(length > 0, length, 1.0))


def _worst_margin(scores: Floats, labels: Integers) -> Floats:
    """(..., n): best score of another class less the own class's; scores (..., n, n_classes)."""
    at = np.arange(len(labels))
    own = scores[..., at, labels]
    others = scores.copy()
    others[..., at, labels] = -np.inf
    return np.asarray(others.max(-1) - own)
