"""The statistics a site answers, by name. Nothing else can be asked of it."""

from typing import Any

import numpy as np

from fairness.balance import GroupLabels
from fairness.counts import AuditCounts
from fairness.edges import AuditEdges
from fairness.mitigation import AsideCounts
from fairness.private import PrivateAudit
from fewshot.episode_sums import EpisodeSums
from fewshot.private import PrivatePrototypes, PrivateRidge
from fewshot.prototypical import PrototypeSums
from fewshot.ridge import RidgeSums
from fewshot.start_sums import StartSums
from foedus.backbones import Centre, Moments
from foedus.backbones.coral import Scatter
from foedus.backbones.shift import Shift
from foedus.config import nearest
from foedus.data.quality import DataQuality
from foedus.errors import ConfigError
from foedus.evaluation import Evaluation
from foedus.examples import Examples
from foedus.histograms import Histograms
from foedus.labels import alike
from foedus.statistic import Arrays, Settings, Statistic
from foedus.study import Study

KNOWN: dict[str, type[Statistic[Any]]] = {
    statistic.name: statistic
    for statistic in (
        Moments,
        RidgeSums,
        PrototypeSums,
        Evaluation,
        EpisodeSums,
        StartSums,
        AuditEdges,
        AuditCounts,
        AsideCounts,
        Centre,
        PrivatePrototypes,
        PrivateRidge,
        PrivateAudit,
        GroupLabels,
        Shift,
        Scatter,
        Histograms,
        DataQuality,
    )
}

FEATURE_SUMS = frozenset(
    found.name for found in (Moments, RidgeSums, PrototypeSums, Shift, Scatter, Histograms)
)
"""Sums of features without noise: over few records, or as the difference of two, they tell of single ones."""

SEVERAL = frozenset(
    found.name
    for found in (Moments, RidgeSums, Evaluation, Shift, Scatter, DataQuality, Centre, PrivateRidge)
)
"""Statistics that know several labels a record."""
ONE_LABEL = frozenset(found.name for found in (AuditEdges, AuditCounts, AsideCounts, PrivateAudit))
"""Statistics that a multilabel study asks about one label, as of two classes."""


def as_read(name: str, examples: Examples, study: Study) -> Examples:
    """The examples as that statistic reads them: in a multilabel study the audit's are of study.positive alone.

    Raises:
        ConfigError: If it takes one class a record and the study is multilabel.
    """
    if not study.multilabel or name in SEVERAL:
        return examples
    if name in ONE_LABEL:
        return examples.of_label(study.positive_index)
    raise ConfigError("the request received", [f"'{name}' does not take multilabel"])


def common_classes(examples: Examples, fewest: int) -> Examples:
    """The examples of the classes, or sets of labels, that have at least `fewest` here.

    All sums of features are made of the same ones: the difference of two would give away the rest.
    """
    kinds = alike(examples.labels)
    n_each = np.bincount(kinds)
    return examples.take(np.flatnonzero(n_each[kinds] >= fewest))


def build(name: str, settings: Settings, arrays: Arrays) -> Statistic[Any]:
    """The statistic asked for.

    Raises:
        ConfigError: If the name is unknown or its parameters are not valid.
    """
    if name not in KNOWN:
        hint = nearest(name, sorted(KNOWN))
        raise ConfigError("the request received", [f"'{name}' is not a statistic; {hint}"])
    try:
        return KNOWN[name].from_wire(settings, arrays)
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(
            "the request received", [f"the parameters of '{name}' are not valid: {error}"]
        ) from error
