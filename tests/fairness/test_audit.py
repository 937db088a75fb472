import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from fairness.audit import AuditReport, build_audit
from fairness.counts import AuditCounts, AuditTotals
from fairness.findings import audit_schema
from fairness.policy import Policy, parse_policy
from foedus.errors import AuditError
from foedus.examples import Examples

POLICY = """
[policy]
name = "heart"
profile = "health.diagnosis"
[attributes]
sex = ["female", "male"]
"""
SCHEMA = Path(__file__).parents[2] / "docs" / "schemas" / "audit.schema.json"


def again(policy: Policy, totals: AuditTotals) -> AuditReport:
    return build_audit(policy, totals, model_digest="d", study_name="s", classes=["healthy", "disease"])


def test_the_same_counts_give_the_same_bytes(policy: Policy, totals: AuditTotals) -> None:
    assert again(policy, totals).to_json() == again(policy, totals).to_json()


def test_the_report_follows_its_published_schema(report: AuditReport) -> None:
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(report.to_json()), schema)


def test_the_published_schema_is_current() -> None:
    assert SCHEMA.read_text() == audit_schema(), "write fairness.findings.audit_schema() to this file"


def test_json_and_dict_are_the_same_values(report: AuditReport) -> None:
    assert json.loads(report.to_json()) == report.to_dict()
    assert AuditReport.model_validate(report.to_dict()) == report


def test_totals_and_groups_add_up(report: AuditReport, sites: list[Examples]) -> None:
    assert report.n == sum(map(len, sites))
    assert report.sites == 4
    assert report.positive == "disease"
    sex = report.attributes[0]
    assert [g.group for g in sex.groups] == ["female", "male", "unknown"]
    assert [g.suppressed for g in sex.groups] == [None, None, "fewer than 11 people of one label"]
    assert report.n - sum(g.n or 0 for g in sex.groups) == 19
    assert [g.compared for g in sex.groups] == [True, True, False]


def test_a_group_below_k_has_no_number(policy: Policy, totals: AuditTotals) -> None:
    report = again(policy, totals)
    hidden = [g for a in (*report.attributes, *report.intersections) for g in a.groups if g.suppressed]
    assert hidden
    for group in hidden:
        assert group.suppressed in ("fewer than 11 people", "nobody", "fewer than 11 people of one label")
        assert (group.n, group.positives, group.sites, group.rates) == (None, None, None, {})


def test_undefined_is_null_and_not_zero(policy: Policy, totals: AuditTotals) -> None:
    sex = totals.tables["sex"]
    confusion, scores = sex.confusion.copy(), sex.scores.copy()
    confusion[0, 0], scores[0, 0] = 0, 0  # every woman is positive, as in Switzerland's data
    tables = {"sex": replace(sex, confusion=confusion, scores=scores)}
    report = again(parse_policy(POLICY), replace(totals, tables=tables))
    rates = report.attributes[0].groups[0].rates
    for metric in ("fpr", "tnr", "auc", "balanced_accuracy"):
        assert rates[metric].value is None
    gap = next(g for g in report.attributes[0].gaps if g.metric == "fpr")
    assert (gap.lowest, gap.difference.value, gap.ratio and gap.ratio.value) == (None, None, None)
    assert "NaN" not in report.to_json()


def test_only_smaller_groups_have_a_detectable_gap(report: AuditReport) -> None:
    female, male, _ = report.attributes[0].groups
    assert male.rates["tpr"].detectable_gap is None
    assert 0 < (female.rates["tpr"].detectable_gap or 0) < 0.5


def test_a_gap_in_the_data_is_found(report: AuditReport) -> None:
    tpr = next(g for g in report.attributes[0].gaps if g.metric == "tpr")
    assert (tpr.lowest, tpr.highest) == ("female", "male")
    assert report.verdict in ("fail", "inconclusive")
    assert report.reasons
    assert all("tpr" in r or "selection_rate" in r for r in report.reasons)


def test_counts_of_another_policy_are_refused(totals: AuditTotals) -> None:
    other = parse_policy('[policy]\nname="o"\nprofile="lending"\n[attributes]\nsex=["f","m"]\n')
    with pytest.raises(AuditError, match="other groups than the policy's"):
        again(other, totals)


def test_counts_of_other_classes_are_refused(policy: Policy, totals: AuditTotals) -> None:
    with pytest.raises(AuditError, match="2 classes but 3 are named"):
        build_audit(policy, totals, model_digest="d", study_name="s", classes=["a", "b", "c"])


def test_fewer_people_than_k_are_not_written_about(
    policy: Policy, request_: AuditCounts, sites: list[Examples]
) -> None:
    totals = request_.read(request_.measure(sites[0].take(np.arange(10))))
    with pytest.raises(AuditError, match="fewer than 11 people"):
        again(policy, totals)
