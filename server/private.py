"""The start of a private study: two noisy sums instead of looking at the data."""

from dataclasses import replace

from fewshot.private import SUMS, PrivatePrototypes, PrivateRidge, ridge_head
from foedus import noising
from foedus.backbones import Centre, describe, public_standardiser
from foedus.budget import START, plan
from foedus.head import LinearHead
from server.federation import Federation
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
    found = federation.ask(Centre(dim=dim), split="train", what="asking where the examples lie")
    federation.standardiser = replace(federation.standardiser, centre=found.centre)
    federation.n_train = found.n
    head = _start(federation, dim)
    return Training(start=head, head=head, best=head, best_loss=float("inf"))


def _start(federation: Federation, dim: int) -> LinearHead:
    study, n_classes = federation.study, federation.study.n_classes
    match study.federation.start:
        case "ridge":
            sums = PrivateRidge(n_classes, dim)
            deviation = noising.deviation(sums.declare(), plan(study).multiplier(START))[SUMS]
            gram, xty = federation.ask(sums, split="train")
            return ridge_head(gram, xty, deviation=deviation).scaled(TEMPERATURE)
        case "prototypes":
            totals = federation.ask(PrivatePrototypes(n_classes, dim), split="train")
            return (
                totals.head().scaled(TEMPERATURE)
                if totals.present.any()
                else LinearHead.zeros(n_classes, dim)
            )
        case "zero":
            return LinearHead.zeros(n_classes, dim)
