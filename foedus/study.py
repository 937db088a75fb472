"""The study: what the coordinator asks the sites to do together (study.toml, strict)."""

import json
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Field, field_validator, model_validator

from foedus.columns import TableSection
from foedus.config import Names, Section, each_once, read_toml, validate
from foedus.errors import ConfigError
from foedus.meta import MetaSection
from foedus.search import SearchSection

Strategy = Literal[
    "fedavg", "fedprox", "fedadam", "fedyogi", "fedadagrad", "fedavgm", "qfedavg",
    "fedmedian", "fedtrimmedavg", "krum", "bulyan", "scaffold",
]  # fmt: skip
SINGLE_UPDATES = frozenset({"qfedavg", "fedmedian", "fedtrimmedavg", "krum", "bulyan"})
"""Strategies that read each site's update; the others need only the weighted mean."""
Start = Literal["ridge", "prototypes", "zero"]
Method = Literal["prototypical", "ridge", "maml"]
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
OTHER_TASKS = {
    "regression": "cut the number into classes, such as low, middle and high",
}
"""What people ask for beside classification, and what to do instead."""
Tuning = Literal["head", "lora", "last-blocks", "full"]
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class Identity(Section):
    """[study]"""

    name: str = Field(pattern=NAME)
    """Name of the study: letters, digits, dot, dash, underscore; at most 64."""
    task: Literal["classification", "multilabel"] = "classification"
    """What is learnt: "classification" one of the classes for each record, "multilabel" any number of them. A
    number is refused with what to do instead."""
    classes: Names = Field(min_length=2, max_length=1000)
    """Names of the classes, or labels, in the order of the head's outputs."""
    class_texts: list[str] | None = None
    """A text that describes each class, for the zero-shot baseline of a text or CLIP backbone; the classes'
    names when not set."""
    positive: str | None = None
    """The class the audit calls positive; the last one when not set. multilabel: the label that is audited."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of everything that is drawn at random, except privacy noise."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.positive is not None and self.positive not in self.classes:
            raise ValueError(f"positive is '{self.positive}', which is not one of the classes")
        texts = self.class_texts
        if texts is not None and (len(texts) != len(self.classes) or not all(map(str.strip, texts))):
            raise ValueError(
                f"class_texts holds {len(texts)} texts for {len(self.classes)} classes; write one for each, none blank"
            )
        return self

    @field_validator("task", mode="before")
    @classmethod
    def _known_task(cls, task: object) -> object:
        if isinstance(task, str) and task in OTHER_TASKS:
            raise ValueError(
                f'"{task}" is not supported, only "classification" and "multilabel"; {OTHER_TASKS[task]}'
            )
        return task

    @property
    def texts(self) -> list[str]:
        """What describes each class."""
        return self.class_texts or [name.replace("-", " ").replace("_", " ") for name in self.classes]


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
    tune: Tuning = "head"
    """What learns besides the head: "head" nothing, "lora" small matrices beside the weights, "last-blocks"
    the top of the network, "full" all of it."""
    personal: Literal["none", "head", "best", "ditto", "fedper", "fedrep"] = "none"
    """What each site keeps for itself. "head": its own head, fitted around the shared one after the rounds.
    "best": that, unless the shared head, one fitted to the site's examples alone, or the shared head adapted by
    few-shot steps is clearly better on its own validation examples.
    "ditto": its own model, drawn to the shared one in every round. "fedper", "fedrep": its own head all along,
    on a shared backbone, trained with it or before it."""
    align: Literal["none", "coral"] = "none"
    """"coral": each site whitens its own features and gives them the covariance of all, without labels."""
    local_norms: bool = False
    """Whether each site keeps the weights and biases of the tuned normalisation layers (FedBN)."""

    @property
    def keeps_heads(self) -> bool:
        """Whether heads never leave the sites during the rounds."""
        return self.personal in ("fedper", "fedrep")

    @property
    def tuned(self) -> bool:
        """Whether anything in the backbone learns."""
        return self.tune != "head"


class TuningSection(Section):
    """[tuning]: how the backbone learns, where backbone.tune is not "head"."""

    blocks: int | None = Field(default=None, ge=1)
    """How many of the last blocks learn: last-blocks 1, lora all, when not set."""
    rank: int = Field(default=8, ge=1, le=256)
    """lora: rank of the small matrices."""
    alpha: float = Field(default=16.0, gt=0)
    """lora: their product counts alpha / rank."""
    targets: list[str] = []
    """lora: last parts of the names of the layers that get them; the attention's, or the pointwise
    convolutions, when empty."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """How a site descends; adamw is set back in every round. scaffold needs sgd."""
    lr: float = Field(default=1e-3, gt=0, le=100)
    """Learning rate of the backbone's tensors; federation.lr is the head's."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Factor on lr for each block further down."""
    weight_decay: float = Field(default=0.0, ge=0, le=10)
    """Decay of the backbone's matrices; federation.weight_decay is the head's."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the features, and of the inputs of lora's matrices, that is left out at random."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of a label's weight that is spread over all classes."""
    max_norm: float = Field(default=1.0, gt=0)
    """Longer gradients of a step are cut to this L2 norm; not under scaffold."""
    augment: Literal["none", "crop", "crop-flip"] = "none"
    """Images: random shifts (and mirroring) in training. The whole network then runs in every epoch."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products and convolutions; auto is bfloat16 on a GPU, float32 on a CPU."""
    micro_batch: int | None = Field(default=None, ge=1)
    """Examples on the device at once; their gradients add up to a batch's. All when not set; halved
    where the memory does not suffice."""
    checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: slower, less memory."""
    compile: bool = False
    """torch.compile: a minute's wait, worth it for long rounds on a GPU."""
    head_epochs: int = Field(default=1, ge=1, le=100)
    """fedrep: epochs in which a site's own head learns, before the backbone does."""


class FederationSection(Section):
    """[federation]"""

    strategy: Strategy = "fedavg"
    """Flower's strategy that turns the sites' answers into the next head."""
    start: Start = "ridge"
    """Head before the first gradient round; ridge and prototypes come from one round of sums."""
    rounds: int = Field(default=10, ge=0, le=10_000)
    """Gradient rounds; with 0 the start is the model."""
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
    ditto_lambda: float = Field(default=0.1, gt=0)
    """personal = "ditto": pull of a site's own model to the shared one."""
    malicious_sites: int = Field(default=0, ge=0)
    """krum, bulyan: how many sites may send anything."""
    trim: float = Field(default=0.2, gt=0, lt=0.5)
    """fedtrimmedavg: share cut off at either end."""
    balance: Literal["none", "group"] = "none"
    """"group": examples count so that group and label are independent in training (reweighing; Kamiran & Calders
    2012). The attribute is used in training alone, not by the model."""
    balance_groups: dict[str, list[str]] = {}
    """balance: each attribute to its groups; several attributes are crossed."""
    balance_strength: float = Field(default=1.0, gt=0, le=1)
    """balance: 1 is full reweighing; less goes part of the way."""


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
    sampling_rate: float = Field(default=1.0, gt=0, le=1)
    """secure+ddp, local-dp: chance of each unit to be in a round, drawn by its site for each anew; 1 is all."""

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
    curve_ways: Annotated[list[Annotated[int, Field(ge=2)]], AfterValidator(each_once)] = [2, 5, 10, 20]
    """Ways of the second curve, at n_shot; those above n_way are left out."""

    @property
    def ways(self) -> list[int]:
        """Ways of the second curve, n_way included."""
        return sorted({*(way for way in self.curve_ways if way < self.n_way), self.n_way})

    @property
    def shots(self) -> list[int]:
        """Shots of the first curve, n_shot included."""
        return sorted({*self.curve_shots, self.n_shot})


class FairnessSection(Section):
    """[fairness]"""

    policy: str
    """The auditor's policy file, relative to the study file."""


class Study(Section):
    """A whole study.toml."""

    study: Identity
    backbone: BackboneSection = BackboneSection()
    tuning: TuningSection = TuningSection()
    federation: FederationSection = FederationSection()
    meta: MetaSection | None = None
    door: DoorSection = DoorSection()
    table: TableSection | None = None
    fewshot: FewShotSection | None = None
    fairness: FairnessSection | None = None
    search: SearchSection | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        problems = [
            *self._table_problems(),
            *self._multilabel_problems(),
            *self._rounds_problems(),
            *self._tuning_problems(),
            *self._fewshot_problems(),
            *self._door_problems(),
            *self._balance_problems(),
            *self._search_problems(),
            *(self.meta.problems(self) if self.meta is not None else []),
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _multilabel_problems(self) -> list[str]:
        """What asks for one class a record."""
        if not self.multilabel:
            return []
        federation, door = self.federation, self.door
        asked = {
            "[fewshot] does not take multilabel; remove it": self.fewshot is not None,
            "[meta] does not take multilabel; remove it": self.meta is not None,
            'federation.start = "prototypes" does not take multilabel; set start = "ridge"': (
                federation.start == "prototypes"
            ),
            'federation.balance does not take multilabel; set balance = "none"': federation.balance != "none",
            "[search] does not take multilabel in a private study, where trials are ranked by one noisy count; "
            "remove it": door.private and self.search is not None,
            "[fairness] audits one label of a multilabel study; name it in study.positive": (
                self.fairness is not None and self.study.positive is None
            ),
        }
        return [problem for problem, found in asked.items() if found]

    def _rounds_problems(self) -> list[str]:
        """What has no meaning without gradient rounds."""
        needs = {
            'federation.start = "zero"': self.federation.start == "zero",
            f'backbone.tune = "{self.backbone.tune}"': self.backbone.tuned,
            'backbone.personal = "ditto"': self.backbone.personal == "ditto",
            "[search]": self.search is not None,
        }
        return [
            f"{key} needs gradient rounds, and federation.rounds is 0; change one of them"
            for key, needed in needs.items()
            if needed and self.federation.rounds == 0
        ]

    def _door_problems(self) -> list[str]:
        door, strategy = self.door, self.federation.strategy
        problems = []
        if door.masked and strategy in SINGLE_UPDATES:
            problems.append(
                f'federation.strategy "{strategy}" reads each site\'s update, which door.mode "{door.mode}" hides; '
                'set door.mode = "local-dp" where the sites allow it, or choose a strategy that needs the mean only'
            )
        if door.private and door.sampling_rate < 1 and self.search is not None:
            problems.append("door.sampling_rate: the budget of [search] counts on all units; set it to 1")
        if door.private and strategy == "scaffold":
            problems.append(
                f'"scaffold" sends a second vector, which has no place in the privacy budget of door.mode '
                f'"{door.mode}"; choose another strategy'
            )
        if door.private and (self.backbone.keeps_heads or self.backbone.personal == "ditto"):
            problems.append(
                f'backbone.personal = "{self.backbone.personal}" needs rounds of local training, which door.mode '
                f'"{door.mode}" replaces by one noisy gradient; set personal = "head"'
            )
        if door.private and self.backbone.local_norms:
            problems.append(
                f'backbone.local_norms needs local training, which door.mode "{door.mode}" replaces'
            )
        if door.private and self.backbone.align != "none":
            problems.append(
                f'backbone.align = "{self.backbone.align}" asks for a covariance, which has no place in the privacy '
                f'budget of door.mode "{door.mode}"; set align = "none"'
            )
        if door.private and self.fewshot is not None:
            problems.append(
                f'[fewshot] has no place in the privacy budget of door.mode "{door.mode}"; remove it, and let each '
                "new site adapt the finished model by itself with foedus fewshot"
            )
        return problems

    def _tuning_problems(self) -> list[str]:
        backbone, tuning, strategy = self.backbone, self.tuning, self.federation.strategy
        problems = []
        if backbone.tuned and backbone.source == "tabular":
            problems.append('backbone.tune: a table has no network to tune; set tune = "head"')
        if not backbone.tuned and tuning != TuningSection():
            problems.append('[tuning] is given but backbone.tune is "head"; remove it, or set tune')
        if not backbone.tuned and (backbone.keeps_heads or backbone.local_norms):
            key = "local_norms" if backbone.local_norms else f'personal = "{backbone.personal}"'
            problems.append(f'backbone.{key} needs a backbone that learns; set tune = "lora", for example')
        if backbone.tuned and backbone.align != "none":
            problems.append(
                f'backbone.align = "{backbone.align}" needs features that stay as they are, and tune = '
                f'"{backbone.tune}" moves them; set tune = "head" or align = "none"'
            )
        if backbone.local_norms and backbone.tune == "lora":
            problems.append("backbone.local_norms: lora trains no normalisation layer; remove it")
        if strategy == "scaffold" and backbone.tuned and tuning.optimizer != "sgd":
            problems.append(
                'federation.strategy "scaffold" corrects plain gradients; set tuning.optimizer = "sgd"'
            )
        if strategy == "scaffold" and (backbone.keeps_heads or backbone.personal == "ditto"):
            problems.append(f'"scaffold" and backbone.personal = "{backbone.personal}" do not go together')
        if tuning.blocks is not None and backbone.tune == "full":
            problems.append('tuning.blocks: tune = "full" trains every block; remove it')
        return problems

    def _balance_problems(self) -> list[str]:
        federation, tune, mode = self.federation, self.backbone.tune, self.door.mode
        if federation.balance == "none":
            given = bool(federation.balance_groups)
            return ['federation.balance_groups is given but balance is "none"; set balance = "group"'] * given
        problems = []
        if not federation.balance_groups or not all(federation.balance_groups.values()):
            problems.append('federation.balance_groups names no group, e.g. { sex = ["female", "male"] }')
        if self.door.private:
            problems.append(
                f"federation.balance asks for counts by group, which have no place in the privacy budget of door.mode "
                f'"{mode}"; set balance = "none"'
            )
        if tune != "head":
            problems.append(
                f'federation.balance trains heads alone and backbone.tune is "{tune}"; set tune = "head"'
            )
        if federation.start == "prototypes":
            problems.append('federation.balance has no meaning for prototypes; set start = "ridge" or "zero"')
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

    def _search_problems(self) -> list[str]:
        if self.search is None:
            return []
        sections: dict[str, type[Section]] = {
            "federation": FederationSection,
            "tuning": TuningSection,
            "backbone": BackboneSection,
        }
        return self.search.problems(sections, private=self.door.private)

    @property
    def multilabel(self) -> bool:
        """Whether a record may have any number of the classes."""
        return self.study.task == "multilabel"

    @property
    def n_classes(self) -> int:
        """Number of the head's outputs."""
        return len(self.study.classes)

    @property
    def validates(self) -> bool:
        """Whether each round's shared model is judged as it is, on all validation examples."""
        return not (self.door.private or self.backbone.keeps_heads or self.meta is not None)

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
