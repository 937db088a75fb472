"""The heads as scikit-learn estimators over embeddings: `PrototypeClassifier`, `RidgeHead`."""

from abc import abstractmethod
from typing import Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from fewshot.calibration import Floats, Integers
from fewshot.closed_form import Heads, fit_prototypes, fit_ridge
from foedus.head import LinearHead


class ClosedFormHead(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A linear head in closed form; a subclass says how it is fitted.

    Attributes:
        classes_: (n_classes,), labels in the order of the outputs.
        coef_: (n_classes, d), temperature included.
        intercept_: (n_classes,).
        temperature_: The temperature used.
    """

    @abstractmethod
    def fit_episodes(self, support: Floats, labels: Integers) -> Heads:
        """Heads of E episodes: support (E, n, d), shared labels (n,) in 0..n_way-1."""

    def prepare(self, X: NDArray[np.floating]) -> Floats:
        """Features as the head reads them, float64."""
        return X.astype(np.float64)

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit on a support set: X (n, d), y (n,) labels of any kind."""
        features, labels = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(labels)
        self.classes_, indices = np.unique(labels, return_inverse=True)
        support = self.prepare(features)
        heads = self.fit_episodes(support[None], indices.astype(np.int64))
        self.coef_, self.intercept_ = heads.weight[0], heads.bias[0]
        self.temperature_, self.penalty_ = float(heads.temperature[0]), float(heads.penalty[0])
        return self

    def _scores(self, X: ArrayLike) -> Floats:
        check_is_fitted(self)
        features = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        return np.asarray(self.prepare(features) @ self.coef_.T + self.intercept_)

    def decision_function(self, X: ArrayLike) -> Floats:
        """(n, n_classes) logits; (n,) for two classes, positive for the second."""
        scores = self._scores(X)
        return np.asarray(scores[:, 1] - scores[:, 0]) if scores.shape[1] == 2 else scores

    def predict_proba(self, X: ArrayLike) -> Floats:
        """(n, n_classes), rows sum to 1."""
        scores = self._scores(X)
        likelihood = np.exp(scores - scores.max(1, keepdims=True))
        return np.asarray(likelihood / likelihood.sum(1, keepdims=True))

    def predict(self, X: ArrayLike) -> NDArray[np.generic]:
        """(n,), the most probable label."""
        best = self._scores(X).argmax(1)
        return np.asarray(self.classes_[best])

    def head(self) -> LinearHead:
        """The fitted head as it travels and is saved; it reads what `prepare` returns."""
        check_is_fitted(self)
        return LinearHead(self.coef_.astype(np.float32), self.intercept_.astype(np.float32))


class PrototypeClassifier(ClosedFormHead):
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
        heads = fit_prototypes(support, labels, temperature=self.temperature)
        if self.metric == "sqeuclidean":
            return heads
        norm = np.maximum(np.linalg.norm(heads.weight, axis=-1, keepdims=True), 1e-12)
        weight = 2 * heads.temperature[:, None, None] * heads.weight / norm
        return Heads(weight, np.zeros_like(heads.bias), heads.temperature, heads.penalty)


class RidgeHead(ClosedFormHead):
    """Ridge regression on one-hot targets, penalty and temperature by exact leave-one-out.

    Args:
        penalty: Relative to the mean squared norm of the centred support; chosen when None.
        temperature: Multiplier of the scores before the softmax; chosen when None.

    With fewer than three cases in some class leave-one-out says too little, and fixed values are
    used (`fewshot.closed_form.RIDGE_FALLBACK`).
    """

    def __init__(self, penalty: float | None = None, temperature: float | None = None) -> None:
        self.penalty = penalty
        self.temperature = temperature

    def fit_episodes(self, support: Floats, labels: Integers) -> Heads:
        """Ridge head of each episode."""
        if self.penalty is not None and not self.penalty > 0:
            raise ValueError(f"penalty is {self.penalty}, expected a positive number")
        return fit_ridge(support, labels, penalty=self.penalty, temperature=self.temperature)
