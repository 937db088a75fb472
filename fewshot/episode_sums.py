"""The episodes of `fewshot.evaluate` as a sum over sites: a new site reports counts, no example."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self, TypedDict

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fewshot.calibration import N_BINS, Bins
from fewshot.episodes import EpisodeSampler
from fewshot.methods import FITS
from fewshot.scoring import HIGHEST_NLL, Scored, run_episodes
from fewshot.whitening import MEAN, NORMALISE, TRANSFORM, Whitening
from foedus.config import Section, validate
from foedus.errors import ConfigError, FewShotError
from foedus.examples import Examples
from foedus.statistic import Arrays, Quantity, Settings
from foedus.study import Method

EPISODES, ACCURACY, ACCURACY_SQUARED, NLL = "episodes", "accuracy", "accuracy-squared", "nll"
BIN_COUNT, BIN_CONFIDENCE, BIN_CORRECT = "bin-count", "bin-confidence", "bin-correct"


@dataclass(frozen=True)
class EpisodeResult:
    """A method's result over the episodes of all sites that answered, as read from the sum.

    Attributes:
        method: One of `fewshot.methods.FITS`.
        n_way: Classes in an episode.
        n_shot: Support examples of each class.
        episodes: How many episodes.
        accuracy: Their mean accuracy, 0..1.
        ci95: Half width of its 95 % interval over episodes of these examples and classes.
        nll: Mean negative log-likelihood of a query, nats.
        ece: Expected calibration error over 15 bins.
    """

    method: Method
    n_way: int
    n_shot: int
    episodes: int
    accuracy: float
    ci95: float
    nll: float
    ece: float


class _EpisodeSettings(Section):
    """What the coordinator sends to ask for episodes."""

    method: Method
    n_way: int = Field(ge=2, le=1000)
    n_shot: int = Field(ge=1, le=10_000)
    n_query: int = Field(ge=1, le=10_000)
    episodes: int = Field(ge=2, le=100_000)
    seed: int = Field(ge=0)
    classes: list[int]


@dataclass(frozen=True)
class EpisodeSums:
    """The statistic "episodes": one method and one n_shot, run on a site's own examples.

    Args:
        method: One of `fewshot.methods.FITS`.
        n_way, n_shot, n_query, episodes, seed: As in `EpisodeSampler`.
        classes: Class indices to draw from, the novel ones; all when empty.
        whitening: Learnt from the base classes; the features as they are when None.
    """

    method: Method
    n_way: int = 5
    n_shot: int = 5
    n_query: int = 15
    episodes: int = 600
    seed: int = 0
    classes: tuple[int, ...] = ()
    whitening: Whitening | None = None
    name: ClassVar[str] = "episodes"

    def settings(self) -> Settings:
        """Small parameters, sent as configuration."""
        return {
            "method": self.method,
            "n_way": self.n_way,
            "n_shot": self.n_shot,
            "n_query": self.n_query,
            "episodes": self.episodes,
            "seed": self.seed,
            "classes": list(self.classes),
        }

    def arrays(self) -> Arrays:
        """The whitening, or nothing."""
        return {} if self.whitening is None else self.whitening.arrays()

    @classmethod
    def from_wire(cls, settings: Settings, arrays: Arrays) -> Self:
        """The same statistic, from what arrived at the site."""
        source = "the request received"
        parsed = validate(_EpisodeSettings, settings, source=source)
        unknown = sorted(set(arrays) - {MEAN, TRANSFORM, NORMALISE})
        if unknown:
            raise ConfigError(source, [f"{key} is not a known array" for key in unknown])
        try:
            whitening = Whitening.from_arrays(arrays) if arrays else None
        except FewShotError as error:
            raise ConfigError(source, [str(error)]) from None
        values = parsed.model_dump() | {"classes": tuple(parsed.classes)}
        return cls(**values, whitening=whitening)

    def declare(self) -> dict[str, Quantity]:
        """Shapes, kinds and ranges of the sums; no more examples stand behind them than one episode's."""
        return declared(
            self.episodes, queries=self.n_way * self.n_query, rows=self.n_way * (self.n_shot + self.n_query)
        )

    def measure(self, examples: Examples) -> Arrays:
        """Run the episodes here.

        Raises:
            FewShotError: If the site's examples do not allow them, or the whitening does not fit.
        """
        sampler = EpisodeSampler(
            examples.labels, self.n_way, self.n_shot, self.n_query, self.seed, list(self.classes) or None
        )
        scored = run_episodes(FITS[self.method], self._prepared(examples), sampler, n_episodes=self.episodes)
        return summed(scored)

    def _prepared(self, examples: Examples) -> NDArray[np.floating]:
        if self.whitening is None:
            return examples.features
        dim = len(self.whitening.mean_)
        if examples.features.shape[1] != dim:
            raise FewShotError(
                f"features have length {examples.features.shape[1]} but the whitening has {dim}; "
                "use the study's backbone"
            )
        return self.whitening.transform(examples.features)

    def read(self, total: Arrays) -> EpisodeResult:
        """Mean, interval and calibration over the episodes of all sites."""
        return EpisodeResult(method=self.method, n_way=self.n_way, n_shot=self.n_shot, **figures(total))


class Figures(TypedDict):
    """What a total of episodes says: see `EpisodeResult`."""

    episodes: int
    accuracy: float
    ci95: float
    nll: float
    ece: float


def declared(episodes: int, *, queries: int, rows: int) -> dict[str, Quantity]:
    """Shapes, kinds and ranges of the sums over episodes that have so many queries, and so many rows in all."""
    every = float(episodes * queries)
    counts = Quantity((N_BINS,), "count", 0, every, 1.0, rows)
    real = Quantity((1,), "real", 0, float(episodes), min_count=rows)
    return {
        EPISODES: Quantity((1,), "count", 0, float(episodes), 1.0, rows),
        ACCURACY: real,
        ACCURACY_SQUARED: real,
        NLL: replace(real, high=HIGHEST_NLL * episodes),
        BIN_COUNT: counts,
        BIN_CONFIDENCE: Quantity((N_BINS,), "real", 0, every, min_count=rows),
        BIN_CORRECT: counts,
    }


def summed(scored: Scored) -> Arrays:
    """One site's contribution."""
    return {
        EPISODES: np.array([len(scored.accuracy)], np.int64),
        ACCURACY: np.array([scored.accuracy.sum()]),
        ACCURACY_SQUARED: np.array([(scored.accuracy**2).sum()]),
        NLL: np.array([scored.nll.sum()]),
        BIN_COUNT: scored.bins.count,
        BIN_CONFIDENCE: scored.bins.confidence,
        BIN_CORRECT: scored.bins.correct,
    }


def figures(total: Arrays) -> Figures:
    """Mean, interval and calibration over the episodes behind a total.

    Raises:
        FewShotError: If there are fewer than two.
    """
    n = int(total[EPISODES].item())
    if n < 2:
        raise FewShotError(f"the sums hold {n} episodes, expected at least 2; ask a site with novel classes")
    mean = float(total[ACCURACY].item()) / n
    variance = max(float(total[ACCURACY_SQUARED].item()) - n * mean**2, 0.0) / (n - 1)
    bins = Bins(
        np.asarray(total[BIN_COUNT], np.int64),
        np.asarray(total[BIN_CONFIDENCE], np.float64),
        np.asarray(total[BIN_CORRECT], np.int64),
    )
    return Figures(
        episodes=n,
        accuracy=mean,
        ci95=float(1.96 * np.sqrt(variance / n)),
        nll=float(total[NLL].item()) / n,
        ece=bins.error(),
    )
