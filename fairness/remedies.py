"""mitigation.json: what was tried about a gap, and every metric before and after.

Each "after" is an audit of its own, under the same disclosure control and with the same intervals.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fairness.audit import build_audit
from fairness.findings import AuditReport, Estimate, Part, Verdict
from fairness.groups import SEPARATOR
from fairness.mitigation import Cuts, Found, cuts, group_thresholds, one_threshold
from fairness.policy import Policy
from fairness.tables import AuditTotals
from foedus.errors import AuditError


class Change(Part):
    """A figure before and after."""

    metric: str
    of: str
    """"everyone", or the attribute between whose groups it is."""
    kind: Literal["overall", "difference", "ratio"]
    before: Estimate
    after: Estimate


class GateChange(Part):
    """A gate before and after."""

    metric: str
    attribute: str
    compare: str
    tolerance: float
    before: Estimate
    after: Estimate
    verdict_before: Verdict
    verdict_after: Verdict


class Offer(Part):
    """One way to decide or train otherwise."""

    name: str
    how: str
    """What would be done, in one sentence."""
    refused: str | None
    """Why it is not offered; null if it is."""
    thresholds: dict[str, float]
    """Group, or "everyone", to threshold; empty where the policy's stays."""
    gates: list[GateChange]
    changes: list[Change]


class Alternative(Part):
    """A candidate of the search for a less discriminatory alternative, on development data."""

    name: str
    attribute: str | None
    """Whose groups training balances; null without."""
    strength: float
    threshold: float
    accuracy: float
    figures: dict[str, float | None]
    """Each gate ("selection_rate by race") to its figure, two digits."""
    within: bool
    """Whether every gated figure is within its tolerance, uncertainty aside."""
    on_front: bool
    """Whether no other candidate is as accurate and as close to the gates, and better in one of them."""
    chosen: bool


class Mitigation(Part):
    """A whole mitigation.json."""

    format: Literal["foedus-mitigation/1"] = "foedus-mitigation/1"
    study: str
    model_digest: str
    policy_digest: str
    allow_attribute_at_inference: bool
    legal_basis: str | None
    max_accuracy_loss: float
    offers: list[Offer]
    alternatives: list[Alternative]
    notes: list[str]

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no clock."""
        return json.dumps(self.model_dump(), sort_keys=True, indent=1, ensure_ascii=False) + "\n"


NOTES = [
    "Only thresholds that move nobody, or at least k people, of every group and label are looked at: the "
    "difference of two audits would otherwise tell of fewer.",
    "Making one metric alike usually makes another less alike; every metric is shown.",
    "The verdict of the run is that of its audit. A mitigation counts once it is trained or set, and audited "
    "by a policy fixed before.",
]


def offers_of(
    policy: Policy,
    before: AuditReport,
    totals: AuditTotals,
    edges: NDArray[np.float64],
    now: int,
) -> list[Offer]:
    """What other thresholds would do: one for all and, where the policy allows it, one by group.

    Args:
        policy: The run's.
        before: The run's audit.
        totals: Counts of the same head and people, cut by `edges`.
        edges: With the policy's threshold at `now`.
        now: Its index.

    Raises:
        AuditError: If there are more than two classes.
    """
    policy = _without_ungated_intersections(policy)
    totals = replace(totals, tables={key: totals.tables[key] for key in policy.plan.tables()})
    found: Cuts = cuts(policy, totals, edges, now)
    single = one_threshold(found, policy)
    offers = [offer("one threshold for all", _how(single), single, policy, before)]
    for key in sorted({str(gate.attribute) for gate in policy.gates} & set(policy.attributes)):
        try:
            each = group_thresholds(found, policy, key)
        except AuditError as error:
            offers.append(_refused(f"thresholds by {key}", str(error)))
        else:
            alone = _restricted(policy, key)
            reference = audited(alone, each_totals(totals, key), before)
            offers.append(offer(f"thresholds by {key}", _how(each), each, alone, reference))
    return offers


def offer(name: str, how: str, found: Found, policy: Policy, before: AuditReport) -> Offer:
    """An offer with every metric before and after; without figures if it is refused."""
    if found.refused is not None:
        return _refused(name, found.refused)
    after = audited(policy, found.totals, before)
    return Offer(
        name=name,
        how=how,
        refused=None,
        thresholds=found.thresholds,
        gates=gate_changes(before, after),
        changes=changes(before, after),
    )


def audited(policy: Policy, totals: AuditTotals, like: AuditReport) -> AuditReport:
    """An audit of other counts of the same study."""
    return build_audit(
        policy, totals, model_digest=like.model_digest, study_name=like.study, classes=like.classes
    )


def each_totals(totals: AuditTotals, key: str) -> AuditTotals:
    """The counts of one attribute alone."""
    return replace(totals, tables={key: totals.tables[key]})


def gate_changes(before: AuditReport, after: AuditReport) -> list[GateChange]:
    """The gates that both audits decide."""
    later = {(gate.metric, gate.attribute, gate.compare): gate for gate in after.gates}
    found = []
    for gate in before.gates:
        if (other := later.get((gate.metric, gate.attribute, gate.compare))) is not None:
            found.append(
                GateChange(
                    metric=gate.metric,
                    attribute=gate.attribute,
                    compare=gate.compare,
                    tolerance=gate.tolerance,
                    before=gate.found,
                    after=other.found,
                    verdict_before=gate.verdict,
                    verdict_after=other.verdict,
                )
            )
    return found


def changes(before: AuditReport, after: AuditReport) -> list[Change]:
    """Every metric of everyone, and every gap between the groups of each attribute."""
    found = [
        Change(metric=m, of="everyone", kind="overall", before=_plain(rate), after=_plain(after.overall[m]))
        for m, rate in before.overall.items()
        if m in after.overall
    ]
    later = {each.attribute: {gap.metric: gap for gap in each.gaps} for each in after.attributes}
    for attribute in before.attributes:
        for gap in attribute.gaps:
            if (other := later.get(attribute.attribute, {}).get(gap.metric)) is None:
                continue
            key = attribute.attribute
            found.append(_change(gap.metric, key, "difference", gap.difference, other.difference))
            if gap.ratio is not None and other.ratio is not None:
                found.append(_change(gap.metric, key, "ratio", gap.ratio, other.ratio))
    return found


def front(candidates: Sequence[tuple[float, float]]) -> list[bool]:
    """For each (accuracy, excess over the tolerances): whether no other is at least as good in both."""
    return [
        not any(a >= accuracy and e <= excess and (a, e) != (accuracy, excess) for a, e in candidates)
        for accuracy, excess in candidates
    ]


def _change(
    metric: str, of: str, kind: Literal["difference", "ratio"], before: Estimate, after: Estimate
) -> Change:
    return Change(metric=metric, of=of, kind=kind, before=_plain(before), after=_plain(after))


def _plain(found: Any) -> Estimate:
    return Estimate(value=found.value, low=found.low, high=found.high)


def _refused(name: str, reason: str) -> Offer:
    return Offer(name=name, how="", refused=reason, thresholds={}, gates=[], changes=[])


def _restricted(policy: Policy, key: str) -> Policy:
    """The policy for one attribute alone."""
    return policy.model_copy(
        update={
            "policy": policy.policy.model_copy(update={"intersections": []}),
            "attributes": {key: policy.attributes[key]},
            "gate": [gate for gate in policy.gates if gate.attribute == key],
        }
    )


def _without_ungated_intersections(policy: Policy) -> Policy:
    """No figure of theirs is in an offer, so that none of their small groups has to be kept from showing."""
    gated = {gate.attribute for gate in policy.gates}
    kept = [pair for pair in policy.policy.intersections if SEPARATOR.join(pair) in gated]
    return policy.model_copy(
        update={"policy": policy.policy.model_copy(update={"intersections": kept}), "gate": policy.gates}
    )


def _how(found: Found) -> str:
    if list(found.thresholds) == ["everyone"]:
        return f"decide for the positive class from a probability of {found.thresholds['everyone']:.3f}."
    cut = ", ".join(f"{value:.3f} ({group})" for group, value in found.thresholds.items())
    return f"decide for the positive class from a probability of {cut}."
