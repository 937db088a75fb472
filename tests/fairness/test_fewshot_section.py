"""The few-shot section of the report: curves against shots and ways."""

from typing import Any

from fairness.report import render_report


def html(ways: list[int]) -> str:
    row = {"method": "ridge", "episodes": 600, "ci95": 0.01, "nll": 0.4, "ece": 0.02}
    fewshot: dict[str, Any] = {
        "n_way": 5,
        "n_shot": 5,
        "n_query": 15,
        "sites": ["north"],
        "novel_classes": [],
    }
    fewshot["methods"] = [{**row, "n_way": 5, "n_shot": 5, "accuracy": 0.9}]
    fewshot["curve"] = [{**row, "n_way": 5, "n_shot": n, "accuracy": 0.7 + n / 50} for n in (1, 5)]
    fewshot["ways"] = [{**row, "n_way": n, "n_shot": 5, "accuracy": 1 - n / 50} for n in ways]
    return render_report({"study": "toy"}, [], fewshot, None, study={})


def test_both_curves_are_drawn_and_told_as_numbers() -> None:
    page = html([2, 5])
    assert "Few-shot accuracy by examples per class" in page
    assert "Few-shot accuracy by classes to tell apart" in page
    assert "The same with fewer classes to tell apart, 5 examples of each." in page


def test_one_number_of_ways_is_no_curve() -> None:
    assert "classes to tell apart" not in html([5])


def test_a_run_of_an_earlier_version_has_no_ways() -> None:
    row = {
        "method": "ridge",
        "n_shot": 5,
        "episodes": 9,
        "accuracy": 0.9,
        "ci95": 0.1,
        "nll": 1.0,
        "ece": 0.1,
    }
    old = {
        "n_way": 2,
        "n_shot": 5,
        "n_query": 3,
        "sites": [],
        "novel_classes": [],
        "methods": [row],
        "curve": [row],
    }
    assert "classes to tell apart" not in render_report({"study": "toy"}, [], old, None, study={})


def test_what_the_shared_head_is_worth_at_a_new_site_is_told() -> None:
    row = {"n_way": 5, "n_shot": 5, "episodes": 600, "accuracy": 0.9, "ci95": 0.01, "nll": 0.4, "ece": 0.02}
    found: dict[str, Any] = {"n_way": 5, "n_shot": 5, "n_query": 15, "sites": ["new"], "novel_classes": []}
    rows = [{**row, "way": way} for way in ("local", "shared", "adapted", "stepped")]
    page = render_report(
        {"study": "toy"}, [], {**found, "methods": [], "curve": [], "start": rows}, None, study={}
    )
    for words in ("local only", "shared, not adapted", "steps by leave-one-out", "steps of its training"):
        assert words in page
