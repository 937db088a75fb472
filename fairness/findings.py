"""What an audit finds, as written to audit.json (schema: docs/schemas/audit.schema.json)."""

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Verdict = Literal["pass", "fail", "inconclusive"]


class Part(BaseModel):
    """A part of the report: frozen, no unknown keys, null where a figure is undefined."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        json_schema_serialization_defaults_required=True,
    )


class Estimate(Part):
    """A figure with its interval; all null when undefined."""

    value: float | None
    low: float | None
    high: float | None


class Rate(Estimate):
    """A metric in one group; the interval holds for this group alone."""

    trials: int | None
    """People it is taken over; null for metrics that are not a share of people."""
    detectable_gap: float | None = None
    """Smallest true difference to the largest group that would be found with power 0.8."""
    bound: float | None = None
    """auc: error of the binning is at most this; the interval includes it."""


class Group(Part):
    """One group of an attribute or intersection."""

    group: str
    suppressed: str | None
    """Why no number of this group is written; null when they are."""
    n: int | None
    positives: int | None
    sites: int | None
    """Sites that have someone in the group."""
    compared: bool
    """Whether gates and gaps look at this group: named in the policy and not suppressed."""
    rates: dict[str, Rate]


class Gap(Part):
    """A metric between the groups of an attribute; intervals hold for all pairs together."""

    metric: str
    lowest: str | None
    highest: str | None
    difference: Estimate
    ratio: Estimate | None
    """Lowest over highest group; not given for the AUC."""


class Attribute(Part):
    """An attribute or an intersection ("sex|age_band")."""

    attribute: str
    groups: list[Group]
    gaps: list[Gap]


class GateResult(Part):
    """The decision about one gate of the policy."""

    metric: str
    attribute: str
    compare: Literal["max_difference", "min_ratio"]
    tolerance: float
    found: Estimate
    """Largest difference or smallest ratio between the compared groups."""
    lowest: str | None
    highest: str | None
    verdict: Verdict
    reason: str
    """One sentence with the figures."""
    needed: int | None
    """inconclusive: about how many people (of those the metric is taken over) each group needs
    for a pass if there is no gap."""


class PolicyUsed(Part):
    """The policy the audit was decided by."""

    name: str
    profile: str
    digest: str
    """sha256 of the policy as canonical JSON."""
    decision_threshold: float | None
    """null with more than two classes, where the highest score decides."""
    alpha: float
    min_n: int
    min_positives: int
    min_sites: int
    max_unknown: float
    k: int


class AuditReport(Part):
    """A whole audit.json."""

    format: Literal["foedus-audit/1"] = "foedus-audit/1"
    study: str
    model_digest: str
    """Digest of the head that was audited."""
    classes: list[str]
    positive: str
    policy: PolicyUsed
    verdict: Verdict
    reasons: list[str]
    """One sentence for each gate that decided the verdict."""
    n: int
    positives: int
    sites: int
    overall: dict[str, Rate]
    gates: list[GateResult]
    attributes: list[Attribute]
    intersections: list[Attribute]
    limits: list[str]
    """What this audit does not say."""
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        return self.model_dump()

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no clock; the same counts and policy give the same bytes."""
        return (
            json.dumps(self.to_dict(), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        )


def audit_schema() -> str:
    """The JSON schema of audit.json, as text; docs/schemas/audit.schema.json holds it."""
    schema = AuditReport.model_json_schema(mode="serialization")
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps({**head, **schema}, sort_keys=True, indent=2) + "\n"
