"""The exact pooled ridge head in one round: sites send XᵀX and XᵀY, the coordinator solves.

Immune to how labels are spread over sites (Fed3R, Fanì et al., ICML 2024), because the sum of
the sites' Gram matrices is the pooled Gram matrix. The same sums hold the within-class scatter,
so they also give the whitening of `fewshot.whitening`.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.linalg import solve

from foedus.config import Section, validate
from foedus.errors import ConfigError, FewShotError
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.labels import counts, targets
from foedus.statistic import Arrays, Quantity, Settings, count

GRAM, XTY, CLASS_COUNT, RECORDS = "gram", "xty", "class-count", "records"
MIN_COUNT = 5
"""Examples a released total needs: the class sum of one case is that case's embedding."""


class SumSettings(Section):
    """What the coordinator sends to ask for ridge or prototype sums."""

    n_classes: int = Field(ge=2, le=1000)
    """Classes of the study."""
    dim: int = Field(ge=1, le=65_536)
    """Length of a feature vector."""
    classes: list[int] = []
    """Indices of the classes whose examples are summed; all when empty."""
    min_count: int = Field(default=MIN_COUNT, ge=0)
    """Examples that must stand behind a released total."""
    multilabel: bool = False
    """Ridge: a record may have any number of labels."""


def sum_settings(settings: Settings, arrays: Arrays) -> SumSettings:
    """The request as it arrived at a site.

    Raises:
        ConfigError: Listing everything unexpected in it.
    """
    if arrays:
        raise ConfigError("the request received", [f"{key} is not a known array" for key in arrays])
    parsed = validate(SumSettings, settings, source="the request received")
    outside = [c for c in parsed.classes if not 0 <= c < parsed.n_classes]
    if outside:
        problem = f"classes holds {outside}, expected indices in 0..{parsed.n_classes - 1}"
        raise ConfigError("the request received", [problem])
    return parsed


def kept_rows(examples: Examples, *, dim: int, n_classes: int, classes: list[int]) -> Examples:
    """The examples of the classes asked for.

    Raises:
        FewShotError: If features or labels do not fit the request.
    """
    if examples.features.ndim != 2 or examples.features.shape[1] != dim:
        raise FewShotError(
            f"features have shape {examples.features.shape}, expected (n, {dim}); use the study's backbone"
        )
    if len(examples) and not 0 <= examples.labels.min() <= examples.labels.max() < n_classes:
        raise FewShotError(f"a label is outside 0..{n_classes - 1}; use the study's classes")
    if not classes:
        return examples
    return examples.take(np.flatnonzero(np.isin(examples.labels, classes)))


@dataclass(frozen=True)
class RidgeTotals:
    """Pooled sums over every example of every site.

    Attributes:
        gram: (d+1, d+1), float64, Σ zzᵀ with z = [x, 1].
        xty: (d+1, n_classes), float64, Σ z yᵀ with y one-hot.
        class_count: (n_classes,), int64.
        records: Number of examples, where each may have any number of labels; None with one class each.
    """

    gram: NDArray[np.float64]
    xty: NDArray[np.float64]
    class_count: NDArray[np.int64]
    records: int | None = None

    @property
    def n(self) -> int:
        """Number of examples."""
        return int(self.class_count.sum()) if self.records is None else self.records

    @property
    def mean(self) -> NDArray[np.float64]:
        """(d,), the mean feature."""
        return np.asarray(self.gram[-1, :-1] / max(self.n, 1))

    def scatter(self) -> NDArray[np.float64]:
        """(d, d), Σ (x - x̄)(x - x̄)ᵀ."""
        return np.asarray(self.gram[:-1, :-1] - self.n * np.outer(self.mean, self.mean))

    def within_scatter(self) -> NDArray[np.float64]:
        """(d, d), Σ_c Σ_{i in c} (x_i - μ_c)(x_i - μ_c)ᵀ: what is left within classes."""
        sums, count = self.xty[:-1], np.maximum(self.class_count, 1)
        return np.asarray(self.gram[:-1, :-1] - (sums / count) @ sums.T)

    def solve(self, penalty: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Pooled ridge regression on one-hot targets, with an unpenalised intercept.

        Minimises Σ‖y - Wx - b‖² + penalty · n · ‖W‖², that is scikit-learn's
        `Ridge(alpha=penalty * n)` on the pooled rows: the same penalty means the same
        strength whatever the number of examples.

        Returns:
            (weight (n_classes, d), bias (n_classes,)), float64. A class without examples has
            weight and bias 0 and never wins, because the other scores sum to 1.

        Raises:
            FewShotError: If there is no example, or penalty is not positive.
        """
        if self.n == 0:
            raise FewShotError("the ridge sums hold no example; ask sites that have the study's classes")
        if not penalty > 0:
            raise FewShotError(f"penalty is {penalty}, expected a positive number such as 0.01")
        prior = self.class_count / self.n
        cross = self.xty[:-1] - np.outer(self.mean, self.class_count)
        system = self.scatter() + penalty * self.n * np.eye(len(cross))
        weight = solve(system, cross, assume_a="pos").T
        return np.asarray(weight), np.asarray(prior - weight @ self.mean)

    def head(self, penalty: float) -> LinearHead:
        """The ridge head; its scores lie near 0..1, so scale it (about 10) for probabilities.

        Of several labels, each is decided by itself: one half is where it is as likely as not, so it is taken away.
        """
        weight, bias = self.solve(penalty)
        bias = bias if self.records is None else bias - 0.5
        return LinearHead(weight.astype(np.float32), bias.astype(np.float32))


@dataclass(frozen=True)
class RidgeSums:
    """The statistic "ridge"; `classes` restricts it (few-shot bases), all classes when empty."""

    n_classes: int
    dim: int
    classes: tuple[int, ...] = ()
    min_count: int = MIN_COUNT
    multilabel: bool = False
    name: ClassVar[str] = "ridge"

    def settings(self) -> Settings:
        """Small parameters, sent as configuration."""
        return {
            "n_classes": self.n_classes,
            "dim": self.dim,
            "classes": list(self.classes),
            "min_count": self.min_count,
            **({"multilabel": True} if self.multilabel else {}),
        }

    def arrays(self) -> Arrays:
        """No array parameter."""
        return {}

    @classmethod
    def from_wire(cls, settings: Settings, arrays: Arrays) -> Self:
        """The same statistic, from what arrived at the site; the least count may be asked higher, not lower."""
        parsed = sum_settings(settings, arrays)
        fewest = max(parsed.min_count, MIN_COUNT)
        return cls(parsed.n_classes, parsed.dim, tuple(parsed.classes), fewest, parsed.multilabel)

    def declare(self) -> dict[str, Quantity]:
        """Shapes and kinds of the sums; of several labels, the examples are counted beside them."""
        side, counted = self.dim + 1, RECORDS if self.multilabel else CLASS_COUNT
        found = {
            GRAM: Quantity((side, side), min_count=self.min_count),
            XTY: Quantity((side, self.n_classes), min_count=self.min_count),
            CLASS_COUNT: replace(count(self.n_classes), min_count=self.min_count),
            **({RECORDS: replace(count(1), min_count=self.min_count)} if self.multilabel else {}),
        }
        return {**found, counted: replace(found[counted], behind="sum")}

    def measure(self, examples: Examples) -> Arrays:
        """XᵀX and XᵀY of [x, 1] in float64, and the examples of each class; balanced where the examples are."""
        kept = kept_rows(examples, dim=self.dim, n_classes=self.n_classes, classes=list(self.classes))
        x = np.hstack([kept.features.astype(np.float64), np.ones((len(kept), 1))])
        weighted = x if kept.importance is None else x * kept.importance[:, None]
        found: Arrays = {
            GRAM: weighted.T @ x,
            XTY: weighted.T @ targets(kept.labels, self.n_classes),
            CLASS_COUNT: counts(kept.labels, self.n_classes),
        }
        return found | ({RECORDS: np.array([len(kept)], np.int64)} if self.multilabel else {})

    def read(self, total: Arrays) -> RidgeTotals:
        """The pooled sums, ready to be solved."""
        return RidgeTotals(
            np.asarray(total[GRAM], np.float64),
            np.asarray(total[XTY], np.float64),
            np.asarray(total[CLASS_COUNT], np.int64),
            int(np.asarray(total[RECORDS]).item()) if self.multilabel else None,
        )
