"""Heads that federate exactly: their state is a sum over cases, and so is what their settings are chosen by.

    sites        sums = head.statistics(classes=names)             added over sites: `total`
    coordinator  pooled = RidgeHead.from_statistics(total, classes=names)
    sites        votes = pooled.leave_one_out(X, y)                added over sites: `votes`
    coordinator  pooled.tuned(votes)                               equals `fit` on all rows

The second exchange is worth it: penalty and temperature follow from the score of each case without
itself, which takes the case and the pooled sums, and no case has to leave its site for it.
"""

from abc import abstractmethod
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted, validate_data

from fewshot.calibration import Floats, Integers, smoothed_nll
from fewshot.class_axis import places, spread, take
from fewshot.closed_form import Heads
from fewshot.estimator import ClosedFormHead
from foedus.errors import FewShotError
from foedus.examples import Examples
from foedus.statistic import Arrays, Statistic, add

VOTES = "leave-one-out-nll"
_ROWS = 512
"""Rows whose left-out scores are held at once, at every setting."""


class AdditiveHead(ClosedFormHead):
    """A head whose state is a sum; a subclass says which, and what it reads from one.

    Attributes:
        totals_: The sums it was made from, by `from_statistics`; None after `fit`.
    """

    totals_: Arrays | None

    @abstractmethod
    def _sums(self, n_classes: int, dim: int) -> Statistic[Any]:
        """The statistic that is summed."""

    @abstractmethod
    def _dim(self, total: Arrays) -> int:
        """Length of the feature vectors behind the sums."""

    @abstractmethod
    def _choices(self, total: Arrays) -> tuple[Floats, Floats]:
        """Penalties and temperatures leave-one-out chooses from; the fixed ones where it cannot."""

    @abstractmethod
    def _fixed(self, total: Arrays) -> tuple[float, float]:
        """Penalty and temperature before anyone has voted."""

    @abstractmethod
    def _at(self, total: Arrays, penalty: float, temperature: float) -> Heads:
        """The head at one penalty and temperature, as a batch of one."""

    @abstractmethod
    def _left_out(self, total: Arrays, penalties: Floats, features: Floats, labels: Integers) -> Floats:
        """(n_penalties, n, n_classes), scores at temperature 1 of cases in the sums, each without itself."""

    def statistics(self, *, classes: ArrayLike | None = None) -> Arrays:
        """The sums over the cases the head was fitted on; those of several sites add.

        Args:
            classes: Labels in the order of the sums, the same at every site; `classes_` when None.

        Raises:
            FewShotError: If a class of the head is not among them.
        """
        check_is_fitted(self)
        wanted = self.classes_ if classes is None else np.asarray(classes)
        place = places(self.classes_, wanted)
        if self.totals_ is not None:
            return spread(self.totals_, place, len(wanted))
        features, labels = self._cases()
        return self._measure(features, place[labels], n_classes=len(wanted))

    @classmethod
    def from_statistics(cls, total: Arrays, *, classes: ArrayLike, **parameters: Any) -> Self:
        """The head of all the cases behind a sum; penalty and temperature not given are the documented fixed ones.

        `leave_one_out` and `tuned` then choose them as `fit` does. Classes without a case are left out.

        Args:
            total: Sum of `statistics(classes=classes)` over sites.
            classes: Labels in the order of the sums.
            parameters: Of the estimator.

        Raises:
            FewShotError: If the sums hold no case, or are not of these classes.
        """
        head, names = cls(**parameters), np.asarray(classes)
        count = np.asarray(total.get("class-count", np.empty(0)), np.int64)
        if count.shape != names.shape:
            raise FewShotError(
                f"the sums are not of {len(names)} classes; give the classes they were made with"
            )
        kept = np.argsort(names, kind="stable")
        kept = kept[count[kept] > 0]
        if len(kept) == 0:
            raise FewShotError("the sums hold no case; add those of a site that has some")
        chosen = {key: take(key, value, kept) for key, value in total.items()}
        head.totals_, head.classes_ = chosen, names[kept]
        head.support_, head.support_labels_ = None, None
        head.n_features_in_ = head._dim(chosen)
        head._become(head._at(chosen, *head._fixed(chosen)))
        return head

    def leave_one_out(self, X: ArrayLike, y: ArrayLike) -> Arrays:
        """What these cases, which are in the sums, say about each setting; those of several sites add.

        Args:
            X: (n, d).
            y: (n,), labels in `classes_`.

        Returns:
            Smoothed negative log-likelihood, (n_penalties, n_temperatures), summed over the cases.

        Raises:
            FewShotError: If the head was not made by `from_statistics`, or a label is not in it.
        """
        total = self._require_totals()
        features = self.prepare(validate_data(self, X, reset=False, dtype=np.float64))
        labels = places(np.asarray(y), self.classes_)
        penalties, temperatures = self._choices(total)
        scores = self._left_out(total, penalties, features, labels)
        found = np.zeros((len(penalties), len(temperatures)))
        for i in range(0, len(labels), _ROWS):
            part = labels[i : i + _ROWS]
            hot = scores[:, None, i : i + _ROWS] * temperatures[:, None, None]
            found += len(part) * smoothed_nll(hot, part)
        return {VOTES: found}

    def tuned(self, votes: Arrays) -> Self:
        """This head at the setting that the cases of all sites voted for; changes the head and returns it.

        Raises:
            FewShotError: If the votes are of other settings.
        """
        total = self._require_totals()
        penalties, temperatures = self._choices(total)
        shape = len(penalties), len(temperatures)
        if VOTES not in votes or votes[VOTES].shape != shape:
            raise FewShotError(f"the votes are not of {shape} settings; make them with this head")
        at_penalty, at_temperature = np.unravel_index(int(np.asarray(votes[VOTES]).argmin()), shape)
        self._become(self._at(total, float(penalties[at_penalty]), float(temperatures[at_temperature])))
        return self

    def _fit(self, features: NDArray[np.floating], labels: NDArray[Any]) -> Self:
        self.totals_ = None
        return super()._fit(features, labels)

    def _add(self, features: NDArray[np.floating], labels: NDArray[Any]) -> Self:
        """Into the sums where there are no cases; penalty and temperature stay."""
        if self.totals_ is None:
            return super()._add(features, labels)
        names = np.unique(np.concatenate([self.classes_, labels]))
        new = self._measure(self.prepare(features), places(labels, names), n_classes=len(names))
        self.totals_ = add(self.statistics(classes=names), new)
        self.classes_ = names
        self._become(self._at(self.totals_, self.penalty_, self.temperature_))
        return self

    def _require_totals(self) -> Arrays:
        check_is_fitted(self)
        if self.totals_ is None:
            raise FewShotError(
                "the head was fitted on cases and has chosen already; make it with from_statistics"
            )
        return self.totals_

    def _measure(self, features: NDArray[Any], labels: Integers, *, n_classes: int) -> Arrays:
        return self._sums(n_classes, features.shape[1]).measure(Examples(features, labels))
