"""Two audits side by side: every gated figure of both, and whether they differ by more than chance."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

from fairness.findings import AuditReport, Estimate, Verdict

CAVEAT = (
    "The interval of a change takes the two audits as independent; on the same people it is too wide, so a "
    "change may be real although it is within uncertainty."
)


@dataclass(frozen=True)
class Side:
    """What one audit says of a figure; verdict is None where it has no such gate."""

    found: Estimate
    verdict: Verdict | None


@dataclass(frozen=True)
class Compared:
    """One gated figure in both audits.

    Attributes:
        metric: E.g. "tpr".
        attribute: E.g. "sex".
        compare: "max_difference" or "min_ratio".
        first: In the first audit; None if it does not hold the figure.
        second: In the second.
        change: Second minus first, with its interval; all None where either is undefined.
        within_uncertainty: Whether the interval of the change holds 0; None where undefined.
    """

    metric: str
    attribute: str
    compare: str
    first: Side | None
    second: Side | None
    change: Estimate
    within_uncertainty: bool | None

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        plain = asdict(self)
        for key, side in (("first", self.first), ("second", self.second)):
            plain[key] = side and {"found": side.found.model_dump(), "verdict": side.verdict}
        return {**plain, "change": self.change.model_dump()}


def compare_audits(first: AuditReport, second: AuditReport) -> list[Compared]:
    """Every figure that a gate of either audit looks at."""
    keys = dict.fromkeys((g.metric, g.attribute, g.compare) for g in (*first.gates, *second.gates))
    found = []
    for metric, attribute, compare in keys:
        sides = [_side(report, metric, attribute, compare) for report in (first, second)]
        change = _change(*(side.found if side else _UNDEFINED for side in sides))
        within = None if change.low is None or change.high is None else change.low <= 0 <= change.high
        found.append(Compared(metric, attribute, compare, sides[0], sides[1], change, within))
    return found


_UNDEFINED = Estimate(value=None, low=None, high=None)


def _side(report: AuditReport, metric: str, attribute: str, compare: str) -> Side | None:
    """From the gate, or from the table of gaps where this audit has no such gate."""
    for gate in report.gates:
        if (gate.metric, gate.attribute, gate.compare) == (metric, attribute, compare):
            return Side(gate.found, gate.verdict)
    for table in (*report.attributes, *report.intersections):
        for gap in table.gaps if table.attribute == attribute else []:
            figure = gap.difference if compare == "max_difference" else gap.ratio
            if gap.metric == metric and figure is not None:
                return Side(figure, None)
    return None


def _change(first: Estimate, second: Estimate) -> Estimate:
    """Second minus first with the MOVER interval (Zou and Donner 2008, eq. 2) of independent estimates."""
    a, b = _numbers(first), _numbers(second)
    if a is None or b is None:
        return _UNDEFINED
    value = b[0] - a[0]
    low = value - sqrt((b[0] - b[1]) ** 2 + (a[2] - a[0]) ** 2)
    high = value + sqrt((b[2] - b[0]) ** 2 + (a[0] - a[1]) ** 2)
    return Estimate(value=value, low=low, high=high)


def _numbers(found: Estimate) -> tuple[float, float, float] | None:
    if found.value is None or found.low is None or found.high is None:
        return None
    return found.value, found.low, found.high


def to_dict(first: AuditReport, second: AuditReport, *, names: tuple[str, str]) -> Mapping[str, Any]:
    """The whole comparison as plain values, for a machine."""
    audits = [
        {
            "name": name,
            "study": report.study,
            "verdict": report.verdict,
            "n": report.n,
            "model_digest": report.model_digest,
            "policy_digest": report.policy.digest,
        }
        for name, report in zip(names, (first, second), strict=True)
    ]
    rows = [row.to_dict() for row in compare_audits(first, second)]
    return {"audits": audits, "gates": rows, "note": CAVEAT}
