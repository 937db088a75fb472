"""Before the first gradient round: standardise, and start from a head that one round of sums gives."""

import logging
from dataclasses import replace

import numpy as np

from fairness.balance import balance_request
from fewshot.prototypical import PrototypeSums
from fewshot.ridge import RidgeSums
from foedus.backbones import Moments, describe, initial
from foedus.backbones.coral import Scatter
from foedus.evaluation import Candidate, Evaluation
from foedus.head import LinearHead
from foedus.model import Model
from foedus.study import Start
from server.federation import Federation
from server.rounds import Training

log = logging.getLogger(__name__)

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
"""Ridge penalties tried, per example."""
TEMPERATURES = tuple(2.0**k for k in range(-10, 7))
"""Factors that turn a closed-form head's scores into log-odds."""


def begin(federation: Federation) -> Training:
    """The standardiser (kept in the federation) and the head before round 1.

    Penalty and temperature are chosen by the federated validation loss.

    Raises:
        RoundError: If fewer than min_sites answer.
    """
    study = federation.study
    dim = describe(study.backbone, study.table).dim
    federation.standardiser = federation.ask(
        Moments(dim=dim), split="train", what="asking for feature moments"
    )
    federation.n_train = federation.standardiser.n
    balance(federation)
    if study.backbone.align == "coral":
        colour = federation.ask(Scatter(dim=dim), split="train", what="asking how features vary at each site")
        federation.standardiser = replace(federation.standardiser, colour=colour)
    temperatures = (1.0,) if study.federation.start == "zero" else TEMPERATURES
    best = _best(federation, _closed_form_heads(federation, dim, study.federation.start), temperatures)
    loss = best.metrics["log_loss"]
    head = best.head.scaled(best.temperature)
    model = Model(head, initial(study))
    if study.backbone.tuned and study.federation.start == "ridge" and fits_exactly(federation.n_train, dim):
        log.warning(
            "the ridge start fits %s examples of %s features all but exactly, so the backbone gets small gradients; "
            'compare it with federation.start = "zero" and local_epochs = 2 (docs/tuning.md).',
            federation.n_train,
            dim,
        )
    if study.federation.strategy == "scaffold":
        model = replace(model, control={k: np.zeros_like(v) for k, v in model.weights().items()})
    return Training(start=model, model=model, best=model, best_loss=float("inf") if loss is None else loss)


def fits_exactly(n: int, dim: int) -> bool:
    """Whether a linear head on `dim` features can fit n examples whatever their labels are, as likely as not.

    Of all ways to label 2 (dim + 1) examples with two classes, half are linearly separable (Cover 1965, theorem 1).
    """
    return n <= 2 * (dim + 1)


def balance(federation: Federation) -> None:
    """In a study that balances groups, ask how many there are of each group and label; kept in the federation."""
    study = federation.study
    if study.federation.balance == "group":
        request = balance_request(study.federation, n_classes=study.n_classes)
        federation.balance = federation.ask(request, split="train", what="asking for groups").to_json()


def refit(federation: Federation, training: Training) -> Training:
    """The best model with a shared head fitted anew, where each site's own never left it.

    Whoever joins later, and the audit, need one head on the backbone that the sites trained; one more
    round of sums gives it.
    """
    federation.use(training.best)
    best = _best(
        federation, _closed_form_heads(federation, training.best.head.weight.shape[1], "ridge"), TEMPERATURES
    )
    loss = best.metrics["log_loss"]
    model = replace(training.best, head=best.head.scaled(best.temperature))
    return replace(training, model=model, best=model, best_loss=float("inf") if loss is None else loss)


def _closed_form_heads(federation: Federation, dim: int, start: Start) -> list[LinearHead]:
    n_classes = federation.study.n_classes
    match start:
        case "ridge":
            sums = RidgeSums(n_classes=n_classes, dim=dim, multilabel=federation.study.multilabel)
            totals = federation.ask(sums, split="train")
            return [totals.head(penalty) for penalty in PENALTIES]
        case "prototypes":
            return [federation.ask(PrototypeSums(n_classes=n_classes, dim=dim), split="train").head()]
        case "zero":
            return [LinearHead.zeros(n_classes, dim)]


def _best(federation: Federation, heads: list[LinearHead], temperatures: tuple[float, ...]) -> Candidate:
    evaluation = Evaluation(heads, temperatures, multilabel=federation.study.multilabel)
    tried = federation.ask(evaluation, split="validation", what="choosing the start")
    candidates = [candidate for row in tried for candidate in row]

    def loss(candidate: Candidate) -> float:
        value = candidate.metrics["log_loss"]
        return float("inf") if value is None else value

    return min(candidates, key=loss)
