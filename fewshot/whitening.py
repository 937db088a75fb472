"""Whitening by the base classes' within-class covariance: what varies within a class counts less.

Learnt from classes the few-shot task never sees, in one federated round (`from_totals`): the
ridge sums hold the within-class scatter. With `normalise`, whitened features are put on the
unit sphere, which with shrinkage 1 is CL2N of SimpleShot (Wang et al. 2019).
"""

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from fewshot.class_axis import places, spread
from fewshot.ridge import RidgeSums, RidgeTotals
from foedus.errors import FewShotError
from foedus.examples import Examples
from foedus.statistic import Arrays, add

MEAN, TRANSFORM, NORMALISE = "whitening-mean", "whitening-transform", "whitening-normalise"
SHRINKAGE = 0.5
"""Weight of the scaled identity in the covariance; docs/fewshot.md shows what it was chosen by."""


class Whitening(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """x -> (x - base mean) Σ^(-1/2), then x / ‖x‖.

    Args:
        shrinkage: Σ = (1 - shrinkage) S + shrinkage · tr(S)/d · I, where S is the within-class
            covariance; 0..1. 1 leaves the covariance out and only centres. (0.5 is what
            reference tables that add s · tr(S)/d · I to S call s = 1.)
        normalise: Whether to put every example on the unit sphere.

    Attributes:
        mean_: (d,), float32, mean of the base examples.
        classes_: (n_classes,), labels of the base classes; only after `fit`.
        transform_: (d, d), float32, symmetric.
    """

    def __init__(self, shrinkage: float = SHRINKAGE, normalise: bool = True) -> None:
        self.shrinkage = shrinkage
        self.normalise = normalise

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Learn from base embeddings ((n, d)) and their classes."""
        features, labels = validate_data(self, X, y, ensure_min_samples=2, dtype=np.float64)
        check_classification_targets(labels)
        self.classes_ = np.unique(labels)
        self.totals_ = _measure(features, labels, self.classes_)
        return self._learn(_read(self.totals_))

    def partial_fit(self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None = None) -> Self:
        """Add base examples, of classes never seen as well; equal to `fit` on all of them to 1e-6.

        Args:
            X: (n, d).
            y: (n,), labels.
            classes: Accepted because scikit-learn asks for it; a class joins with its first example.

        Raises:
            FewShotError: If the whitening was loaded or made from sums, so that its classes are not known.
        """
        if not hasattr(self, "transform_"):
            return self.fit(X, y)
        features, labels = validate_data(self, X, y, reset=False, dtype=np.float64)
        check_classification_targets(labels)
        names = np.unique(np.concatenate([self._named_classes(), labels]))
        self.totals_ = add(self.statistics(classes=names), _measure(features, labels, names))
        self.classes_ = names
        return self._learn(_read(self.totals_))

    def statistics(self, *, classes: ArrayLike | None = None) -> Arrays:
        """The ridge sums over the examples it was fitted on; those of several sites add.

        Args:
            classes: Labels in the order of the sums, the same at every site; `classes_` when None.

        Raises:
            FewShotError: If a class is not among them, or the whitening was loaded or made from sums.
        """
        check_is_fitted(self)
        own = self._named_classes()
        wanted = own if classes is None else np.asarray(classes)
        return spread(self.totals_, places(own, wanted), len(wanted))

    @classmethod
    def from_statistics(cls, total: Arrays, **parameters: Any) -> "Whitening":
        """The whitening of all examples behind a sum of `statistics`; `from_totals` says what can go wrong."""
        return cls.from_totals(_read(total), **parameters)

    def _named_classes(self) -> NDArray[Any]:
        if not hasattr(self, "classes_"):
            raise FewShotError("the whitening holds no sums of named classes; fit it on base examples")
        return np.asarray(self.classes_)

    @classmethod
    def from_totals(
        cls, totals: RidgeTotals, *, shrinkage: float = SHRINKAGE, normalise: bool = True
    ) -> "Whitening":
        """The whitening of all sites' examples, from their ridge sums; equal to `fit` on the pool.

        Raises:
            FewShotError: If no class has two examples, so that nothing varies within a class.
        """
        whitening = cls(shrinkage=shrinkage, normalise=normalise)
        whitening.n_features_in_ = len(totals.gram) - 1
        return whitening._learn(totals)

    def _learn(self, totals: RidgeTotals) -> Self:
        if not 0 <= self.shrinkage <= 1:
            raise FewShotError(f"shrinkage is {self.shrinkage}, expected 0..1")
        freedom = totals.n - int((totals.class_count > 0).sum())
        dim = len(totals.gram) - 1
        if freedom == 0 and self.shrinkage < 1:
            raise FewShotError(
                "no base class has 2 examples, so nothing is known of how a class varies; "
                "give more base examples or set shrinkage to 1"
            )
        within = totals.within_scatter() / max(freedom, 1)
        # A feature that is constant within classes must not blow up, whatever the shrinkage.
        scale = max(float(np.trace(within)) / dim, 1e-12)
        covariance = (1 - self.shrinkage) * within + self.shrinkage * scale * np.eye(dim)
        values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
        roots = np.sqrt(np.maximum(values, 1e-6 * scale))
        self.mean_ = totals.mean.astype(np.float32)
        self.transform_ = ((vectors / roots) @ vectors.T).astype(np.float32)
        return self

    def transform(self, X: ArrayLike) -> NDArray[np.floating]:
        """(n, d), whitened; a row equal to the base mean stays 0."""
        check_is_fitted(self)
        features = validate_data(self, X, reset=False, dtype=[np.float32, np.float64])
        white = (features - self.mean_) @ self.transform_
        if not self.normalise:
            return np.asarray(white)
        norm = np.linalg.norm(white, axis=1, keepdims=True)
        return np.asarray(white / np.maximum(norm, 1e-12))

    def carried(self, weight: NDArray[np.floating]) -> NDArray[np.float64]:
        """(n, d), linear weights ((n, d)) of plain features as weights of whitened ones, up to a constant."""
        check_is_fitted(self)
        transform = self.transform_.astype(np.float64)
        return np.asarray(np.linalg.solve(transform.T, weight.astype(np.float64).T).T)

    def unstandardised(self, mean: NDArray[np.float64], scale: NDArray[np.float64]) -> "Whitening":
        """The same function of raw features, given that this one reads (x - mean) / scale."""
        arrays = self.arrays()
        arrays[MEAN] = (self.mean_ * scale + mean).astype(np.float32)
        arrays[TRANSFORM] = (self.transform_ / scale[:, None]).astype(np.float32)
        return Whitening.from_arrays(arrays)

    def arrays(self) -> Arrays:
        """What travels to a site or into a file."""
        check_is_fitted(self)
        flag = np.array([int(self.normalise)], np.int64)
        return {MEAN: self.mean_, TRANSFORM: self.transform_, NORMALISE: flag}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "Whitening":
        """A fitted whitening from `arrays()`.

        Raises:
            FewShotError: If an array is missing, not finite, or shapes do not agree.
        """
        missing = [key for key in (MEAN, TRANSFORM, NORMALISE) if key not in arrays]
        if missing:
            raise FewShotError(f"the whitening lacks {', '.join(missing)}; save it again with arrays()")
        mean, transform = arrays[MEAN].astype(np.float32), arrays[TRANSFORM].astype(np.float32)
        if mean.ndim != 1 or transform.shape != (len(mean), len(mean)) or arrays[NORMALISE].shape != (1,):
            raise FewShotError(
                f"the whitening has shapes {mean.shape}, {transform.shape} and {arrays[NORMALISE].shape}, "
                "expected (d,), (d, d) and (1,)"
            )
        if not (np.isfinite(mean).all() and np.isfinite(transform).all()):
            raise FewShotError("the whitening has values that are not finite; fit it again")
        whitening = cls(normalise=bool(arrays[NORMALISE].item()))
        whitening.mean_, whitening.transform_, whitening.n_features_in_ = mean, transform, len(mean)
        return whitening

    def __sklearn_tags__(self) -> Any:
        """Labels are required."""
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags


def _measure(features: NDArray[Any], labels: NDArray[Any], classes: NDArray[Any]) -> Arrays:
    sums = RidgeSums(n_classes=len(classes), dim=features.shape[1])
    return sums.measure(Examples(features, places(labels, classes)))


def _read(total: Arrays) -> RidgeTotals:
    return RidgeSums(n_classes=len(total["class-count"]), dim=len(total["gram"]) - 1).read(total)
