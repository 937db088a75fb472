"""What a number of labelled cases can and cannot promise: arithmetic, in words a clinician can use."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

from scipy.special import betaincinv

ENOUGH = 10
"""Cases of a class below which leave-one-out is too wrong to accept a head on: at 5 it is off by 13 points."""


@dataclass(frozen=True)
class Guarantees:
    """What a support set can promise.

    Attributes:
        cases: Of each class.
        right: Support cases that leave-one-out classifies correctly; None where it cannot say.
        accuracy: right over all cases.
        interval: 95 % interval on the accuracy (Clopper and Pearson 1934), as if cases were independent.
        smallest_alpha: Below it a prediction set holds every class: 1/(n+1).
        smallest_alpha_per_class: The same for the class with the fewest cases: 1/(n_c+1).
    """

    cases: tuple[int, ...]
    right: int | None
    accuracy: float | None
    interval: tuple[float, float] | None
    smallest_alpha: float
    smallest_alpha_per_class: float

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON, the sentences included."""
        return {**asdict(self), "sentences": self.sentences()}

    def sentences(self) -> list[str]:
        """One plain sentence for each promise."""
        return [*self._accuracy(), *self._sets(), self._rejection()]

    def _accuracy(self) -> list[str]:
        fewest, n = min(self.cases), sum(self.cases)
        found = []
        if self.right is not None and self.interval is not None:
            low, high = self.interval
            found.append(
                f"Leave-one-out: {self.right} of {n} cases right, 95 % interval {low:.2f} to {high:.2f} "
                f"({100 * (high - low):.0f} points wide) for cases like these."
            )
        elif fewest < 2:
            found.append(
                "A class has one case: leave-one-out says nothing, and the temperature is a fixed number."
            )
        if fewest < ENOUGH:
            found.append(
                f"Too few cases to accept this head on its own accuracy: a class has {fewest}, and below {ENOUGH} "
                "the interval itself is too narrow. Test it on cases it has not seen."
            )
        return found

    def _sets(self) -> list[str]:
        fewest, n = min(self.cases), sum(self.cases)
        return [
            f"Prediction sets: over all classes the surest is {_percent(1 - self.smallest_alpha)} ({n} cases); "
            f"for each class by itself {_percent(1 - self.smallest_alpha_per_class)} ({fewest} cases). "
            "A surer set holds every class.",
            f"For each class by itself 90 % takes {cases_for(0.1)} cases of it, 95 % takes {cases_for(0.05)}; "
            f"sets from cases set apart would need as many besides those that fit the head.",
        ]

    def _rejection(self) -> str:
        usable = sum(n for n in self.cases if n > 1)
        if usable == 0:
            return "None of these: not available with one case of each class."
        return (
            f"None of these: it cannot be promised that fewer than {_percent(1 / (usable + 1))} of known cases are "
            "rejected, nor that a class nobody has shown is. Treat it as a hint."
        )


def guarantees(cases: Sequence[int], *, right: int | None = None) -> Guarantees:
    """What a support set can promise.

    Args:
        cases: Of each class, each at least 1.
        right: Of them, how many leave-one-out classifies correctly, if it can.
    """
    n = sum(cases)
    known = right is not None
    return Guarantees(
        cases=tuple(cases),
        right=right,
        accuracy=right / n if right is not None else None,
        interval=accuracy_interval(right or 0, n) if known else None,
        smallest_alpha=1 / (n + 1),
        smallest_alpha_per_class=1 / (min(cases) + 1),
    )


def cases_for(alpha: float) -> int:
    """Cases a conformal set takes before it can leave anything out at this alpha: ⌈1/alpha⌉ - 1."""
    return ceil(1 / alpha - 1e-9) - 1


def accuracy_interval(right: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Exact binomial interval on an accuracy (Clopper and Pearson 1934), 0..1."""
    tail = (1 - level) / 2
    low = 0.0 if right == 0 else float(betaincinv(right, n - right + 1, tail))
    high = 1.0 if right == n else float(betaincinv(right + 1, n - right, 1 - tail))
    return low, high


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
