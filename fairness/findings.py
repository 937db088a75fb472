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
    hidden: bool = False
    """A count behind it may not be written: value is null, and the interval holds whatever that count is."""
    between: list[int] | None = None
    """hidden: the number of people the share counts is one of these or between them."""
    by_chance: float | None = None
    """calibration_error: what a model that is always right about its chances would show on as many people."""


class CalibrationPoint(Part):
    """People of similar scores: adjacent bins put together until k or more of each label (or none) are in."""

    n: int
    predicted: float
    """Mean probability."""
    observed: float
    """Share of positives."""


class RocPoint(Part):
    """Rates if decisions were made at the edge of adjacent bins put together as for calibration."""

    fpr: float
    tpr: float


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
    n_between: list[int] | None = None
    """n may not be written exactly: it is one of these or between them, and n is the middle."""
    positives_between: list[int] | None = None
    """As n_between."""
    design_effect: float | None = None
    """Rows that tell as much as one, because people have several; intervals allow for it."""
    calibration: list[CalibrationPoint] = []
    """Empty where a count of the group is hidden."""
    roc: list[RocPoint] = []
    """From (0, 0) to (1, 1); empty where a count of the group is hidden."""


class Gap(Part):
    """A metric between the groups of an attribute; intervals hold for all pairs together."""

    metric: str
    lowest: str | None
    highest: str | None
    difference: Estimate
    ratio: Estimate | None
    """Lowest over highest group; not given for the AUC."""
    hidden: bool = False
    """Some count behind it may not be written: values are in the middle of what they can be, and the
    intervals hold whatever those counts are."""


class WithinSites(Part):
    """A group against the policy's other groups, over all sites together and within them."""

    metric: str
    group: str
    sites: int
    """Sites that have people on both sides."""
    pooled: float
    """Difference over all sites together."""
    within: float
    """Mantel-Haenszel difference within sites."""
    simpson: float
    """pooled - within: what only comes from sites having other people."""
    i_squared: float
    """Share of the sites' variation that is more than chance (Higgins & Thompson 2002)."""


class Attribute(Part):
    """An attribute or an intersection ("sex|age_band")."""

    attribute: str
    groups: list[Group]
    gaps: list[Gap]
    within_sites: list[WithinSites] = []
    """Gated metrics of attributes, where at least three sites have people on both sides."""


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
    positive: str | None = None
    """The class the gate is about; null for the audit's positive class."""
    alpha: float | None = None
    """Level of the interval; below the policy's where Holm's correction asked for more."""
    p: float | None = None
    """Chance of a figure this far beyond the tolerance if the truth were at it; null where it is not beyond."""
    hidden: bool = False
    """As in a gap: the value is in the middle of what it can be, the interval holds in any case."""


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
    inconclusive: Literal["block", "waive_with_signature"] = "block"
    """Whether an auditor may sign for a gate that is inconclusive."""
    family: Literal["tukey", "tukey+holm"] = "tukey"
    disclosure_profile: str = "us_cms"
    zero_allowed: bool = True
    disclosure_min_sites: int = 3
    round_n_to: int = 1


class PolicyOrigin(Part):
    """Which policy file this is, and whether it was fixed before the test data were asked."""

    file_sha256: str
    """sha256 of policy.toml as it lies in the run folder."""
    fixed_sha256: str | None
    """sha256 of the policy that was fixed before any test data were asked; null if none was."""
    after_evaluation: bool
    """The policy is not the one that was fixed; such an audit needs a waiver to be approved."""
    signed_by: str | None
    """Name of who signed the file; null if nobody did."""
    role: str | None
    public_key: str | None
    """Ed25519 key of the signature, hexadecimal."""
    signed_at: str | None
    """By the signer's clock."""


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
    positives_between: list[int] | None = None
    """positives may not be written exactly: as in a group."""
    policy_origin: PolicyOrigin | None = None
    """null where the counts were audited outside a run."""

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
