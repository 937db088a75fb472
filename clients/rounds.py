"""One round at a site: which model trains from where, what leaves as the contribution, what stays here.

none, head   the shared model trains (FedAvg, FedProx; McMahan et al. 2017, Li et al. 2020)
ditto        so does the site's own model, drawn to the shared one (Li et al. 2021)
fedper       head and backbone train together, the head stays (Arivazhagan et al. 2019)
fedrep       first the head, then the backbone; the head stays (Collins et al. 2021)
local_norms  weights and biases of normalisation layers stay (FedBN; Li et al. 2021)
scaffold     gradients are corrected by control variates (Karimireddy et al. 2020, option II)
[meta]       episodes teach a start instead (clients.meta)
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from clients.memory import Memory
from clients.meta import train_start
from clients.training import Descent, train
from clients.workplace import Workplace
from foedus.backbones import Standardiser
from foedus.head import LinearHead
from foedus.model import CONTROL, Model, part
from foedus.statistic import Arrays

if TYPE_CHECKING:
    from clients.finetune import Lesson

OWN, NORMS = "own/", "norms/"
"""In a site's memory: its own model (or head), and its own normalisation."""
DITTO_STREAM = 2_000_000
"""Random numbers of a site's own model, beyond those of any round's shared one."""
Learns = Literal["all", "head", "backbone"]


@dataclass(frozen=True)
class Round:
    """What the coordinator asked for.

    Attributes:
        number: Of the round, from 1.
        run: The run's id.
        shared: The model that came.
        standardiser: The federation's.
        proximal_mu: FedProx's pull to the shared model.
        balance: What each group's examples count, as it travelled; all the same when empty.
    """

    number: int
    run: str
    shared: Model
    standardiser: Standardiser
    proximal_mu: float = 0.0
    balance: str = ""


def train_here(site: Workplace, asked: Round) -> tuple[Model, float]:
    """The model this site contributes, and its mean training loss; what stays is in the site's memory.

    Raises:
        BackboneError: If the backbone cannot be tuned here.
        FewShotError: If the training examples do not allow the study's episodes.
    """
    backbone, federation, meta = site.study.backbone, site.study.federation, site.study.meta
    if meta is not None:
        return train_start(site, meta, asked.shared, asked.standardiser, number=asked.number)
    memory = Memory(site.folder, asked.run)
    remembered = memory.before(asked.number)
    start = _start(site, asked.shared, remembered)
    kept: Arrays = {}
    if federation.strategy == "scaffold":
        trained, loss, own = _scaffold(site, asked, remembered)
        memory.keep(asked.number, {CONTROL + name: value for name, value in own.items()})
        return trained, loss
    trained, loss = _descend(site, asked, start)
    if backbone.personal == "ditto":
        mine = _ditto(site, asked, remembered)
        kept |= {OWN + name: value for name, value in mine.weights().items()}
    if backbone.keeps_heads:
        kept |= {OWN + name: value for name, value in trained.head.arrays().items()}
        trained = replace(trained, head=asked.shared.head)
    if backbone.local_norms:
        names = site.tunable.norms()
        kept |= {NORMS + name: trained.backbone[name] for name in names}
        trained = replace(trained, backbone=trained.backbone | {n: asked.shared.backbone[n] for n in names})
    if kept:
        memory.keep(asked.number, kept)
    return trained, loss


def own_tensors(site: Workplace, run: str) -> Arrays:
    """Tensors of the backbone that are this site's own (FedBN), as of its last round."""
    return part(Memory(site.folder, run).latest(), NORMS) if site.study.backbone.local_norms else {}


def own_model(site: Workplace, run: str) -> Model | None:
    """The site's own model (ditto) or head (fedper, fedrep: without tensors), as of its last round."""
    arrays = part(Memory(site.folder, run).latest(), OWN)
    return Model.from_arrays(arrays) if arrays else None


def _start(site: Workplace, shared: Model, remembered: Arrays) -> Model:
    """Where the round begins: the shared model, with what this site keeps in its place."""
    head = LinearHead.from_arrays(part(remembered, OWN)) if _has_own_head(site, remembered) else shared.head
    return Model(head, shared.backbone | part(remembered, NORMS))


def _has_own_head(site: Workplace, remembered: Arrays) -> bool:
    return site.study.backbone.keeps_heads and OWN + "weight" in remembered


def _descend(site: Workplace, asked: Round, start: Model) -> tuple[Model, float]:
    rng = site.rng(asked.number)
    if site.study.backbone.personal != "fedrep":
        return _trained(site, asked, start, rng=rng, mu=asked.proximal_mu)
    first, _ = _trained(site, asked, start, rng=rng, learns="head")
    return _trained(site, asked, first, rng=rng, mu=asked.proximal_mu, learns="backbone")


def _ditto(site: Workplace, asked: Round, remembered: Arrays) -> Model:
    """A step of the site's own model, drawn to the shared one as it came."""
    own = part(remembered, OWN)
    start = Model.from_arrays(own) if own else asked.shared
    mu = site.study.federation.ditto_lambda
    rng = site.rng(DITTO_STREAM, asked.number)
    return _trained(site, asked, start, rng=rng, mu=mu, centre=asked.shared)[0]


def _scaffold(site: Workplace, asked: Round, remembered: Arrays) -> tuple[Model, float, Arrays]:
    """One round with gradients corrected by c - c_i.

    Returns:
        The trained model whose control is c + (c_i' - c_i), the loss, and c_i'.
    """
    shared, descent = asked.shared, _descent(site, 0.0)
    before = shared.weights()
    common = {name: np.asarray(value, np.float32) for name, value in shared.control.items()}
    known = part(remembered, CONTROL)
    own = {name: np.asarray(known.get(name, np.zeros_like(c)), np.float32) for name, c in common.items()}
    correction: Arrays = {name: common[name] - own[name] for name in before}
    trained, loss = _trained(site, asked, shared, rng=site.rng(asked.number), correction=correction)
    steps = descent.epochs * -(-len(site.data.rows("train")) // descent.batch_size)
    rate, after = _rates(site, before, descent), trained.weights()
    fresh: Arrays = {}
    for name, value in before.items():
        moved = (np.asarray(value, np.float32) - np.asarray(after[name], np.float32)) / (steps * rate[name])
        fresh[name] = (own[name] - common[name] + moved).astype(np.float32)
    control: Arrays = {
        name: common[name] + (np.asarray(fresh[name], np.float32) - own[name]) for name in before
    }
    return replace(trained, control=control), loss, fresh


def _rates(site: Workplace, arrays: Arrays, descent: Descent) -> dict[str, float]:
    """Learning rate of each array."""
    if not site.study.backbone.tuned:
        return dict.fromkeys(arrays, descent.lr)
    from clients.finetune import rates

    depths = site.tunable.depths()
    return {name: rates(name, v.ndim, descent, site.study.tuning, depths)[0] for name, v in arrays.items()}


def _descent(site: Workplace, mu: float, *, epochs: int | None = None) -> Descent:
    federation = site.study.federation
    return Descent(
        epochs=epochs or federation.local_epochs,
        batch_size=federation.batch_size,
        lr=federation.lr,
        weight_decay=federation.weight_decay,
        proximal_mu=mu,
    )


def _trained(
    site: Workplace,
    asked: Round,
    start: Model,
    *,
    rng: np.random.Generator,
    mu: float = 0.0,
    centre: Model | None = None,
    correction: Arrays | None = None,
    learns: Learns = "all",
) -> tuple[Model, float]:
    """Local training of the head, or of head and backbone."""
    descent = _descent(site, mu, epochs=site.study.tuning.head_epochs if learns == "head" else None)
    if site.study.backbone.tuned:
        from clients.finetune import finetune

        lesson = _lesson(site, asked, descent)
        lesson = replace(lesson, centre=centre or asked.shared, correction=correction or {})
        return finetune(lesson, start, rng=rng, learns=learns)
    examples = site.balanced(site.examples("train", standardiser=asked.standardiser), asked.balance)
    head, loss = train(
        start.head,
        examples,
        descent,
        rng=rng,
        centre=(centre or asked.shared).head,
        correction=LinearHead.from_arrays(correction) if correction else None,
    )
    return Model(head), loss


def _lesson(site: Workplace, asked: Round, descent: Descent) -> "Lesson":
    from clients.finetune import Lesson

    rows = site.data.rows("train")
    return Lesson(
        tunable=site.tunable,
        kept=site.kept(rows),
        labels=site.data.labels[rows],
        standardiser=asked.standardiser,
        descent=descent,
        tuning=site.study.tuning,
    )
