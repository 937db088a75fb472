"""What a shared head is worth to a site that never took part, over episodes of that site's own examples.

local      a ridge head of the support set alone
shared     the shared head as it is, on the episode's classes
adapted    the shared head after gradient steps on the support set, as many as leave-one-out allows
stepped    the shared head after the very steps that rounds of episodes taught it for

Classes keep their rows of the shared head, so they are classes the study knows; the site is what is new.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, Self, get_args

import numpy as np
from pydantic import Field
from scipy.special import log_softmax, softmax

from fewshot.calibration import Floats, Integers
from fewshot.closed_form import fit_ridge
from fewshot.episode_sums import declared, figures, summed
from fewshot.episodes import EpisodeSampler
from fewshot.maml.safe import fit_maml
from fewshot.scoring import score_episodes
from foedus.config import Section, validate
from foedus.errors import ConfigError, FewShotError
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.statistic import Arrays, Quantity, Settings

Way = Literal["local", "shared", "adapted", "stepped"]
WAYS: tuple[Way, ...] = get_args(Way)


@dataclass(frozen=True)
class StartResult:
    """One way's result over the episodes of all sites that answered.

    Attributes:
        way: See the module.
        n_way: Classes in an episode.
        n_shot: Support examples of each class.
        episodes: How many episodes.
        accuracy: Their mean accuracy, 0..1.
        ci95: Half width of its 95 % interval over episodes of these examples and classes.
        nll: Mean negative log-likelihood of a query, nats.
        ece: Expected calibration error over 15 bins.
    """

    way: Way
    n_way: int
    n_shot: int
    episodes: int
    accuracy: float
    ci95: float
    nll: float
    ece: float


class _StartSettings(Section):
    """What the coordinator sends."""

    way: Way
    n_way: int = Field(ge=2, le=1000)
    n_shot: int = Field(ge=1, le=10_000)
    n_query: int = Field(ge=1, le=10_000)
    episodes: int = Field(ge=2, le=100_000)
    seed: int = Field(ge=0)
    n_steps: int = Field(ge=1, le=1000)
    inner_lr: float = Field(gt=0, le=100)


@dataclass(frozen=True)
class StartSums:
    """The statistic "start-episodes".

    Args:
        head: The shared one, on standardised features.
        way: How a site uses it.
        n_way, n_shot, n_query, episodes, seed: As in `EpisodeSampler`.
        n_steps: stepped: gradient steps on the mean cross-entropy of the support set.
        inner_lr: stepped: their learning rate.
    """

    head: LinearHead
    way: Way
    n_way: int = 5
    n_shot: int = 5
    n_query: int = 15
    episodes: int = 600
    seed: int = 0
    n_steps: int = 5
    inner_lr: float = 0.05
    name: ClassVar[str] = "start-episodes"

    def settings(self) -> Settings:
        """Small parameters, sent as configuration."""
        return {
            "way": self.way,
            "n_way": self.n_way,
            "n_shot": self.n_shot,
            "n_query": self.n_query,
            "episodes": self.episodes,
            "seed": self.seed,
            "n_steps": self.n_steps,
            "inner_lr": self.inner_lr,
        }

    def arrays(self) -> Arrays:
        """The head."""
        return self.head.arrays()

    @classmethod
    def from_wire(cls, settings: Settings, arrays: Arrays) -> Self:
        """The same statistic, from what arrived at the site."""
        source = "the request received"
        parsed = validate(_StartSettings, settings, source=source)
        head = LinearHead.from_arrays(arrays)
        if head.weight.ndim != 2 or head.bias.shape != head.weight.shape[:1]:
            raise ConfigError(source, ["weight and bias do not fit each other"])
        return cls(head, **parsed.model_dump())

    def declare(self) -> dict[str, Quantity]:
        """As the statistic "episodes" does."""
        queries, rows = self.n_way * self.n_query, self.n_way * (self.n_shot + self.n_query)
        return declared(self.episodes, queries=queries, rows=rows)

    def measure(self, examples: Examples) -> Arrays:
        """Run the episodes here.

        Raises:
            FewShotError: If the site's examples do not allow them, or the head does not fit.
        """
        dim = self.head.weight.shape[1]
        if examples.features.shape[1] != dim:
            raise FewShotError(f"features have length {examples.features.shape[1]} but the head reads {dim}")
        sampler = EpisodeSampler(examples.labels, self.n_way, self.n_shot, self.n_query, self.seed)
        features, labels = examples.features.astype(np.float64), sampler.support_labels
        first = np.searchsorted(labels, np.arange(self.n_way))

        def batch(support: Integers, query: Integers) -> Floats:
            classes = examples.labels[support[:, first]]
            weight, bias = (part[classes].astype(np.float64) for part in (self.head.weight, self.head.bias))
            return self._log_probabilities(features[support], labels, features[query], weight, bias)

        return summed(score_episodes(batch, sampler, n_episodes=self.episodes, dim=dim))

    def _log_probabilities(
        self, support: Floats, labels: Integers, query: Floats, weight: Floats, bias: Floats
    ) -> Floats:
        """(E, q, n_way), from weight (E, n_way, d) and bias (E, n_way) of each episode's classes."""
        match self.way:
            case "local":
                return fit_ridge(support, labels).log_probabilities(query)
            case "adapted":
                return fit_maml(support, labels, start=(weight, bias)).log_probabilities(query)
            case "stepped":
                weight, bias = self._stepped(support, labels, weight, bias)
        scores = query @ weight.transpose(0, 2, 1) + bias[:, None]
        return np.asarray(log_softmax(scores, axis=-1))

    def _stepped(
        self, support: Floats, labels: Integers, weight: Floats, bias: Floats
    ) -> tuple[Floats, Floats]:
        aim = np.eye(self.n_way)[labels]
        for _ in range(self.n_steps):
            scores = support @ weight.transpose(0, 2, 1) + bias[:, None]
            pull = self.inner_lr * (aim - softmax(scores, axis=-1)) / len(labels)
            weight, bias = weight + pull.transpose(0, 2, 1) @ support, bias + pull.sum(1)
        return weight, bias

    def read(self, total: Arrays) -> StartResult:
        """Mean, interval and calibration over the episodes of all sites."""
        return StartResult(way=self.way, n_way=self.n_way, n_shot=self.n_shot, **figures(total))
