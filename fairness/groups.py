"""Which groups are counted: attributes, their intersections, and the explicit "unknown"."""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from foedus.config import Section, validate
from foedus.errors import ConfigError
from foedus.examples import UNKNOWN, Examples

SEPARATOR = "|"
"""Joins the names of an intersection ("sex|age_band") and of its groups ("female|60+")."""
MAX_GROUPS = 200
"""Most groups of one attribute or intersection."""
MAX_NAME = 64


class _Wire(Section):
    attributes: dict[str, list[str]] = Field(min_length=1)
    intersections: list[list[str]]


@dataclass(frozen=True)
class GroupPlan:
    """Attributes with their groups ("unknown" is the last), and which attributes meet.

    Attributes:
        attributes: Attribute to group names.
        intersections: Attributes to look at together.
    """

    attributes: dict[str, tuple[str, ...]]
    intersections: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, attributes: Mapping[str, Sequence[str]], intersections: Sequence[Sequence[str]]) -> Self:
        """A plan in which every attribute ends with "unknown"."""
        named = {
            name: (*(group for group in groups if group != UNKNOWN), UNKNOWN)
            for name, groups in attributes.items()
        }
        return cls(named, tuple(tuple(pair) for pair in intersections))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """A plan that arrived over the wire, checked as strictly as a policy.

        Raises:
            ConfigError: If it is not a plan.
        """
        source = "the groups received"
        try:
            values = json.loads(text)
        except json.JSONDecodeError:
            raise ConfigError(source, ["they are not valid JSON"]) from None
        if not isinstance(values, dict):
            raise ConfigError(source, ["they are not a table"])
        wire = validate(_Wire, values, source=source)
        problems = group_problems(wire.attributes)
        for pair in wire.intersections:
            if len(pair) < 2 or len(set(pair)) < len(pair) or not set(pair) <= set(wire.attributes):
                problems.append(f"intersections: {pair} does not name two or more different attributes")
        plan = cls.of(wire.attributes, wire.intersections)
        if not problems and any(len(groups) > MAX_GROUPS for groups in plan.tables().values()):
            problems.append(f"intersections: more than {MAX_GROUPS} groups")
        if problems:
            raise ConfigError(source, problems)
        return plan

    def to_json(self) -> str:
        """The plan as one string, the form in which it travels."""
        values = {"attributes": self.attributes, "intersections": self.intersections}
        return json.dumps(values, separators=(",", ":"))

    def tables(self) -> dict[str, tuple[str, ...]]:
        """Every attribute and intersection to its groups, in the order of `codes`."""
        crossed = {
            SEPARATOR.join(pair): tuple(
                SEPARATOR.join(names) for names in itertools.product(*(self.attributes[a] for a in pair))
            )
            for pair in self.intersections
        }
        return {**self.attributes, **crossed}

    def codes(self, examples: Examples) -> dict[str, NDArray[np.int64]]:
        """Every attribute and intersection to (n,) indices into its groups.

        A value the plan does not name, and an attribute the site does not have, is "unknown".
        """
        single = {name: self._codes_of(examples, name) for name in self.attributes}
        crossed = {}
        for pair in self.intersections:
            code = np.zeros(len(examples), np.int64)
            for name in pair:
                code = code * len(self.attributes[name]) + single[name]
            crossed[SEPARATOR.join(pair)] = code
        return {**single, **crossed}

    def _codes_of(self, examples: Examples, name: str) -> NDArray[np.int64]:
        groups = self.attributes[name]
        code = np.full(len(examples), len(groups) - 1, np.int64)
        if (values := examples.groups.get(name)) is not None:
            for index, group in enumerate(groups[:-1]):
                code[values == group] = index
        return code


def is_known(group: str) -> bool:
    """Whether no attribute of the group is "unknown"; only such groups are compared."""
    return UNKNOWN not in group.split(SEPARATOR)


def group_problems(attributes: Mapping[str, Sequence[str]]) -> list[str]:
    """What is wrong with attribute and group names, one sentence each."""
    problems = []
    for attribute, groups in attributes.items():
        key = f"attributes.{attribute}"
        for name in (attribute, *groups):
            if not 0 < len(name) <= MAX_NAME or SEPARATOR in name or not name.isprintable():
                problems.append(f"{key}: '{name}' needs 1 to {MAX_NAME} printable characters without '|'")
        known = [group for group in groups if group != UNKNOWN]
        if not 1 <= len(known) < MAX_GROUPS:
            problems.append(f"{key} has {len(known)} groups; name 1 to {MAX_GROUPS - 1}")
        repeated = sorted({group for group in known if known.count(group) > 1})
        if repeated:
            problems.append(f"{key} repeats {', '.join(repeated)}; name each group once")
    return problems
