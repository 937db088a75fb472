"""Other thresholds from the sums: the same counts as from the rows, no small step shown, no worse offer."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fairness.audit import AuditReport, build_audit
from fairness.counts import AuditCounts
from fairness.edges import AuditEdges
from fairness.groups import GroupPlan
from fairness.mitigation import (
    MIN_POSITIVES,
    Cuts,
    acceptable,
    cuts,
    gated_value,
    group_thresholds,
    one_threshold,
    standing,
    with_threshold,
)
from fairness.policy import Policy, parse_policy
from fairness.remedies import changes, front, gate_changes, offers_of
from foedus.errors import AuditError, ConfigError
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.statistic import Arrays

Gather = Callable[..., Arrays]
HEAD = LinearHead(np.array([[0.0], [1.0]], np.float32), np.zeros(2, np.float32))
POLICY = """
[policy]
name = "loans"
profile = "custom"
decision_threshold = 0.5
[attributes]
race = ["a", "b"]
[[gate]]
metric = "tpr"
attribute = "race"
compare = "max_difference"
tolerance = 0.05
[evidence]
min_sites = 1
[mitigation]
allow_attribute_at_inference = true
legal_basis = "consent of the applicants"
"""


def rows(rng: np.random.Generator, n: int, *, second: float = 0.35) -> Examples:
    """Scores that are lower for the same label in group b."""
    race = np.where(rng.random(n) < second, "b", "a")
    labels = (rng.random(n) < 0.5).astype(np.int64)
    score = 1.6 * labels - 0.8 - 0.7 * (race == "b") + rng.normal(size=n)
    return Examples(score[:, None].astype(np.float32), labels, {"race": race})


def counted(policy: Policy, examples: Examples, gather: Gather) -> Cuts:
    sites = [examples.take(np.arange(i, len(examples), 4)) for i in range(4)]
    edges = AuditEdges(HEAD, 1).read(gather(AuditEdges(HEAD, 1), sites))
    edges, now = with_threshold(edges, policy.policy.decision_threshold)
    request = AuditCounts(
        GroupPlan.of(policy.attributes, []), HEAD, 1, policy.policy.decision_threshold, edges
    )
    return cuts(policy, request.read(gather(request, sites)), edges, now)


@pytest.fixture
def loans() -> Policy:
    return parse_policy(POLICY)


@pytest.fixture
def people() -> Examples:
    return rows(np.random.default_rng(1), 6000)


@pytest.fixture
def found(loans: Policy, people: Examples, gather: Gather) -> Cuts:
    return counted(loans, people, gather)


def before(policy: Policy, found: Cuts) -> AuditReport:
    return build_audit(policy, found.totals, model_digest="d", study_name="loans", classes=["no", "yes"])


def test_the_policys_threshold_is_one_of_the_edges(found: Cuts) -> None:
    assert found.probability(found.now) == pytest.approx(0.5)
    table = found.totals.tables["race"]
    np.testing.assert_array_equal(found.at(found.now).tables["race"].confusion, table.confusion)


def test_every_cut_gives_the_counts_of_the_rows(found: Cuts, people: Examples) -> None:
    for index in (0, 10, found.now, len(found.edges) - 1):
        decided = (people.features[:, 0] >= found.edges[index]).astype(int)
        confusion = found.at(index).tables["race"].confusion
        for group, name in enumerate(("a", "b")):
            mine = people.groups["race"] == name
            rows_of = np.histogram2d(people.labels[mine], decided[mine], bins=[[0, 1, 2], [0, 1, 2]])[0]
            np.testing.assert_array_equal(confusion[group], rows_of)


def test_no_step_that_is_shown_tells_of_fewer_than_k(found: Cuts) -> None:
    shown = found.safe_for_all()
    assert 5 < len(shown) < len(found.edges)
    for index in shown:
        moved = np.abs(found.at(index).tables["race"].confusion - found.totals.tables["race"].confusion)[:2]
        assert ((moved == 0) | (moved >= found.k)).all()


def test_one_threshold_for_all_narrows_the_gap_at_little_cost(loans: Policy, found: Cuts) -> None:
    was = gated_value(loans.gates[0], found.totals, k=11)
    offer = one_threshold(found, loans)
    if offer.refused is None:
        assert gated_value(loans.gates[0], offer.totals, k=11) < was
        accuracy = [standing(t, loans).accuracy for t in (found.totals, offer.totals)]
        assert accuracy[1] >= accuracy[0] - loans.mitigation.max_accuracy_loss


def test_thresholds_by_group_bring_the_gate_within_its_tolerance(loans: Policy, found: Cuts) -> None:
    assert gated_value(loans.gates[0], found.totals, k=11) > 0.15
    offer = group_thresholds(found, loans, "race")
    assert offer.refused is None
    assert gated_value(loans.gates[0], offer.totals, k=11) <= 0.05
    assert offer.thresholds["b"] < offer.thresholds["a"]


def test_thresholds_by_group_need_the_policy_and_a_legal_basis(found: Cuts) -> None:
    without = parse_policy(POLICY.split("[mitigation]")[0])
    with pytest.raises(AuditError, match="allow_attribute_at_inference = true and name the legal_basis"):
        group_thresholds(found, without, "race")
    with pytest.raises(ConfigError, match="needs a legal_basis"):
        parse_policy(POLICY.replace('legal_basis = "consent of the applicants"', ""))


def test_a_small_group_keeps_the_threshold_of_all(loans: Policy, gather: Gather) -> None:
    examples = rows(np.random.default_rng(5), 3000, second=0.02)
    positives = ((examples.groups["race"] == "b") & (examples.labels == 1)).sum()
    assert 0 < positives < MIN_POSITIVES
    offer = group_thresholds(counted(loans, examples, gather), loans, "race")
    if "b" in offer.thresholds:
        assert offer.thresholds["b"] == pytest.approx(0.5)


def test_what_is_within_its_tolerance_is_left_alone(found: Cuts) -> None:
    easy = parse_policy(POLICY.replace("tolerance = 0.05", "tolerance = 0.9"))
    offer = one_threshold(found, easy)
    assert offer.refused is not None
    assert "within its tolerance already" in offer.refused


def test_few_people_leave_no_threshold_that_may_be_shown(loans: Policy, gather: Gather) -> None:
    offer = one_threshold(counted(loans, rows(np.random.default_rng(2), 80), gather), loans)
    assert offer.refused is not None
    assert "without telling of fewer than 11 people" in offer.refused


def test_deciding_everyone_alike_is_never_acceptable(loans: Policy, found: Cuts) -> None:
    today = standing(found.totals, loans)
    everyone = standing(found.at(len(found.edges) - 1), loans)
    everyone = type(everyone)(0.0, 1.0, True)
    assert not acceptable(everyone, today, loans)


def test_every_metric_is_shown_before_and_after(loans: Policy, found: Cuts) -> None:
    report = before(loans, found)
    offers = {each.name: each for each in offers_of(loans, report, found.totals, found.edges, found.now)}
    offer = offers["thresholds by race"]
    shown = {(each.metric, each.of, each.kind) for each in offer.changes}
    assert {(metric, "everyone", "overall") for metric in report.overall} <= shown
    assert {(gap.metric, "race", "difference") for gap in report.attributes[0].gaps} <= shown
    [gate] = offer.gates
    assert gate.before == report.gates[0].found
    assert gate.after.value is not None
    assert gate.before.value is not None
    assert gate.after.value < gate.before.value
    assert gate_changes(report, report)[0].before == gate_changes(report, report)[0].after
    assert all(each.before == each.after for each in changes(report, report))


def test_two_classes_with_scores_are_needed(loans: Policy, found: Cuts) -> None:
    with pytest.raises(AuditError, match="releases no scores"):
        cuts(loans, found.totals, found.edges[:3], 1)
    table: Any = found.totals.tables["race"]
    three = type(table)(table.key, table.groups, np.zeros((3, 3, 3), np.int64), table.scores, table.sites)
    totals: Any = type(found.totals)(1, 1, {"race": three})
    with pytest.raises(AuditError, match="two classes only"):
        cuts(loans, totals, found.edges, 1)


def test_the_front_holds_what_nothing_beats() -> None:
    assert front([(0.9, 0.1), (0.8, 0.0), (0.8, 0.1), (0.9, 0.1)]) == [True, True, False, True]
