"""The study: what the coordinator asks the sites to do together (study.toml, strict)."""

import json
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Field, field_validator, model_validator

from foedus.columns import TableSection
from foedus.config import Names, Section, each_once, read_toml, validate
from foedus.errors import ConfigError

Strategy = Literal[
    "fedavg", "fedprox", "fedadam", "fedyogi", "fedadagrad", "fedavgm", "qfedavg",
    "fedmedian", "fedtrimmedavg", "krum", "bulyan",
]  # fmt: skip
SINGLE_UPDATES = frozenset({"qfedavg", "fedmedian", "fedtrimmedavg", "krum", "bulyan"})
"""Strategies that read each site's update; the others need only the weighted mean."""
Method = Literal["prototypical", "ridge"]
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class Identity(Section):
    """[study]"""

    name: str = Field(pattern=NAME)
    """Name of the study: letters, digits, dot, dash, underscore; at most 64."""
    task: Literal["classification"] = "classification"
    """What is learnt."""
    classes: Names = Field(min_length=2, max_length=1000)
    """Names of the classes, in the order of the head's outputs."""
    positive: str | None = None
    """The class the audit calls positive; the last one when not set."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of everything that is drawn at random, except privacy noise."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.positive is not None and self.positive not in self.classes:
            raise ValueError(f"positive is '{self.positive}', which is not one of the classes")
        return self


class BackboneSection(Section):
    """[backbone]"""

    source: str = "bundled:efficientnet-lite0"
    """bundled:NAME | timm:NAME | hf:NAME-or-folder | file:WEIGHTS | tabular."""
    tap: str | None = None
    """Where an image backbone is read, e.g. "blocks.4@2x2"; the registry's choice when not set."""
    image_size: int | None = Field(default=None, ge=32, le=1024, multiple_of=32)
    """Side of the square an image is resized to, pixels; a multiple of 32."""
    max_tokens: int | None = Field(default=None, ge=8, le=512)
    """Longest text that is read, tokens."""
    tune: str = "head"
    """What is trained: "head" (the backbone stays frozen)."""
    personal: Literal["none", "head"] = "none"
    """"head": each site also fits its own head, starting from the shared one."""

    @field_validator("tune")
    @classmethod
    def _only_head(cls, tune: str) -> str:
        if tune in ("lora", "last-blocks", "full"):
            raise ValueError(f'tune = "{tune}" is not in this version; set tune = "head"')
        if tune != "head":
            raise ValueError(f'tune is "{tune}"; set tune = "head"')
        return tune


class FederationSection(Section):
    """[federation]"""

    strategy: Strategy = "fedavg"
    """Flower's strategy that turns the sites' answers into the next head."""
    start: Literal["ridge", "prototypes", "zero"] = "ridge"
    """Head before the first gradient round; ridge and prototypes come from one round of sums."""
    rounds: int = Field(default=10, ge=1, le=10_000)
    """Gradient rounds."""
    local_epochs: int = Field(default=1, ge=1, le=100)
    """Passes over a site's training examples in one round."""
    batch_size: int = Field(default=64, ge=1)
    """Examples in one step of gradient descent."""
    lr: float = Field(default=0.05, gt=0, le=100)
    """Learning rate at the sites."""
    weight_decay: float = Field(default=0.0, ge=0, le=10)
    """L2 penalty on the head's weights, not on its bias."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many rounds without a lower federated validation loss; never when not set."""
    min_sites: int = Field(default=3, ge=1)
    """Fewest sites whose answers make a round."""
    round_timeout_s: float = Field(default=600.0, gt=0)
    """Deadline of a round, seconds."""
    proximal_mu: float = Field(default=0.1, ge=0)
    """fedprox: pull of a site's head to the shared one."""
    server_lr: float = Field(default=0.1, gt=0)
    """fedadam, fedyogi, fedadagrad, fedavgm: learning rate of the coordinator."""
    server_momentum: float = Field(default=0.9, ge=0, lt=1)
    """fedavgm: momentum of the coordinator."""
    fairness_q: float = Field(default=0.1, ge=0)
    """qfedavg: 0 weighs sites as fedavg does, larger values favour sites with a high loss."""
    malicious_sites: int = Field(default=0, ge=0)
    """krum, bulyan: how many sites may send anything."""
    trim: float = Field(default=0.2, gt=0, lt=0.5)
    """fedtrimmedavg: share cut off at either end."""


class DoorSection(Section):
    """[door]"""

    mode: Literal["secure+ddp", "local-dp", "secure-only", "open"] = "secure+ddp"
    """How a site's sums leave it. "open" sends them as they are and needs every site's consent."""
    epsilon: float = Field(default=3.0, gt=0, le=50)
    """secure+ddp, local-dp: what the whole study may give away of one unit, at each site."""
    delta: float = Field(default=1e-5, gt=0, lt=0.01)
    """secure+ddp, local-dp: chance that the guarantee does not hold; well below 1 / units."""
    clip_norm: float = Field(default=1.0, gt=0)
    """secure+ddp, local-dp: most that one unit may move a round's gradient (L2)."""

    @property
    def private(self) -> bool:
        """Whether releases are noised and charged to each site's ledger."""
        return self.mode in ("secure+ddp", "local-dp")

    @property
    def masked(self) -> bool:
        """Whether the coordinator learns sums only."""
        return self.mode in ("secure+ddp", "secure-only")


class FewShotSection(Section):
    """[fewshot]"""

    methods: Annotated[list[Method], AfterValidator(each_once)] = Field(
        default=["prototypical", "ridge"], min_length=1
    )
    """Heads to adapt."""
    n_way: int = Field(default=5, ge=2)
    """Classes in an episode."""
    n_shot: int = Field(default=5, ge=1)
    """Support examples of each class."""
    n_query: int = Field(default=15, ge=1)
    """Query examples of each class."""
    episodes: int = Field(default=600, ge=2, le=100_000)
    """Episodes in the evaluation; an interval takes two."""
    new_sites: Names = []
    """Sites that never take part in training and adapt the result; all sites when empty."""
    novel_classes: Names = []
    """Classes kept out of everything the few-shot head learns before it sees a support set."""
    curve_shots: Annotated[list[Annotated[int, Field(ge=1)]], AfterValidator(each_once)] = [1, 2, 5, 10]
    """Shots of the curve in the report."""


class FairnessSection(Section):
    """[fairness]"""

    policy: str
    """The auditor's policy file, relative to the study file."""


class Study(Section):
    """A whole study.toml."""

    study: Identity
    backbone: BackboneSection = BackboneSection()
    federation: FederationSection = FederationSection()
    door: DoorSection = DoorSection()
    table: TableSection | None = None
    fewshot: FewShotSection | None = None
    fairness: FairnessSection | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        problems = [*self._table_problems(), *self._fewshot_problems(), *self._door_problems()]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _door_problems(self) -> list[str]:
        door, strategy = self.door, self.federation.strategy
        problems = []
        if door.masked and strategy in SINGLE_UPDATES:
            problems.append(
                f'federation.strategy "{strategy}" reads each site\'s update, which door.mode "{door.mode}" hides; '
                'set door.mode = "local-dp" where the sites allow it, or choose a strategy that needs the mean only'
            )
        if door.private and self.fewshot is not None:
            problems.append(
                f'[fewshot] has no place in the privacy budget of door.mode "{door.mode}"; remove it, and let each '
                "new site adapt the finished model by itself with foedus fewshot"
            )
        return problems

    def _table_problems(self) -> list[str]:
        tabular = self.backbone.source == "tabular"
        if tabular and self.table is None:
            return ['backbone.source is "tabular" but there is no [[table.columns]]; declare the columns']
        if not tabular and self.table is not None:
            return [f'[table] is given but backbone.source is "{self.backbone.source}"; remove one']
        return []

    def _fewshot_problems(self) -> list[str]:
        if self.fewshot is None:
            return []
        classes, novel = self.study.classes, self.fewshot.novel_classes
        problems = [
            f"fewshot.novel_classes: '{c}' is not one of the classes" for c in novel if c not in classes
        ]
        pool = len(novel) or len(classes)
        if self.fewshot.n_way > pool:
            problems.append(
                f"fewshot.n_way is {self.fewshot.n_way} but there are {pool} classes to draw from; "
                "lower n_way or add classes"
            )
        return problems

    @property
    def n_classes(self) -> int:
        """Number of the head's outputs."""
        return len(self.study.classes)

    @property
    def newcomers(self) -> frozenset[str]:
        """Sites that only adapt the result."""
        return frozenset(self.fewshot.new_sites if self.fewshot else ())

    @property
    def positive_index(self) -> int:
        """Index of the class the audit calls positive."""
        positive = self.study.positive
        return len(self.study.classes) - 1 if positive is None else self.study.classes.index(positive)

    def to_json(self) -> str:
        """The study as canonical JSON: what travels, and what digests are taken of."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def load_study(path: Path) -> Study:
    """The study in a TOML file.

    Raises:
        ConfigError: Listing every problem in the file.
    """
    return validate(Study, read_toml(path), source=str(path))


def study_from_json(text: str) -> Study:
    """A study that arrived over the wire, checked as strictly as a file.

    Raises:
        ConfigError: If it is not a valid study.
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError:
        raise ConfigError("the study received", ["it is not valid JSON"]) from None
    if not isinstance(values, dict):
        raise ConfigError("the study received", ["it is not a table"])
    return validate(Study, {k: v for k, v in values.items() if v is not None}, source="the study received")


def parse_study(text: str) -> Study:
    """The study in TOML text (tests, notebooks)."""
    return validate(Study, tomllib.loads(text), source="study")
