"""The auditor's policy: whom to compare, by which figures, and what evidence is asked for (policy.toml)."""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, model_validator

from fairness.groups import MAX_GROUPS, SEPARATOR, GroupPlan, group_problems
from fairness.signing import ROLE
from foedus.config import Section, nearest, read_toml, validate
from foedus.errors import ConfigError
from foedus.examples import UNKNOWN
from foedus.study import NAME

Profile = Literal["health.diagnosis", "lending", "custom"]
GateMetric = Literal[
    "tpr", "fnr", "fpr", "tnr", "ppv", "npv", "selection_rate", "accuracy", "auc", "oe_ratio"
]
Compare = Literal["max_difference", "min_ratio"]
DisclosureProfile = Literal["us_cms", "uk", "ohdsi", "datashield"]
DISCLOSURE_PROFILES: dict[str, tuple[int, bool]] = {
    "us_cms": (11, True),  # ResDAC, CMS cell size suppression policy, 2024
    "uk": (10, False),  # UK LLC guidebook: fewer than 10, zero included
    "ohdsi": (5, True),  # omopgenerics: minCellCount
    "datashield": (3, True),  # nfilter.tab
}
"""Profile to the smallest count that may be written, and whether a zero may."""


class PolicyIdentity(Section):
    """[policy]"""

    name: str = Field(pattern=NAME)
    """Name of the policy: letters, digits, dot, dash, underscore; at most 64."""
    profile: Profile = "custom"
    """Gives the gates when the file has none: missed cases and ranking for a diagnosis,
    the share selected for lending."""
    decision_threshold: float = Field(default=0.5, gt=0, lt=1)
    """Two classes: a probability at or above it is a positive decision. More classes: not used."""
    intersections: list[Annotated[list[str], Field(min_length=2, max_length=4)]] = []
    """Attributes to look at together, e.g. [["sex", "age_band"]]."""
    audit_start: bool = False
    """Audit the head before the first gradient round, too, so that what the backbone brings and what
    training adds are told apart. Costs one more sum; not in private studies."""


class Gate(Section):
    """[[gate]]: one promise the model has to keep."""

    metric: GateMetric
    attribute: str | None = None
    """An attribute, or an intersection written "sex|age_band"; every attribute when not set."""
    compare: Compare
    """max_difference: highest minus lowest group; min_ratio: lowest over highest group. For oe_ratio only
    min_ratio: in every group observed over expected cases, or its inverse if that is smaller."""
    tolerance: float = Field(gt=0, lt=1)
    """Largest difference, or smallest ratio, that is accepted; 0.8 for oe_ratio means 0.8 to 1.25."""
    positive: str | None = None
    """The class the gate is about, against all others; the study's positive class when not set."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.metric == "auc" and self.compare == "min_ratio":
            raise ValueError('metric "auc" is compared by difference; set compare = "max_difference"')
        if self.metric == "oe_ratio" and self.compare != "min_ratio":
            raise ValueError('metric "oe_ratio" is compared with 1; set compare = "min_ratio"')
        if self.metric in ("auc", "oe_ratio") and self.positive is not None:
            raise ValueError(f'metric "{self.metric}" looks at the study\'s positive class; remove positive')
        return self


class EvidenceSection(Section):
    """[evidence]: with less than this a gate cannot be passed."""

    alpha: float = Field(default=0.05, gt=0, le=0.5)
    """Intervals cover with probability 1 - alpha, over all groups of an attribute together."""
    family: Literal["tukey", "tukey+holm"] = "tukey+holm"
    """tukey: each gate fails at its own alpha. tukey+holm: the chance that any gate fails which should not
    is at most alpha (Holm 1979). Passing takes every gate, so it needs no correction."""
    min_n: int = Field(default=30, ge=1)
    """Fewest people in a compared group."""
    min_positives: int = Field(default=30, ge=1)
    """Fewest people a conditional rate is taken over: positives for tpr and fnr, negatives for
    fpr and tnr, positive decisions for ppv, negative ones for npv, both classes for auc."""
    min_sites: int = Field(default=3, ge=1)
    """Fewest sites that contribute to a compared group."""
    max_unknown: float = Field(default=0.05, ge=0, le=1)
    """Largest share of people whose attribute is unknown."""
    inconclusive: Literal["block", "waive_with_signature"] = "block"
    """block: an audit with an inconclusive gate is never approved. waive_with_signature: it is, if who
    signs gives a reason for each such gate."""


class DisclosureSection(Section):
    """[disclosure]: what may be written about few people."""

    profile: DisclosureProfile = "us_cms"
    """Gives k and zero_allowed: us_cms 11, uk 10 and no zeros, ohdsi 5, datashield 3."""
    k: int = Field(default=11, ge=1)
    """No count of 1 to k - 1 people is written, nor can be worked out; the profile's when not set."""
    zero_allowed: bool = True
    """Whether a count of nobody may be written; the profile's when not set."""
    min_sites: int = Field(default=3, ge=1)
    """Fewest sites behind a count; with two, each could subtract its own."""
    round_n_to: int = Field(default=1, ge=1)
    """Numbers of people are rounded to a multiple of it, and figures to three decimals; 1 rounds nothing."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        given = values.get("profile", "us_cms")
        k, zero_allowed = DISCLOSURE_PROFILES.get(given, (11, True)) if isinstance(given, str) else (11, True)
        return {"k": k, "zero_allowed": zero_allowed, **values}


class SignoffSection(Section):
    """[signoff]"""

    roles: list[Annotated[str, Field(pattern=ROLE)]] = Field(default=["auditor"], min_length=1)
    """Who must sign an approval: someone of each role."""
    expires_days: int | None = Field(default=None, ge=1)
    """Days an approval holds; for ever when not set."""


class MitigationSection(Section):
    """[mitigation]: what may be done about a gap."""

    allow_attribute_at_inference: bool = False
    """Whether decisions may use the attribute itself, as thresholds by group do. In lending that is
    disparate treatment."""
    legal_basis: str | None = Field(default=None, min_length=1)
    """Why that is lawful here, in the words of who answers for it."""
    max_accuracy_loss: float = Field(default=0.02, ge=0, le=1)
    """An alternative that costs more accuracy is not offered."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.allow_attribute_at_inference and not self.legal_basis:
            raise ValueError("allow_attribute_at_inference needs a legal_basis; name it, or set false")
        return self


class MonitoringSection(Section):
    """[monitoring]: when live traffic is no longer what was audited, and what happens then."""

    breach: Literal["warn", "shadow", "stop"] = "shadow"
    """warn: responses say so. shadow: every answer is left to a person (abstain). stop: the service does not
    answer until someone opens the gate again."""
    alpha: float = Field(default=0.01, gt=0, le=0.1)
    """Chance of a false alarm in a window, over all figures together (Holm 1979)."""
    least_n: int = Field(default=200, ge=1)
    """Fewest records of a window that drift is judged on."""
    least_labelled: int = Field(default=100, ge=1)
    """Fewest labelled records that outcomes are judged on."""
    least_psi: float = Field(default=0.02, ge=0)
    """Smaller changes of a distribution (population stability index) are no alarm."""
    least_change: float = Field(default=0.03, ge=0, le=1)
    """Smaller changes of a share are no alarm."""


PROFILE_GATES: dict[Profile, tuple[Gate, ...]] = {
    "health.diagnosis": (
        Gate(metric="fnr", compare="max_difference", tolerance=0.10),
        Gate(metric="auc", compare="max_difference", tolerance=0.05),
    ),
    "lending": (Gate(metric="selection_rate", compare="min_ratio", tolerance=0.80),),
    "custom": (),
}


class Policy(Section):
    """A whole policy.toml."""

    policy: PolicyIdentity
    attributes: dict[str, list[str]] = Field(min_length=1)
    """Attribute to its groups; people in none of them are the group "unknown"."""
    gate: list[Gate] = []
    evidence: EvidenceSection = EvidenceSection()
    disclosure: DisclosureSection = DisclosureSection()
    signoff: SignoffSection = SignoffSection()
    mitigation: MitigationSection = MitigationSection()
    monitoring: MonitoringSection = MonitoringSection()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if problems := _reference_problems(self.model_dump()):
            raise ValueError("; ".join(problems))
        return self

    @property
    def plan(self) -> GroupPlan:
        """The groups and intersections the sites count."""
        return GroupPlan.of(self.attributes, self.policy.intersections)

    @property
    def gates(self) -> list[Gate]:
        """The gates to decide: the file's or the profile's, each with its attribute."""
        found = self.gate or list(PROFILE_GATES[self.policy.profile])
        return [
            gate.model_copy(update={"attribute": attribute})
            for gate in found
            for attribute in ([gate.attribute] if gate.attribute else self.attributes)
        ]

    def to_json(self) -> str:
        """The policy as canonical JSON; [monitoring] only where it is not the default, as audits precede it."""
        left_out = {"monitoring"} if self.monitoring == MonitoringSection() else None
        return json.dumps(
            self.model_dump(mode="json", exclude=left_out), sort_keys=True, separators=(",", ":")
        )

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON, hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def load_policy(path: Path) -> Policy:
    """The policy in a TOML file.

    Raises:
        ConfigError: Listing every problem in the file.
    """
    return policy_from(read_toml(path), source=str(path))


def policy_text(path: Path) -> str:
    """The text of a valid policy file.

    Raises:
        ConfigError: Listing every problem in the file.
    """
    load_policy(path)
    return path.read_bytes().decode()  # as it is: signatures are over its bytes


def parse_policy(text: str) -> Policy:
    """The policy in TOML text (tests, notebooks)."""
    return policy_from(tomllib.loads(text), source="policy")


def policy_from(values: Mapping[str, Any], *, source: str) -> Policy:
    """The policy with these values.

    Raises:
        ConfigError: Listing every problem: those of single keys and those between tables.
    """
    try:
        return validate(Policy, values, source=source)
    except ConfigError as error:
        between = _reference_problems(values)
        single = [p for p in error.problems if p != "; ".join(between)]
        raise ConfigError(source, single + between) from None


def _reference_problems(values: Mapping[str, Any]) -> list[str]:
    """Problems between tables; anything of the wrong shape is left to the models."""
    attributes = {k: v for k, v in _table(values, "attributes").items() if _strings(v)}
    identity = _table(values, "policy")
    asked = identity.get("intersections", [])
    intersections = [pair for pair in asked if _strings(pair)] if isinstance(asked, list) else []
    problems = group_problems(attributes)
    if "intersections" in _table(values, "attributes"):
        problems.append("attributes.intersections: intersections belong in [policy]; move the line there")
    for pair in intersections:
        problems += _intersection_problems(pair, attributes)
    valid = [*attributes, *(SEPARATOR.join(pair) for pair in intersections)]
    gates = values.get("gate", [])
    for i, gate in enumerate(gates if isinstance(gates, list) else []):
        name = gate.get("attribute") if isinstance(gate, dict) else None
        if isinstance(name, str) and name not in valid:
            problems.append(f"gate.{i}.attribute is '{name}', not an attribute here; {nearest(name, valid)}")
    profile = identity.get("profile", "custom")
    if not gates and profile in get_args(Profile) and not PROFILE_GATES[profile]:
        problems.append(f'gate is missing and profile "{profile}" has none of its own; add [[gate]]')
    return problems


def _intersection_problems(pair: list[str], attributes: Mapping[str, list[str]]) -> list[str]:
    shown = SEPARATOR.join(pair)
    problems = [
        f"policy.intersections: '{name}' is not an attribute; {nearest(name, list(attributes))}"
        for name in pair
        if name not in attributes
    ]
    if problems:
        return problems
    if len(set(pair)) < len(pair):
        return [f"policy.intersections: '{shown}' names an attribute twice"]
    cells = prod(len({*attributes[name], UNKNOWN}) for name in pair)
    if cells > MAX_GROUPS:
        return [f"policy.intersections: '{shown}' has {cells} groups; at most {MAX_GROUPS}"]
    return []


def _table(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = values.get(key, {})
    return found if isinstance(found, dict) else {}


def _strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
