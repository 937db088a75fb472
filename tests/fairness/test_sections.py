from datetime import date
from typing import Any

import numpy as np
import pytest

from fairness.audit import AuditReport, build_audit
from fairness.policy import parse_policy
from fairness.sections import before_after, context, gap_to_largest, settling
from fairness.tables import AuditTotals, GroupTable

POLICY = """
[policy]
name = "loans"
profile = "lending"
[attributes]
race = ["a", "b"]
[evidence]
min_sites = 1
"""


def audited(a: tuple[int, int], b: tuple[int, int]) -> dict[str, Any]:
    """Selected of so many people in two groups, by the four-fifths gate."""
    cells = np.array([[[n - s, 0], [0, s]] for s, n in (a, b)] + [[[0, 0], [0, 0]]], np.int64)
    table = GroupTable("race", ("a", "b", "unknown"), cells, cells, np.array([3, 3, 0]))
    totals = AuditTotals(1, 3, {"race": table})
    policy = parse_policy(POLICY)
    return build_audit(policy, totals, model_digest="d", study_name="s", classes=["no", "yes"]).to_dict()


def test_how_much_more_data_would_settle_a_gate() -> None:
    [line] = settling(audited((60, 100), (45, 100)))
    assert "selection_rate by race" in line
    assert line.endswith("as a fail.")
    times = float(line.split("about ")[1].split(" times")[0])
    more = round(times * 1.02)
    assert audited((60 * more, 100 * more), (45 * more, 100 * more))["verdict"] == "fail" or more < times
    assert 2 < times < 30


def test_a_settled_gate_needs_nothing() -> None:
    assert settling(audited((600, 1000), (300, 1000))) == []


def test_a_figure_at_its_tolerance_is_never_settled() -> None:
    assert settling(audited((500, 1000), (400, 1000))) == []


def test_the_gap_is_to_the_largest_group() -> None:
    [table] = audited((60, 100), (45, 90))["attributes"]
    first, second, _ = table["groups"]
    assert gap_to_largest(first, table, "selection_rate") is None
    gap = gap_to_largest(second, table, "selection_rate")
    assert gap is not None
    assert gap == (pytest.approx(-0.1), "a")


def test_a_mitigation_of_another_policy_is_not_shown(report: AuditReport) -> None:
    audit = report.to_dict()
    other = {"model_digest": audit["model_digest"], "policy_digest": "another", "alternatives": []}
    found = context(audit, {}, {}, mitigation=other, on=date(2026, 11, 21))
    assert found["mitigation"] is None
    same = {**other, "policy_digest": audit["policy"]["digest"]}
    found = context(audit, {}, {}, mitigation=same, on=date(2026, 11, 21))
    assert found["mitigation"] == same
    assert found["clauses"]


def test_without_a_day_there_is_no_clause_index(report: AuditReport) -> None:
    assert context(report.to_dict(), {}, {}, mitigation=None, on=None)["clauses"] == []


def test_metrics_before_and_after_fill_every_column() -> None:
    one = {"value": 0.5, "low": None, "high": None}
    change = {"metric": "tpr", "before": one, "after": {**one, "value": 0.6}}
    offer = {
        "changes": [
            {**change, "of": "everyone", "kind": "overall"},
            {**change, "of": "race", "kind": "difference"},
        ]
    }
    assert list(before_after(offer)) == [("tpr", ["0.500 → 0.600", "0.500 → 0.600", "–"])]
