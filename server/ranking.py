"""How well one backbone serves a study, from sums over the sites' own examples."""

from dataclasses import dataclass
from math import inf, sqrt

from fewshot.ridge import RidgeSums
from fewshot.transferability import h_score, log_evidence
from foedus.backbones import Moments, Standardiser, describe
from foedus.backbones.shift import Shift, SiteShift
from foedus.evaluation import Candidate, Evaluation
from server.federation import Federation
from server.start import PENALTIES, TEMPERATURES


@dataclass(frozen=True)
class Scores:
    """What the sums say about a backbone.

    Attributes:
        n_train: Training examples of all sites.
        n_validation: Validation examples of all sites.
        accuracy: Of the one-round ridge head on them; None without any.
        accuracy_error: Its standard error (Agresti & Coull 1998, which is above 0 at an accuracy of 1 too).
        log_loss: Of the same head.
        logme: Log evidence per training example.
        h_score: From 0 to n_classes - 1.
        shift: How far the sites lie apart.
        standardiser: Mean and deviation of every feature.
    """

    n_train: int
    n_validation: int
    accuracy: float | None
    accuracy_error: float | None
    log_loss: float | None
    logme: float
    h_score: float
    shift: SiteShift
    standardiser: Standardiser


def score(federation: Federation) -> Scores:
    """Score the study's backbone, in four exchanges.

    Raises:
        RoundError: If fewer than min_sites answer.
        FewShotError: If no site has a training example.
    """
    study = federation.study
    dim = describe(study.backbone, study.table).dim
    moments = federation.ask(Moments(dim=dim), split="train", what="asking for feature moments")
    federation.standardiser = moments
    totals = federation.ask(RidgeSums(n_classes=study.n_classes, dim=dim), split="train")
    heads = Evaluation([totals.head(penalty) for penalty in PENALTIES], TEMPERATURES)
    tried = federation.ask(heads, split="validation", what="choosing the ridge head")
    found = min((candidate for row in tried for candidate in row), key=_loss).metrics
    n, accuracy = found["n"], found["accuracy"]
    return Scores(
        n_train=totals.n,
        n_validation=n,
        accuracy=accuracy,
        accuracy_error=None if accuracy is None else _error(accuracy, n),
        log_loss=found["log_loss"],
        logme=log_evidence(totals),
        h_score=h_score(totals),
        shift=federation.ask(Shift(dim=dim), split="train", what="asking how far sites lie apart"),
        standardiser=moments,
    )


def _error(accuracy: float, n: int) -> float:
    share = (accuracy * n + 2) / (n + 4)
    return sqrt(share * (1 - share) / (n + 4))


def _loss(candidate: Candidate) -> float:
    loss = candidate.metrics["log_loss"]
    return inf if loss is None else loss
