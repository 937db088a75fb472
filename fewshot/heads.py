"""The heads as scikit-learn estimators over embeddings: `PrototypeClassifier`, `RidgeHead`, `MAMLHead`."""

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from fewshot.additive import AdditiveHead
from fewshot.calibration import Floats, Integers
from fewshot.closed_form import (
    RIDGE_FALLBACK,
    Heads,
    fit_prototypes,
    fit_ridge,
    left_out_distances,
    prototype_fallback,
    prototype_heads,
    prototype_temperatures,
    ridge_choices,
)
from fewshot.estimator import ClosedFormHead
from fewshot.maml.head import MAMLHead
from fewshot.pooled import PooledRidge
from fewshot.prototypical import PrototypeSums
from fewshot.ridge import RidgeSums, RidgeTotals
from foedus.errors import FewShotError
from foedus.statistic import Arrays, Statistic

__all__ = ["ClosedFormHead", "MAMLHead", "PrototypeClassifier", "RidgeHead"]


class PrototypeClassifier(AdditiveHead):
    """Nearest class mean with a softmax over -t · distance (Snell et al. 2017).

    Args:
        metric: "sqeuclidean", or "cosine": squared distance on the unit sphere, to the unit
            vector of the class mean, which is 2 - 2 cos.
        temperature: Multiplier t; chosen by leave-one-out when None (one case in a class: fixed).
    """

    def __init__(
        self, metric: Literal["sqeuclidean", "cosine"] = "sqeuclidean", temperature: float | None = None
    ) -> None:
        self.metric = metric
        self.temperature = temperature

    def prepare(self, X: NDArray[np.floating]) -> Floats:
        """The features, on the unit sphere for "cosine"."""
        if self.metric not in ("sqeuclidean", "cosine"):
            raise ValueError(f"metric is {self.metric!r}, expected 'sqeuclidean' or 'cosine'")
        features = X.astype(np.float64)
        if self.metric == "sqeuclidean":
            return features
        return np.asarray(features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12))

    @property
    def prototypes_(self) -> Floats:
        """(n_classes, d): mean feature of each class; for "cosine" its unit vector."""
        check_is_fitted(self)
        return np.asarray(self.coef_ / (2 * self.temperature_))

    def fit_episodes(self, support: Floats, labels: Integers) -> Heads:
        """Prototypes of each episode."""
        return self._on_sphere(fit_prototypes(support, labels, temperature=self.temperature))

    def _on_sphere(self, heads: Heads) -> Heads:
        if self.metric == "sqeuclidean":
            return heads
        norm = np.maximum(np.linalg.norm(heads.weight, axis=-1, keepdims=True), 1e-12)
        weight = 2 * heads.temperature[:, None, None] * heads.weight / norm
        return Heads(weight, np.zeros_like(heads.bias), heads.temperature, heads.penalty)

    def _sums(self, n_classes: int, dim: int) -> Statistic[Any]:
        return PrototypeSums(n_classes, dim)

    def _totals(self, total: Arrays) -> tuple[Floats, Integers]:
        """Prototypes (1, n_classes, d) and cases of each class."""
        count = np.asarray(total["class-count"], np.int64)
        return np.asarray(total["class-sum"], np.float64)[None] / count[:, None], count

    def _dim(self, total: Arrays) -> int:
        return int(total["class-sum"].shape[1])

    def _choices(self, total: Arrays) -> tuple[Floats, Floats]:
        if self.temperature is not None:
            return np.zeros(1), np.array([float(self.temperature)])
        return np.zeros(1), prototype_temperatures(*self._totals(total))[0]

    def _fixed(self, total: Arrays) -> tuple[float, float]:
        centres, _ = self._totals(total)
        return 0.0, float(prototype_fallback(centres)[0, 0] if self.temperature is None else self.temperature)

    def _at(self, total: Arrays, penalty: float, temperature: float) -> Heads:
        return self._on_sphere(prototype_heads(self._totals(total)[0], np.array([temperature])))

    def _left_out(self, total: Arrays, penalties: Floats, features: Floats, labels: Integers) -> Floats:
        centres, count = self._totals(total)
        return np.asarray(-left_out_distances(features, labels, centres[0], count)[None])


class RidgeHead(AdditiveHead):
    """Ridge regression on one-hot targets, penalty and temperature by exact leave-one-out.

    Args:
        penalty: Relative to the mean squared norm of the centred support; chosen when None.
        temperature: Multiplier of the scores before the softmax; chosen when None.
        towards: (n_classes, d), weights to shrink towards instead of 0, in the order of `classes_`, such
            as features of the texts that name the classes; how far is chosen with the rest.

    With fewer than three cases in some class leave-one-out says too little, and fixed values are
    used (`fewshot.closed_form.RIDGE_FALLBACK`).
    """

    def __init__(
        self,
        penalty: float | None = None,
        temperature: float | None = None,
        towards: ArrayLike | None = None,
    ) -> None:
        self.penalty = penalty
        self.temperature = temperature
        self.towards = towards

    def fit_episodes(self, support: Floats, labels: Integers) -> Heads:
        """Ridge head of each episode; `towards` is the same for all."""
        if self.penalty is not None and not self.penalty > 0:
            raise ValueError(f"penalty is {self.penalty}, expected a positive number")
        towards = None
        if self.towards is not None:
            towards = np.asarray(self.towards, np.float64)
            shape = (int(labels.max()) + 1, support.shape[2])
            if towards.shape != shape:
                raise FewShotError(
                    f"towards has shape {towards.shape}, expected {shape}: a row for each class"
                )
            towards = np.repeat(towards[None], len(support), axis=0)
        return fit_ridge(support, labels, penalty=self.penalty, temperature=self.temperature, towards=towards)

    def _sums(self, n_classes: int, dim: int) -> Statistic[Any]:
        if self.towards is not None:
            raise FewShotError("a head that shrinks towards given weights is not a sum; leave towards out")
        return RidgeSums(n_classes, dim)

    def _dim(self, total: Arrays) -> int:
        return len(total["gram"]) - 1

    def _choices(self, total: Arrays) -> tuple[Floats, Floats]:
        return ridge_choices(np.asarray(total["class-count"]), self.penalty, self.temperature)

    def _fixed(self, total: Arrays) -> tuple[float, float]:
        penalty = RIDGE_FALLBACK[0] if self.penalty is None else self.penalty
        return penalty, RIDGE_FALLBACK[1] if self.temperature is None else self.temperature

    def _at(self, total: Arrays, penalty: float, temperature: float) -> Heads:
        return PooledRidge(self._read(total)).heads(penalty, temperature)

    def _left_out(self, total: Arrays, penalties: Floats, features: Floats, labels: Integers) -> Floats:
        return PooledRidge(self._read(total)).left_out(penalties, features, labels)

    def _read(self, total: Arrays) -> RidgeTotals:
        return RidgeSums(len(total["class-count"]), self._dim(total)).read(total)
