"""From features to answers: the audited head, or a site's own that was not audited."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from fewshot.adapt import AdaptedHead
from fewshot.open_set import NONE_OF_THESE
from foedus.backbones import Standardiser
from foedus.confidence import Serving
from foedus.errors import FewShotError
from foedus.head import LinearHead

Output = tuple[str, str, list[int]]
"""Name, datatype and shape, -1 where any number goes."""


@dataclass(frozen=True)
class Answers:
    """Of n records.

    Attributes:
        labels: The decision on each.
        probabilities: (n, n_classes), calibrated.
        sets: (n, n_classes), whether a class is in the prediction set; None where there is none.
        abstain: (n,), whether a person should decide.
        standard: (n, d), standardised features, and `raw`: (n, n_classes), the audited probabilities, for monitoring.
    """

    labels: list[str]
    probabilities: NDArray[np.float64]
    sets: NDArray[np.bool_] | None
    abstain: NDArray[np.bool_]
    standard: NDArray[np.float32] | None = None
    raw: NDArray[np.float64] | None = None


class Answerer(Protocol):
    """What answers."""

    @property
    def classes(self) -> list[str]:
        """In the order of the probabilities."""
        ...

    @property
    def audited(self) -> bool:
        """Whether an auditor approved it."""
        ...

    @property
    def with_sets(self) -> bool:
        """Whether it gives prediction sets."""
        ...

    def answer(self, features: NDArray[np.float32]) -> Answers:
        """From raw features, (n, d)."""
        ...


@dataclass(frozen=True)
class AuditedHead:
    """The head of a bundle; it decides as it did in the audit.

    Attributes:
        names: The classes.
        positive: Index of the positive class.
        threshold: Two classes: a probability from here on is a positive decision. None with more.
        serving: Temperature and thresholds.
    """

    standardiser: Standardiser
    head: LinearHead
    names: list[str]
    positive: int
    threshold: float | None
    serving: Serving
    audited: bool = field(default=True, init=False)

    @property
    def classes(self) -> list[str]:
        """See `Answerer`."""
        return self.names

    @property
    def with_sets(self) -> bool:
        """See `Answerer`."""
        return self.serving.prediction_sets is not None

    def answer(self, features: NDArray[np.float32]) -> Answers:
        """See `Answerer`."""
        standard = self.standardiser.apply(features)
        scores = self.head.scores(standard).astype(np.float64)
        raw = np.asarray(softmax(scores, axis=1))
        decided = raw.argmax(axis=1)
        if self.threshold is not None:
            decided = np.where(raw[:, self.positive] >= self.threshold, self.positive, 1 - self.positive)
        sets, below = self.serving.prediction_sets, self.serving.abstain_below
        return Answers(
            labels=[self.names[index] for index in decided.tolist()],
            probabilities=np.asarray(softmax(scores * self.serving.temperature, axis=1)),
            sets=None if sets is None else raw >= sets.least_probability,
            abstain=np.zeros(len(raw), bool) if below is None else raw.max(axis=1) < below,
            standard=standard,
            raw=raw,
        )


@dataclass(frozen=True)
class SiteHead:
    """A few-shot head that a site fitted for itself, on the same backbone.

    Attributes:
        audited: Whether an auditor approved this very head.
        positive: Index of the positive class, and `threshold`: the probability from which it is decided for, of an
            audited head with two classes; the most probable class where None.
    """

    head: AdaptedHead
    audited: bool = False
    positive: int = 0
    threshold: float | None = None

    @property
    def classes(self) -> list[str]:
        """See `Answerer`."""
        return list(self.head.classes)

    @property
    def with_sets(self) -> bool:
        """See `Answerer`."""
        return self.head.support is not None

    def answer(self, features: NDArray[np.float32]) -> Answers:
        """See `Answerer`; abstains where a record is far from every class."""
        probabilities = self.head.predict_proba(features)
        decided = probabilities.argmax(axis=1)
        if self.threshold is not None:
            chosen = probabilities[:, self.positive] >= self.threshold
            decided = np.where(chosen, self.positive, 1 - self.positive)
        labels = [self.head.classes[i] for i in decided.tolist()]
        if not self.with_sets:
            return Answers(labels, probabilities, None, np.zeros(len(labels), bool))
        named = self.head.predict_set(features)
        sets = np.array([[name in row for name in self.head.classes] for row in named], bool)
        try:
            strange = np.array([n == NONE_OF_THESE for n in self.head.predict(features, reject=True)], bool)
        except FewShotError:  # no class has two cases, so nothing says how far is far
            strange = np.zeros(len(labels), bool)
        return Answers(labels, probabilities, sets, strange)


def outputs_of(answerer: Answerer) -> list[Output]:
    """What it gives, for its metadata."""
    n = len(answerer.classes)
    sets: list[Output] = [("prediction_set", "BOOL", [-1, n])] if answerer.with_sets else []
    return [("label", "BYTES", [-1]), ("probabilities", "FP32", [-1, n]), *sets, ("abstain", "BOOL", [-1])]


def values_of(answers: Answers) -> dict[str, Any]:
    """Name of an output to its values."""
    sets = {} if answers.sets is None else {"prediction_set": answers.sets}
    return {
        "label": answers.labels,
        "probabilities": answers.probabilities,
        **sets,
        "abstain": answers.abstain,
    }
