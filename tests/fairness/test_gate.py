from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from fairness.counts import GroupTable
from fairness.gate import decide, overall_verdict
from fairness.policy import DisclosureSection, EvidenceSection, Gate, Policy, PolicyIdentity
from fairness.tables import Released

Table = Callable[..., GroupTable]
TPR = Gate(metric="tpr", attribute="g", compare="max_difference", tolerance=0.10)
AIR = Gate(metric="selection_rate", attribute="g", compare="min_ratio", tolerance=0.80)


def policy(**evidence: float) -> Policy:
    return Policy(
        policy=PolicyIdentity(name="p"),
        attributes={"g": ["a", "b"]},
        gate=[TPR],
        evidence=EvidenceSection(**evidence),  # type: ignore[arg-type]
        disclosure=DisclosureSection(k=5),
    )


@pytest.mark.parametrize(
    ("gate", "groups", "verdict"),
    [
        (TPR, {"a": (990, 805, 532, 1369), "b": (1139, 349, 461, 505)}, "fail"),  # COMPAS
        (TPR, {"f": (4720, 111, 275, 315), "m": (6881, 723, 1301, 1955)}, "inconclusive"),  # Adult
        (AIR, {"f": (4720, 111, 275, 315), "m": (6881, 723, 1301, 1955)}, "fail"),
        (AIR, {"young": (38, 42, 24, 86), "old": (108, 112, 59, 531)}, "inconclusive"),  # German
        (AIR, {"black": (74, 22, 78, 165), "other": (105, 84, 247, 1605)}, "fail"),  # HMDA
        (TPR, {"f": (118, 26, 14, 36), "m": (193, 74, 85, 374)}, "inconclusive"),  # heart
        (TPR, {"f": (900, 100, 300, 700), "m": (900, 100, 302, 698)}, "pass"),
        (AIR, {"f": (500, 500, 500, 500), "m": (500, 500, 500, 500)}, "pass"),
    ],
)
def test_verdicts_of_the_reference(
    gate: Gate, groups: dict[str, tuple[int, ...]], verdict: str, table_of: Table
) -> None:
    assert decide(gate, table_of("g", **groups), 1, policy()).verdict == verdict


def test_the_reason_holds_the_figures(table_of: Table) -> None:
    found = decide(TPR, table_of("g", women=(80, 10, 5, 12), men=(150, 30, 12, 108)), 1, policy())
    assert found.reason == (
        "tpr differs by 0.194 [0.020, 0.435] between women (lowest) and men (highest); tolerance 0.1 → "
        "inconclusive: 17 positives in women (at least 30 asked for), "
        "about 250 positives in each group are needed to show that it is within the tolerance."
    )
    assert found.needed == 250


def test_the_reason_says_about_where_a_count_is_hidden(table_of: Table) -> None:
    table = table_of("g", women=(80, 10, 5, 12), men=(150, 30, 12, 108))
    exact = table.facts(1).low
    apart = np.asarray([2, 0])
    low = replace(exact, positives=exact.positives - apart, tp=exact.tp - apart)
    high = replace(exact, positives=exact.positives + apart, tp=exact.tp + apart)
    written = replace(table, released={1: Released(low, high)}, suppressed=(None, None), total=407)
    found = decide(TPR, written, 1, policy())
    assert "about 17 positives in women (at least 30 asked for)" in found.reason


def test_a_private_audit_says_that_it_has_no_scores(table_of: Table) -> None:
    auc = Gate(metric="auc", attribute="g", compare="max_difference", tolerance=0.10)
    noised = replace(table_of("g", f=(900, 100, 300, 700), m=(900, 100, 302, 698)), noise=3.0)
    found = decide(auc, noised, 1, policy())
    assert found.verdict == "inconclusive"
    assert found.reason.count("a private study releases no scores, which auc takes") == 1


def test_a_small_group_cannot_pass_and_cannot_fail_alone(table_of: Table) -> None:
    alike = table_of("g", a=(10, 10, 8, 12), b=(9000, 900, 4000, 6000))
    wide = TPR.model_copy(update={"tolerance": 0.9})
    assert decide(wide, alike, 1, policy()).verdict == "inconclusive"
    assert decide(wide, alike, 1, policy(min_positives=20)).verdict == "pass"
    unlike = table_of("g", a=(20, 20, 20, 0), b=(9000, 900, 0, 10000))
    found = decide(TPR, unlike, 1, policy())
    assert (found.verdict, found.needed) == ("inconclusive", None)
    assert "20 positives in a (at least 30 asked for)" in found.reason
    assert decide(TPR, unlike, 1, policy(min_positives=20)).verdict == "fail"


def test_a_small_group_does_not_hide_the_failure_of_others(table_of: Table) -> None:
    table = table_of("g", tiny=(1, 1, 3, 4), a=(900, 100, 500, 500), b=(900, 100, 100, 900))
    assert decide(TPR, table, 1, policy()).verdict == "fail"


def test_too_few_sites_people_or_an_absent_group_are_inconclusive(table_of: Table) -> None:
    equal = {"a": (900, 100, 300, 700), "b": (900, 100, 300, 700)}
    assert "comes from 2 sites" in decide(TPR, table_of("g", sites=2, **equal), 1, policy()).reason
    assert "2000 people in a" in decide(TPR, table_of("g", **equal), 1, policy(min_n=2001)).reason
    absent = decide(TPR, table_of("g", **equal, c=(0, 0, 0, 0)), 1, policy())
    assert absent.verdict == "inconclusive"
    assert "fewer than 5 people in c" in absent.reason


def test_unknown_is_limited_but_not_compared(table_of: Table) -> None:
    equal = {"a": (900, 100, 300, 700), "b": (900, 100, 300, 700)}
    few = table_of("g", **equal, unknown=(0, 0, 50, 0))
    assert decide(TPR, few, 1, policy()).verdict == "pass"
    many = decide(TPR, table_of("g", **equal, unknown=(0, 0, 500, 0)), 1, policy())
    assert many.verdict == "inconclusive"
    assert "g is unknown for more than 5% of the people" in many.reason


def test_nothing_to_compare_is_inconclusive(table_of: Table) -> None:
    found = decide(TPR, table_of("g", a=(50, 50, 0, 0), b=(50, 50, 40, 60)), 1, policy())
    assert found.verdict == "inconclusive"
    assert found.found.value is None
    assert "fewer than two groups have a defined value" in found.reason


def test_auc_is_gated_from_the_scores(table_of: Table) -> None:
    gate = Gate(metric="auc", attribute="g", compare="max_difference", tolerance=0.10)
    table = table_of("g", a=(9000, 1000, 1000, 9000), b=(6000, 4000, 4000, 6000))
    found = decide(gate, table, 1, policy())
    assert found.found.value == pytest.approx(0.3)
    assert found.verdict == "inconclusive"  # two bins only: the bound of the binning is wide
    assert found.found.low is not None
    assert found.found.high is not None
    assert found.found.low < 0.3 < found.found.high


def test_the_worst_gate_is_the_verdict(table_of: Table) -> None:
    fail = decide(TPR, table_of("g", a=(990, 805, 532, 1369), b=(1139, 349, 461, 505)), 1, policy())
    good = decide(TPR, table_of("g", a=(900, 100, 300, 700), b=(900, 100, 300, 700)), 1, policy())
    unsure = decide(TPR, table_of("g", a=(118, 26, 14, 36), b=(193, 74, 85, 374)), 1, policy())
    assert overall_verdict([good, unsure, fail]) == ("fail", [fail.reason])
    assert overall_verdict([good, unsure]) == ("inconclusive", [unsure.reason])
    assert overall_verdict([good, good]) == ("pass", [good.reason, good.reason])
