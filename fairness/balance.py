"""Group-balanced training: what each example counts, so that group and label are independent.

Reweighing (Kamiran & Calders 2012, algorithm 3): an example of group g and label y counts
n_g n_y / (n n_gy). The coordinator needs the counts alone; the attribute serves training and is no
input of the model.
"""

import json
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fairness.edges import expect_arrays
from fairness.groups import SEPARATOR, GroupPlan, is_known
from foedus.config import Section, validate
from foedus.errors import ConfigError
from foedus.examples import Examples
from foedus.statistic import Arrays, Quantity, Settings, count
from foedus.study import FederationSection

COUNTS = "counts"
MOST = 10.0
"""No example counts more, however few there are like it."""


@dataclass(frozen=True)
class Balance:
    """What examples count, by group and label.

    Attributes:
        plan: The attributes; the last of its tables holds the groups.
        weights: (n_groups, n_classes), float64.
    """

    plan: GroupPlan
    weights: NDArray[np.float64]

    def apply(self, examples: Examples, *, fewest: int = 1) -> Examples:
        """The examples with what each counts.

        Args:
            examples: Of one site.
            fewest: Those of a group and label with fewer here count 1: the difference of two weighted
                sums would otherwise tell of them alone.
        """
        code, labels = _crossed(self.plan, examples), examples.labels
        here = np.zeros(self.weights.shape, np.int64)
        np.add.at(here, (code, labels), 1)
        weights = np.where(here >= fewest, self.weights, 1.0)
        return replace(examples, importance=weights[code, labels])

    def to_json(self) -> str:
        """As it travels."""
        return json.dumps({"groups": self.plan.to_json(), "weights": self.weights.tolist()})

    @classmethod
    def from_json(cls, text: str, *, n_classes: int) -> Self:
        """What arrived at a site, checked.

        Raises:
            ConfigError: If it is not a balance for so many classes.
        """
        source = "the balance received"
        try:
            found = validate(_Wire, json.loads(text), source=source)
            weights = np.asarray(found.weights, np.float64)
        except ValueError:
            raise ConfigError(source, ["it is not a table of weights"]) from None
        plan = GroupPlan.from_json(found.groups)
        if weights.shape != (len(_groups(plan)), n_classes) or not ((weights > 0) & (weights <= MOST)).all():
            raise ConfigError(source, [f"its weights do not fit the groups and classes, or exceed {MOST:g}"])
        return cls(plan, weights)


class _Wire(Section):
    groups: str = Field(max_length=65_536)
    weights: list[list[float]] = Field(min_length=1)


class _Request(Section):
    groups: str = Field(max_length=65_536)
    n_classes: int = Field(ge=2, le=1000)


@dataclass(frozen=True)
class GroupLabels:
    """The statistic "group-labels": people of each group and label.

    Attributes:
        plan: The attributes, with one intersection of all where there are several.
        n_classes: Of the study.
        strength: 1 for full reweighing, less for part of the way. Not sent to the sites.
    """

    plan: GroupPlan
    n_classes: int
    strength: float = 1.0
    name: ClassVar[str] = "group-labels"

    def settings(self) -> Settings:
        """Groups and classes."""
        return {"groups": self.plan.to_json(), "n_classes": self.n_classes}

    def arrays(self) -> Arrays:
        """No array parameter."""
        return {}

    @classmethod
    def from_wire(cls, settings: Settings, arrays: Arrays) -> Self:
        """The same statistic, from what arrived at the site."""
        request = validate(_Request, settings, source="the request received")
        expect_arrays(arrays, set())
        return cls(GroupPlan.from_json(request.groups), request.n_classes)

    def declare(self) -> dict[str, Quantity]:
        """One array, (n_groups, n_classes)."""
        return {COUNTS: count(len(_groups(self.plan)), self.n_classes)}

    def measure(self, examples: Examples) -> Arrays:
        """This site's people."""
        shape = len(_groups(self.plan)), self.n_classes
        cell = _crossed(self.plan, examples) * self.n_classes + examples.labels
        return {COUNTS: np.bincount(cell, minlength=shape[0] * shape[1]).astype(np.int64).reshape(shape)}

    def read(self, total: Arrays) -> Balance:
        """What examples count; those of an unknown group count 1."""
        counts = total[COUNTS].astype(np.int64)
        known = np.asarray([is_known(group) for group in _groups(self.plan)])
        weights = np.ones(counts.shape)
        weights[known] = reweighing(counts[known], strength=self.strength)
        return Balance(self.plan, weights)


def balance_request(federation: FederationSection, *, n_classes: int) -> GroupLabels:
    """What to ask the sites for, given a study's [federation].

    Raises:
        ConfigError: If the groups' names are not valid.
    """
    names = federation.balance_groups
    plan = GroupPlan.of(names, [list(names)] if len(names) > 1 else [])
    return GroupLabels(GroupPlan.from_json(plan.to_json()), n_classes, federation.balance_strength)


def reweighing(counts: NDArray[np.int64], *, strength: float = 1.0) -> NDArray[np.float64]:
    """What an example counts, by group and label (Kamiran & Calders 2012, algorithm 3).

    With strength 1 the weighted counts of group and label are independent, and every group and
    every label keep their totals (but for the cap of 10).

    Args:
        counts: (n_groups, n_classes), examples.
        strength: 0..1, of the way from 1 to the full weight.

    Returns:
        (n_groups, n_classes), float64, at most 10; 1 where there is no example.
    """
    n = counts.sum()
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0, keepdims=True) / max(int(n), 1)
    full = np.divide(expected, counts, out=np.ones(counts.shape), where=counts > 0)
    return np.asarray(np.minimum(1 + strength * (full - 1), MOST), np.float64)


def _groups(plan: GroupPlan) -> tuple[str, ...]:
    return list(plan.tables().values())[-1]


def _crossed(plan: GroupPlan, examples: Examples) -> NDArray[np.int64]:
    key = SEPARATOR.join(plan.attributes)
    return plan.codes(examples)[key]
