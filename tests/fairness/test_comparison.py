"""Two audits side by side: the interval of a change, by hand, and what cannot be compared."""

import pytest

from fairness.comparison import compare_audits, to_dict
from fairness.findings import AuditReport, Estimate, GateResult


def with_gate(report: AuditReport, value: float | None, low: float | None, high: float | None) -> AuditReport:
    gate = report.gates[0].model_copy(update={"found": Estimate(value=value, low=low, high=high)})
    return report.model_copy(update={"gates": [gate]})


def test_the_interval_of_a_change_is_made_of_both(report: AuditReport) -> None:
    first, second = with_gate(report, 0.10, 0.06, 0.16), with_gate(report, 0.20, 0.12, 0.25)
    [row] = compare_audits(first, second)
    assert row.change.value == pytest.approx(0.10)
    assert row.change.low == pytest.approx(0.10 - 0.10)  # sqrt(.08² + .06²)
    assert row.change.high == pytest.approx(0.10 + (0.05**2 + 0.04**2) ** 0.5)
    assert row.within_uncertainty is not None


@pytest.mark.parametrize(("value", "within"), [(0.15, True), (0.60, False)])
def test_a_large_change_is_more_than_chance(report: AuditReport, value: float, within: bool) -> None:
    second = with_gate(report, value, value - 0.08, value + 0.08)
    [row] = compare_audits(with_gate(report, 0.10, 0.06, 0.16), second)
    assert row.within_uncertainty is within


def test_an_audit_and_itself_do_not_differ(report: AuditReport) -> None:
    rows = compare_audits(report, report)
    assert [row.metric for row in rows] == [gate.metric for gate in report.gates]
    assert all(
        row.change.value == 0 and row.within_uncertainty for row in rows if row.change.value is not None
    )


def test_what_is_undefined_in_one_is_not_compared(report: AuditReport) -> None:
    [row] = compare_audits(with_gate(report, None, None, None), with_gate(report, 0.1, 0.0, 0.2))
    assert (row.change.value, row.within_uncertainty) == (None, None)


def test_a_gate_of_one_audit_is_compared_with_the_other_s_figure(report: AuditReport) -> None:
    without = report.model_copy(update={"gates": []})
    for row, gate in zip(compare_audits(report, without), report.gates, strict=True):
        assert row.first is not None
        assert row.second is not None
        assert row.second.verdict is None
        assert row.second.found == gate.found
    alone = report.model_copy(update={"gates": [], "attributes": [], "intersections": []})
    assert all(row.second is None for row in compare_audits(report, alone))


def test_plain_values_hold_both_audits(report: AuditReport) -> None:
    found = to_dict(report, report, names=("a", "b"))
    assert [audit["name"] for audit in found["audits"]] == ["a", "b"]
    gate: GateResult = report.gates[0]
    assert found["gates"][0]["first"] == {"found": gate.found.model_dump(), "verdict": gate.verdict}
