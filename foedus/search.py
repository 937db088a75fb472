"""[search]: which hyper-parameters are tried, how trials are drawn, and how many rounds each is given.

Successive halving (Jamieson & Talwalkar 2016), one bracket of Hyperband (Li et al. 2018, algorithm 1):
every rung keeps the best 1/eta of its trials and gives them eta times the rounds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import exp, log, prod
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from foedus.config import Section, validate
from foedus.errors import ConfigError

Value = bool | int | float | str | list[str]
Values = dict[str, Value]
"""What one trial sets, by the keys of study.toml: "federation.lr" and so on."""
Metric = Literal["log_loss", "accuracy", "balanced_accuracy"]

PRIVATE_KEYS = (
    "federation.lr", "federation.strategy", "federation.server_lr", "federation.server_momentum", "tuning.lr",
)  # fmt: skip
"""What changes a private study's training: its rounds are one noisy gradient each, from one shared start."""
KEYS = (
    *PRIVATE_KEYS[:-1], "federation.local_epochs", "federation.batch_size", "federation.weight_decay",
    "federation.proximal_mu", "federation.start", "backbone.tune", "backbone.personal",
)  # fmt: skip
"""What may be searched, beside everything in [tuning]."""
STREAM = 0x5EA2C4
"""Keeps the draws apart from every other use of the study's seed."""
ATTEMPTS = 100
"""Draws for each trial before the space is called too narrow."""
DIGITS = 3
"""Significant digits of a number drawn from a range."""
MAX_ROUNDS = 10_000


class Choices(Section):
    """One line of [search.space]: a list of values, or a range { low, high, scale }."""

    values: list[Value] = []
    """The values, one as likely as another."""
    low: int | float | None = None
    """Smallest of a range; whole numbers are drawn where low and high are whole."""
    high: int | float | None = None
    """Largest of a range."""
    scale: Literal["linear", "log"] = "linear"
    """"log": as often between 0.01 and 0.1 as between 0.1 and 1."""

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, found: object) -> object:
        return {"values": found} if isinstance(found, list) else found

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low is None and self.high is None:
            if not self.values or any(value in self.values[:i] for i, value in enumerate(self.values)):
                raise ValueError("give a list of different values, or { low = …, high = … }")
            return self
        if self.values or self.low is None or self.high is None or not self.low < self.high:
            raise ValueError("a range takes low and a higher high, and no values")
        if self.scale == "log" and self.low <= 0:
            raise ValueError(f"low is {self.low}; a log scale begins above 0")
        return self

    @property
    def ends(self) -> list[Value]:
        """The values, or both ends of the range: where all of them are valid, so is every draw."""
        return self.values if self.low is None or self.high is None else [self.low, self.high]

    @property
    def size(self) -> float:
        """How many different values there are; many where a range is not of whole numbers."""
        if self.low is None or self.high is None:
            return len(self.values)
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        return self.high - self.low + 1 if whole else float("inf")

    def draw(self, rng: np.random.Generator) -> Value:
        """One value."""
        if self.low is None or self.high is None:
            return self.values[int(rng.integers(len(self.values)))]
        share, low, high = float(rng.random()), self.low, self.high
        if isinstance(low, int) and isinstance(high, int):
            if self.scale == "linear":
                return low + int(share * (high - low + 1))
            return min(
                high, max(low, int(exp(log(low - 0.5) + share * log((high + 0.5) / (low - 0.5))) + 0.5))
            )
        found = low * exp(share * log(high / low)) if self.scale == "log" else low + share * (high - low)
        return min(max(float(f"{found:.{DIGITS}g}"), float(low)), float(high))


@dataclass(frozen=True)
class Rung:
    """One rung of the bracket.

    Attributes:
        trials: How many stand on it.
        rounds: Gradient rounds that each has behind it at its end.
        new: How many of those it trains on this rung.
    """

    trials: int
    rounds: int
    new: int


class SearchSection(Section):
    """[search]"""

    trials: int = Field(default=12, ge=2, le=1000)
    """Configurations drawn."""
    rounds: int = Field(default=2, ge=1, le=1000)
    """Gradient rounds in the first rung."""
    eta: int = Field(default=3, ge=2, le=10)
    """Each rung keeps the best 1/eta and gives them eta times the rounds; the last has at least two."""
    metric: Metric | None = None
    """What ranks the trials: "log_loss", "accuracy" or "balanced_accuracy" on the validation examples of
    all sites; log_loss when not set, accuracy in a private study."""
    epsilon_share: float = Field(default=0.3, gt=0, le=0.9)
    """Private studies: share of the privacy budget that goes into the search."""
    space: dict[str, Choices] = {}
    """What is searched: keys of this file, each with a list of values or a range; learning rate, strategy
    and local epochs when empty."""
    trial: int | None = Field(default=None, ge=1)
    """Set by foedus tune in what it sends to the sites: the trial that this study is."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        fixed = [key for key in self.space if key not in KEYS and not key.startswith("tuning.")]
        if fixed:
            raise ValueError(
                f"space: {', '.join(fixed)} cannot be searched; what can is {', '.join(KEYS)} and "
                "everything in [tuning]"
            )
        if self.bracket[-1].rounds > MAX_ROUNDS:
            raise ValueError(
                f"the last rung has {self.bracket[-1].rounds} rounds, the most is {MAX_ROUNDS}; lower rounds or eta"
            )
        return self

    @property
    def bracket(self) -> list[Rung]:
        """The rungs. One with a single trial would decide nothing, so there is none."""
        rungs = [Rung(self.trials, self.rounds, self.rounds)]
        while (kept := rungs[-1].trials // self.eta) > 1:
            before = rungs[-1].rounds
            rungs.append(Rung(kept, before * self.eta, before * (self.eta - 1)))
        return rungs

    @property
    def releases(self) -> int:
        """Releases of a private search after its start: each trial's rounds, and one validation a rung."""
        return sum(rung.trials * (rung.new + 1) for rung in self.bracket)

    def searched(self, *, private: bool) -> dict[str, Choices]:
        """The space, or what stands for an empty one; in an order that does not depend on the file's."""
        found = self.space or (PRIVATE_SPACE if private else SPACE)
        return {key: found[key] for key in sorted(found)}

    def ranks_by(self, *, private: bool) -> Metric:
        """The metric, or what stands for none."""
        return self.metric or ("accuracy" if private else "log_loss")

    def problems(self, sections: Mapping[str, type[Section]], *, private: bool) -> list[str]:
        """What makes it unfit for a study; every value is checked by itself.

        Args:
            sections: The study's sections, by the first half of a key.
            private: Whether the study's door spends a privacy budget.
        """
        space = self.searched(private=private)
        problems = []
        for key, choices in space.items():
            section, _, name = key.partition(".")
            for value in choices.ends:
                try:
                    validate(sections[section], {name: value}, source=key)
                except ConfigError as error:
                    problems += [f"search.space.{section}.{problem}" for problem in error.problems]
        size = prod(choices.size for choices in space.values())
        if size < self.trials:
            problems.append(
                f"search.trials is {self.trials} but search.space holds {size} combinations; lower it"
            )
        if private and self.metric == "log_loss":
            problems.append('search.metric: a private study releases counts only; use "accuracy"')
        if private and (idle := sorted(set(space) - set(PRIVATE_KEYS))):
            problems.append(
                f"search.space: {', '.join(idle)} would not change a private study's rounds or would need a start of "
                f"its own; what can be searched is {', '.join(PRIVATE_KEYS)}"
            )
        return problems


SPACE = {
    "federation.lr": Choices(low=0.005, high=0.5, scale="log"),
    "federation.strategy": Choices(values=["fedavg", "fedprox", "fedadam"]),
    "federation.local_epochs": Choices(values=[1, 2, 5]),
}
PRIVATE_SPACE = {
    "federation.lr": Choices(low=0.5, high=20.0, scale="log"),
    "federation.strategy": Choices(values=["fedavg", "fedavgm", "fedadam"]),
}


@dataclass(frozen=True)
class Drawn:
    """What was drawn.

    Attributes:
        trials: The configurations, all different.
        refused: Combinations that are no valid study and were drawn again, with the reason.
    """

    trials: list[Values]
    refused: list[tuple[Values, str]]


def draw(
    search: SearchSection, *, seed: int, private: bool, refusal: Callable[[Values], str | None]
) -> Drawn:
    """The trials' configurations; the same for the same space and seed.

    Args:
        search: What to draw.
        seed: The study's.
        private: Whether the study's door spends a privacy budget.
        refusal: Why a combination is no valid study, or None.

    Raises:
        ConfigError: If the space does not hold enough valid combinations; names one that is not.
    """
    rng, space = np.random.default_rng([seed, STREAM]), search.searched(private=private)
    found = Drawn([], [])
    seen: list[Values] = []
    for _ in range(ATTEMPTS * search.trials):
        values = {key: choices.draw(rng) for key, choices in space.items()}
        if values in seen:
            continue
        seen.append(values)
        reason = refusal(values)
        if reason is None:
            found.trials.append(values)
        else:
            found.refused.append((values, reason))
        if len(found.trials) == search.trials:
            return found
    problem = f"search.space gave {len(found.trials)} different valid combinations and search.trials is {search.trials}"
    if found.refused:
        values, reason = found.refused[0]
        problem += f"; {describe(values)} is not one: {reason}"
    raise ConfigError("the search", [f"{problem}; widen the space or lower trials"])


def describe(values: Mapping[str, Any]) -> str:
    """A configuration in words: key = value, …"""
    return ", ".join(f"{key} = {value}" for key, value in values.items())


def kept(scores: Mapping[int, float | None], at_most: int, *, metric: Metric) -> list[int]:
    """The best trials by number, best first; of equal ones the earlier; none without a score."""
    sign = 1.0 if metric == "log_loss" else -1.0
    judged = {number: sign * score for number, score in scores.items() if score is not None}
    return sorted(judged, key=lambda number: (judged[number], number))[:at_most]
