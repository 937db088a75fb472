"""The start of a private study: two noisy sums instead of looking at the data."""

from dataclasses import replace
from math import sqrt

from fewshot.private import PrivatePrototypes, PrivateRidge, prototype_head, ridge_head
from foedus import noising
from foedus.backbones import Centre, describe, public_standardiser
from foedus.budget import plan, release_of
from foedus.door import COLLUDERS
from foedus.head import LinearHead
from server.federation import Federation
from server.masked import MaskedSums
from server.rounds import Training

TEMPERATURE = 10.0
"""Turns one-round scores into log-odds. Validation could choose it better, for a share of the budget."""


def begin_private(federation: Federation) -> Training:
    """Where the examples lie, how many they are, and the head before round 1.

    Raises:
        ConfigError: If a number column has no declared range.
        RoundError: If fewer than min_sites answer.
    """
    study = federation.study
    dim = describe(study.backbone, study.table).dim
    federation.standardiser = public_standardiser(dim, study.table)
    centre = Centre(dim=dim)
    found = federation.ask(centre, split="train", what="asking where the examples lie")
    shrunk = found.shrunk(_deviation(federation, centre))
    federation.standardiser = replace(federation.standardiser, centre=shrunk)
    federation.n_train = found.n
    head = _start(federation, dim)
    return Training(start=head, head=head, best=head, best_loss=float("inf"))


def _start(federation: Federation, dim: int) -> LinearHead:
    n_classes = federation.study.n_classes
    match federation.study.federation.start:
        case "ridge":
            ridge = PrivateRidge(n_classes, dim)
            gram, xty = federation.ask(ridge, split="train")
            return ridge_head(gram, xty, deviation=_deviation(federation, ridge)).scaled(TEMPERATURE)
        case "prototypes":
            prototypes = PrivatePrototypes(n_classes, dim)
            totals = federation.ask(prototypes, split="train")
            return prototype_head(totals, deviation=_deviation(federation, prototypes)).scaled(TEMPERATURE)
        case "zero":
            return LinearHead.zeros(n_classes, dim)


def _deviation(federation: Federation, statistic: Centre | PrivatePrototypes | PrivateRidge) -> float:
    """Standard deviation of the noise on each entry of a total: what to expect, not what is promised.

    The promise rests on `honest` shares; all sites of the cohort add one, so the total has more.
    """
    honest = 1
    if isinstance(federation.sums, MaskedSums):
        honest = federation.sums.roster.threshold - COLLUDERS
    [promised] = noising.deviation(
        statistic.declare(), plan(federation.study).multiplier(release_of(statistic.name))
    ).values()
    return promised * sqrt(max(1.0, len(federation.cohort) / honest))
