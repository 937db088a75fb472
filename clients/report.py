"""Each site's own report: what taking part is worth here, kept here."""

from typing import TypedDict

import numpy as np

from clients.choosing import Kind, choose_head
from clients.rounds import own_model, own_tensors
from clients.training import own_head
from clients.workplace import Part, Workplace
from foedus import files, metrics
from foedus.backbones import Moments, Standardiser
from foedus.evaluation import Evaluation
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.label_metrics import from_scores
from foedus.model import Model
from foedus.statistic import Arrays

LOCAL_STREAM, PERSONAL_STREAM = 1_000_001, 1_000_002
"""Streams of random numbers beyond any round's."""


SPLITS_TO_CHOOSE: tuple[Part, Part] = ("train", "validation")


class Choice(TypedDict, total=False):
    """personal = "best": which head the site kept, and the log-loss (nats) of each on its validation examples."""

    kept: Kind
    validation_log_loss: dict[Kind, float]


class Figures(TypedDict):
    """A site's own figures on its own test examples; personal is None when the study has none."""

    site: str
    n_train: int
    n_test: int
    local: metrics.Metrics
    federated: metrics.Metrics
    personal: metrics.Metrics | None


def write_report(
    site: Workplace, shared: Model, standardiser: Standardiser, *, run: str
) -> tuple[Figures, Evaluation, Arrays]:
    """Fit the site's local and personal heads, compare them with the shared one, and keep the result.

    The report, and the personal head, lie in the site's .foedus/reports/RUN, readable by its
    owner only.

    Args:
        site: Where we are.
        shared: The federated model; its head reads standardised features.
        standardiser: The federation's.
        run: The run's id.

    Returns:
        The site's own figures, which stay here unless its policy releases them; and the
        evaluation of its local (and personal) head with its counts, which are summed.
    """
    tuned = shared.backbone | own_tensors(site, run) if shared.backbone else {}
    test = site.examples("test", standardiser=standardiser, tuned=tuned)
    local, alone = local_head(site)
    local_test = _standardise(site.examples("test", standardiser=None), alone)
    personal, personal_test, choice = personal_model(site, Model(shared.head, tuned), standardiser, run=run)
    figures = Figures(
        site=site.name,
        n_train=len(site.data.rows("train")),
        n_test=len(test),
        local=score(local, local_test),
        federated=score(shared.head, test),
        personal=None if personal is None else score(personal.head, personal_test),
    )
    folder = site.folder / ".foedus" / "reports" / run
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    files.write_json(folder / "report.json", {**figures, **choice})
    if personal is not None:
        files.write_arrays(folder / "personal.safetensors", {**personal.weights(), **standardiser.arrays()})
    heads = [(local, local_test)]
    heads += [] if personal is None else [(personal.head, personal_test)]
    several = site.study.multilabel
    counted = [Evaluation([h], detail=True, multilabel=several).measure(examples) for h, examples in heads]
    together = {key: np.concatenate([part[key] for part in counted]) for key in counted[0]}
    return figures, Evaluation([h for h, _ in heads], detail=True, multilabel=several), together


def personal_model(
    site: Workplace, shared: Model, standardiser: Standardiser, *, run: str
) -> tuple[Model | None, Examples, Choice]:
    """The site's own version of the shared model, and its test examples; None if the study asks for none.

    "head" is fitted now, around the shared one, and "best" chosen now; the others come from the rounds. A
    site that trained in no round has the shared model.
    """
    choice: Choice = {}

    def examples(*splits: Part, tuned: Arrays) -> Examples:
        return site.examples(*splits, standardiser=standardiser, tuned=tuned)

    match site.study.backbone.personal:
        case "none":
            own = None
        case "head":
            fitted = examples("train", "validation", tuned=shared.backbone)
            own = Model(own_head(fitted, prior=shared.head, rng=site.rng(PERSONAL_STREAM)), shared.backbone)
        case "best":
            train, validation = (examples(split, tuned=shared.backbone) for split in SPLITS_TO_CHOOSE)
            seed = int(site.rng(PERSONAL_STREAM).integers(2**31))
            head, kept, losses = choose_head(shared.head, train, validation, seed=seed)
            own, choice = Model(head, shared.backbone), Choice(kept=kept, validation_log_loss=losses)
        case "ditto":
            own = own_model(site, run) or shared
        case "fedper" | "fedrep":
            trained = own_model(site, run)
            own = Model(trained.head if trained else shared.head, shared.backbone)
    return own, examples("test", tuned=shared.backbone if own is None else own.backbone), choice


def local_head(site: Workplace) -> tuple[LinearHead, Standardiser]:
    """What the site does alone: its own standardisation, its own head, nothing shared."""
    moments = Moments(dim=site.spec.dim)
    alone = moments.read(moments.measure(site.examples("train", standardiser=None)))
    own = _standardise(site.examples("train", "validation", standardiser=None), alone)
    prior = LinearHead.zeros(site.study.n_classes, site.spec.dim)
    return own_head(own, prior=prior, rng=site.rng(LOCAL_STREAM)), alone


def score(head: LinearHead, examples: Examples) -> metrics.Metrics:
    """Metrics of a head on examples."""
    return from_scores(examples.labels, head.scores(examples.features))


def _standardise(examples: Examples, standardiser: Standardiser) -> Examples:
    return Examples(standardiser.apply(examples.features), examples.labels, examples.groups)
