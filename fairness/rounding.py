"""Numbers of people to a multiple of what the policy says, and figures to three decimals."""

from typing import Any

from fairness.findings import AuditReport

PEOPLE = frozenset({"n", "positives", "trials"})
KEPT = frozenset({"policy", "tolerance", "reasons", "alpha"})
"""What is not counted in the test data."""


def rounded(report: AuditReport, to: int) -> AuditReport:
    """The report with its people in multiples of `to` and its figures to three decimals; as it is for 1."""
    if to == 1:
        return report
    return AuditReport.model_validate(_round(report.to_dict(), "", to))


def _round(value: Any, key: str, to: int) -> Any:
    if key in KEPT:
        return value
    if isinstance(value, dict):
        return {name: _round(part, name, to) for name, part in value.items()}
    if isinstance(value, list):
        return [_round(part, key, to) for part in value]
    if key in PEOPLE and isinstance(value, int):
        return round(value / to) * to
    return round(value, 3) if isinstance(value, float) else value
