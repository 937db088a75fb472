"""Before the first gradient round: standardise, and start from a head that one round of sums gives."""

import logging

from fewshot.prototypical import PrototypeSums
from fewshot.ridge import RidgeSums
from foedus.backbones import Moments, describe
from foedus.evaluation import Candidate, Evaluation
from foedus.head import LinearHead
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
    best = _best(federation, _closed_form_heads(federation, dim))
    loss = best.metrics["log_loss"]
    head = best.head.scaled(best.temperature)
    return Training(start=head, head=head, best=head, best_loss=float("inf") if loss is None else loss)


def _closed_form_heads(federation: Federation, dim: int) -> list[LinearHead]:
    n_classes = federation.study.n_classes
    match federation.study.federation.start:
        case "ridge":
            totals = federation.ask(RidgeSums(n_classes=n_classes, dim=dim), split="train")
            return [totals.head(penalty) for penalty in PENALTIES]
        case "prototypes":
            return [federation.ask(PrototypeSums(n_classes=n_classes, dim=dim), split="train").head()]
        case "zero":
            return [LinearHead.zeros(n_classes, dim)]


def _best(federation: Federation, heads: list[LinearHead]) -> Candidate:
    temperatures = (1.0,) if federation.study.federation.start == "zero" else TEMPERATURES
    tried = federation.ask(Evaluation(heads, temperatures), split="validation", what="choosing the start")
    candidates = [candidate for row in tried for candidate in row]

    def loss(candidate: Candidate) -> float:
        value = candidate.metrics["log_loss"]
        return float("inf") if value is None else value

    return min(candidates, key=loss)
