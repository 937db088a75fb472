"""What every head does once it is fitted: scores, probabilities, prediction sets, "none of these"."""

from abc import abstractmethod
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from fewshot.calibration import Floats, Integers
from fewshot.closed_form import Heads
from fewshot.conformal import ConformalSets
from fewshot.open_set import NONE_OF_THESE, RATE, Rejection
from foedus.errors import FewShotError
from foedus.head import LinearHead

_NO_CASES = "the head was made from sums and holds no case; fit it on the cases of one site"


class ClosedFormHead(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A linear head in closed form; a subclass says how it is fitted.

    Attributes:
        classes_: (n_classes,), labels in the order of the outputs.
        coef_: (n_classes, d), temperature included.
        intercept_: (n_classes,).
        temperature_: The temperature used.
        penalty_: The relative ridge penalty; 0 where there is none.
        support_: (n, d), the cases it was fitted on; None if it was made from sums.
        support_labels_: (n,), their places in `classes_`.
    """

    support_: NDArray[np.floating] | None
    support_labels_: Integers | None

    @abstractmethod
    def fit_episodes(self, support: Floats, labels: Integers) -> Heads:
        """Heads of E episodes: support (E, n, d), shared labels (n,) in 0..n_way-1."""

    def prepare(self, X: NDArray[np.floating]) -> Floats:
        """Features as the head reads them, float64."""
        return X.astype(np.float64)

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit on a support set: X (n, d), y (n,) labels of any kind. The cases are kept."""
        features, labels = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(labels)
        return self._fit(features, labels)

    def partial_fit(self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None = None) -> Self:
        """Add cases, of classes never seen as well; equal to `fit` on all cases so far.

        Args:
            X: (n, d).
            y: (n,), labels.
            classes: Accepted because scikit-learn asks for it; a class joins with its first case.
        """
        if not hasattr(self, "classes_"):
            return self.fit(X, y)
        features, labels = validate_data(self, X, y, reset=False, dtype=[np.float64, np.float32])
        check_classification_targets(labels)
        return self._add(features, labels)

    def decision_function(self, X: ArrayLike) -> Floats:
        """(n, n_classes) logits; (n,) for two classes, positive for the second."""
        scores = self._scores(X)
        return np.asarray(scores[:, 1] - scores[:, 0]) if scores.shape[1] == 2 else scores

    def predict_proba(self, X: ArrayLike) -> Floats:
        """(n, n_classes), rows sum to 1."""
        scores = self._scores(X)
        likelihood = np.exp(scores - scores.max(1, keepdims=True))
        return np.asarray(likelihood / likelihood.sum(1, keepdims=True))

    def predict(self, X: ArrayLike, *, reject: bool = False, rate: float = RATE) -> NDArray[Any]:
        """(n,), the most probable label.

        Args:
            X: (n, d).
            reject: Whether a query farther from every class than its cases are is "none of these"; the
                answer is then an array of objects.
            rate: Share of queries of the known classes that may be rejected.

        Raises:
            FewShotError: If no class has two cases, so that nothing can be rejected.
        """
        at = self._scores(X).argmax(1)
        best = np.asarray(self.classes_[at])
        if not reject:
            return best
        found = best.astype(object)
        found[self._rejection().rejects(self._features(X), rate=rate)] = NONE_OF_THESE
        return np.asarray(found)

    def predict_set(self, X: ArrayLike, alpha: float = 0.1, *, per_class: bool = False) -> NDArray[np.bool_]:
        """(n, n_classes), the classes that cannot be ruled out (`fewshot.conformal`).

        If queries come from where the support came from, the set misses the true class of at most a share
        alpha of them. The promise rests on a ridge head of its own, so the most probable class may be missing.

        Args:
            X: (n, d).
            alpha: Share of queries whose class may be missing, 0..1. Below 1/(cases + 1) every class is in.
            per_class: Promise it for each class by itself, with that class's cases alone.

        Raises:
            FewShotError: If alpha is out of range, or the head was made from sums and holds no case.
        """
        features = self._features(X)
        return ConformalSets.of(*self._cases()).sets(features, alpha=alpha, per_class=per_class)

    def novelty(self, X: ArrayLike) -> Floats:
        """(n,), squared distance to the nearest class mean, over the largest usual one; above 1 is unusual.

        Raises:
            FewShotError: If no class has two cases.
        """
        rejection = self._rejection()
        return np.asarray(rejection.distances(self._features(X)) / rejection.threshold(RATE))

    def head(self) -> LinearHead:
        """The fitted head as it travels and is saved; it reads what `prepare` returns."""
        check_is_fitted(self)
        return LinearHead(self.coef_.astype(np.float32), self.intercept_.astype(np.float32))

    def _fit(self, features: NDArray[np.floating], labels: NDArray[Any]) -> Self:
        self.classes_, indices = np.unique(labels, return_inverse=True)
        places = indices.astype(np.int64)
        self.support_, self.support_labels_ = features, places
        self._become(self.fit_episodes(self.prepare(features)[None], places))
        return self

    def _add(self, features: NDArray[np.floating], labels: NDArray[Any]) -> Self:
        if self.support_ is None or self.support_labels_ is None:
            raise FewShotError(_NO_CASES)
        seen = self.classes_[self.support_labels_]
        return self._fit(np.concatenate([self.support_, features]), np.concatenate([seen, labels]))

    def _become(self, heads: Heads) -> None:
        """Take over the only head of a batch of one."""
        self.coef_, self.intercept_ = heads.weight[0], heads.bias[0]
        self.temperature_, self.penalty_ = float(heads.temperature[0]), float(heads.penalty[0])

    def _features(self, X: ArrayLike) -> Floats:
        check_is_fitted(self)
        return self.prepare(validate_data(self, X, reset=False, dtype=[np.float64, np.float32]))

    def _scores(self, X: ArrayLike) -> Floats:
        features = self._features(X)
        return np.asarray(features @ self.coef_.T + self.intercept_)

    def _rejection(self) -> Rejection:
        check_is_fitted(self)
        return Rejection.of(*self._cases())

    def _cases(self) -> tuple[Floats, Integers]:
        """Features as the head reads them, and labels."""
        if self.support_ is None or self.support_labels_ is None:
            raise FewShotError(_NO_CASES)
        return self.prepare(self.support_), self.support_labels_
