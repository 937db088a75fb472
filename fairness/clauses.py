"""Which field of an audit answers which clause. The clauses are data: clauses/*.json, each with its dates.

No clause is law because it stands here, and none is met because its fields have values: the index
says where to look. Statuses are as of the date in `as_of`.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from functools import lru_cache
from importlib.resources import files as resources
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from fairness.policy import Profile
from foedus.config import Section
from foedus.errors import AuditError

NAMES = ("group", "metric", "attribute", "site", "name")
"""Keys by which an element of a list is called, the first that it has."""
MOST_VALUES = 8
STEP = re.compile(r"^([a-z_0-9]+)(?:\[([^\]]*)\])?$")
ROOTS = frozenset({"audit", "results", "study", "mitigation"})


class ClauseField(Section):
    """One thing a clause asks for, and where the audit says it."""

    asks: str = Field(min_length=1)
    paths: list[str]
    """Where it is answered, e.g. "audit.attributes[].groups[].n"; empty if this audit never answers it."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for path in self.paths:
            root, *rest = path.split(".")
            if root not in ROOTS or not rest or not all(STEP.match(step) for step in rest):
                raise ValueError(f"'{path}' is not a path into {', '.join(sorted(ROOTS))}")
        return self


class Clause(Section):
    """A clause of a regulation or standard, as of a date."""

    clause: str = Field(min_length=1)
    title: str = Field(min_length=1)
    jurisdiction: str = Field(min_length=1)
    status: str = Field(min_length=1)
    """In force, draft, voluntary; and what has still to be checked, by whom."""
    valid_from: date | None
    """First day it applies; null where it is not known or lies far back."""
    valid_to: date | None
    """Last day it applied."""
    as_of: date
    """When the status was looked up."""
    source: str = Field(min_length=1)
    profiles: list[Profile] = Field(min_length=1)
    """Policies it is shown for."""
    note: str | None
    fields: list[ClauseField] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.valid_from and self.valid_to and self.valid_from > self.valid_to:
            raise ValueError(f"{self.clause}: valid_from is after valid_to")
        return self

    def valid_on(self, day: date) -> bool:
        """Whether it applies on that day."""
        return (self.valid_from is None or self.valid_from <= day) and (
            self.valid_to is None or day <= self.valid_to
        )


class _File(Section):
    clauses: list[Clause]


@lru_cache(maxsize=1)
def catalogue() -> tuple[Clause, ...]:
    """Every clause that is shipped, in the order of file names.

    Raises:
        AuditError: If a file is not valid; the installation is then damaged.
    """
    found: list[Clause] = []
    folder = resources("fairness") / "clauses"
    for file in sorted(folder.iterdir(), key=lambda each: each.name):
        if file.name.endswith(".json"):
            try:
                found += _File.model_validate_json(file.read_bytes()).clauses
            except ValidationError as error:
                raise AuditError(f"the clauses in {file.name} are not valid: {error}") from None
    return tuple(found)


def index(
    profile: str, on: date, sources: Mapping[str, Any], *, clauses: Sequence[Clause] | None = None
) -> list[dict[str, Any]]:
    """The clauses for a profile that apply on a day, or will later, with the answers of one audit.

    Args:
        profile: The policy's.
        on: The audit's day.
        sources: "audit", "results", "study", "mitigation" to plain values; any may be missing or None.
        clauses: Instead of the catalogue.

    Returns:
        One dictionary a clause: its own keys, "applies" (false if only later), and "answers", each
        {"asks", "value"} with None where this audit says nothing.
    """
    rows = []
    for clause in catalogue() if clauses is None else clauses:
        later = clause.valid_from is not None and clause.valid_from > on
        if profile in clause.profiles and (clause.valid_on(on) or later):
            answers = [{"asks": each.asks, "value": _answer(each, sources)} for each in clause.fields]
            rows.append({**clause.model_dump(mode="json"), "applies": not later, "answers": answers})
    return sorted(rows, key=lambda row: not row["applies"])


def _answer(field: ClauseField, sources: Mapping[str, Any]) -> str | None:
    found = [text for path in field.paths if (text := look_up(path, sources)) is not None]
    return "; ".join(found) or None


def look_up(path: str, sources: Mapping[str, Any]) -> str | None:
    """What stands at a path, in words; None where there is nothing.

    "groups[]" takes every element of a list and calls each by its name, "gaps[tpr]" the one of that name.
    """
    reached: list[tuple[str, Any]] = [("", dict(sources))]
    for step in path.split("."):
        matched = STEP.match(step)
        if matched is None:
            return None
        key, wanted = matched.groups()
        reached = [(label, value[key]) for label, value in reached if _has(value, key)]
        if wanted is not None:
            reached = [pair for label, value in reached for pair in _elements(label, value, wanted)]
    named = path.rpartition(".")[2] in NAMES
    texts = [
        ("" if named else label, label if named else text)
        for label, value in reached
        if (text := _text(value)) is not None
    ]
    shown = [f"{label} {text}".strip() for label, text in texts[:MOST_VALUES]]
    more = len(texts) - len(shown)
    return None if not shown else ", ".join(shown) + (f" and {more} more" if more else "")


def _has(value: Any, key: str) -> bool:
    return isinstance(value, Mapping) and value.get(key) is not None


def _elements(label: str, value: Any, wanted: str) -> list[tuple[str, Any]]:
    found = []
    for each in value if isinstance(value, list) else []:
        name = _name(each)
        if wanted in ("", name):
            found.append((f"{label} {name}".strip() if not wanted else label, each))
    return found


def _name(element: Any) -> str:
    if not isinstance(element, Mapping):
        return ""
    parts = [str(element[key]) for key in NAMES if element.get(key) is not None]
    return " by ".join(parts)


def _text(value: Any) -> str | None:
    if isinstance(value, Mapping):
        figure = value.get("value")
        if not isinstance(figure, int | float):
            return None
        low, high = value.get("low"), value.get("high")
        ends = f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None else ""
        return f"{figure:.3f}{ends}"
    if isinstance(value, list):
        return f"{len(value)} stated in the report" if value else None
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value) if isinstance(value, str | int) and value != "" else None
