import copy
import re
from datetime import date
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fairness
from fairness.audit import AuditReport
from fairness.report import half_width, render_report, size
from foedus.metrics import from_rows, from_sums

STUDY = {
    "study": {"name": "heart", "task": "classification", "seed": 7},
    "backbone": {"source": "tabular", "tap": None, "tune": "head"},
    "federation": {"strategy": "fedavg", "rounds": 3},
    "door": {"mode": "open"},
}
CSS = Path(fairness.__file__).parent / "templates" / "report.css"
VOID = {"meta", "circle", "path", "line", "rect", "polyline"}


def figures(accuracy: float, auc: float | None = 0.88) -> dict[str, Any]:
    return {
        "n": 90,
        "accuracy": accuracy,
        "balanced_accuracy": 0.8,
        "macro_f1": 0.785,
        "auc": auc,
        "log_loss": 0.4,
    }


@pytest.fixture
def results() -> dict[str, Any]:
    own = {"pooled": figures(0.8), "federated": figures(0.79), "personal": figures(0.823), "local": None}
    kept = dict.fromkeys(("pooled", "federated", "personal", "local"))
    return {
        "study": "heart",
        "classes": ["healthy", "disease"],
        "models": {"pooled": None, "federated": figures(0.811), "start": figures(0.8, None)},
        "sites": [
            {"site": "cleveland", "n_train": 180, "n_test": 60, **own, "released": True},
            {"site": "va <b>", "n_train": 120, "n_test": 40, **kept, "released": False},
        ],
        "mean": {"local": figures(0.78), "personal": figures(0.82)},
        "held_out": [{"site": "hungary", "accuracy": 0.77, "auc": None}],
        "notes": ["A note & its sign."],
    }


@pytest.fixture
def rounds() -> list[dict[str, Any]]:
    line = {"asked": 4, "answered": 4, "rejected": [], "train_loss": 0.6, "validation_loss": 0.5,
            "validation_accuracy": 0.8, "bytes_up": 1000, "bytes_down": 900, "seconds": 0.1}  # fmt: skip
    bad = {"answered": 3, "rejected": [{"site": "va", "reason": "the answer holds NaN"}], "train_loss": None}
    return [{"round": 1, **line}, {"round": 2, **line, **bad}, {"round": 3, **line, "validation_loss": 0.4}]


@pytest.fixture
def fewshot() -> dict[str, Any]:
    row = {"method": "ridge", "episodes": 600, "ci95": 0.004, "nll": 0.3, "ece": None}
    curve = [{**row, "n_shot": k, "accuracy": 0.7 + k / 50} for k in (1, 5, 10)]
    return {"n_way": 5, "n_shot": 5, "n_query": 15, "sites": ["bank-5"], "novel_classes": ["8", "9"],
            "methods": [{**row, "n_shot": 5, "accuracy": 0.91}], "curve": curve}  # fmt: skip


class Outline(HTMLParser):
    """Collects what the accessibility tests ask about; fails on tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def outline(html: str) -> Outline:
    found = Outline()
    found.feed(html)
    assert found.open == []
    return found


def test_every_section_is_there(
    results: dict[str, Any], rounds: list[dict[str, Any]], fewshot: dict[str, Any], report: AuditReport
) -> None:
    html = render_report(results, rounds, fewshot, report.to_dict(), study=STUDY)
    for heading in ("gates", "groups", "intersections", "models", "rounds", "fewshot", "limits"):
        assert f'<h2 id="{heading}">' in html
    for text in ("kept at the site", "the answer holds NaN", "A site that did not take part",
                 "Suppressed: ", "female × &lt;50", "detects gaps ≥", "0.910",
                 report.model_digest, report.policy.digest):  # fmt: skip
        assert text in html
    assert html.index('class="verdict') < html.index("<h2")
    assert html.count("<li>") >= len(report.gates) + len(report.limits)


def test_an_undefined_rate_is_said_in_words(results: dict[str, Any], report: AuditReport) -> None:
    audit = report.to_dict()
    audit["attributes"][0]["groups"][0]["rates"]["tpr"].update(value=None, low=None, high=None, hidden=False)
    audit["gates"][0]["found"].update(value=None, low=None, high=None)
    html = render_report(results, [], None, audit, study=STUDY)
    assert html.count("<td>undefined</td>") >= 2
    assert '<td class="rate">undefined' in html


def test_it_works_without_audit_and_few_shot(results: dict[str, Any]) -> None:
    html = render_report({**results, "held_out": None, "notes": []}, [], None, None, study={})
    outline(html)
    assert "Not audited" in html
    for heading in ("gates", "groups", "intersections", "rounds", "fewshot", "limits"):
        assert f'id="{heading}"' not in html


def test_the_same_input_gives_the_same_bytes(
    results: dict[str, Any], rounds: list[dict[str, Any]], fewshot: dict[str, Any], report: AuditReport
) -> None:
    inputs = results, rounds, fewshot, report.to_dict()
    assert render_report(*inputs, study=STUDY) == render_report(*copy.deepcopy(inputs), study=STUDY)


def test_it_loads_nothing_and_runs_nothing(
    results: dict[str, Any], rounds: list[dict[str, Any]], fewshot: dict[str, Any], report: AuditReport
) -> None:
    html = render_report(results, rounds, fewshot, report.to_dict(), study=STUDY)
    assert not re.search(r"https?://|//[a-z]|<script|<link|<img|@import|url\(|\son\w+=", html)


def test_names_are_escaped(results: dict[str, Any], report: AuditReport) -> None:
    audit = report.to_dict()
    audit["gates"][0]["attribute"] = '"><script>'
    html = render_report(results, [], None, audit, study=STUDY)
    assert "va &lt;b&gt;" in html
    assert "<script" not in html


def test_a_screen_reader_finds_its_way(
    results: dict[str, Any], rounds: list[dict[str, Any]], fewshot: dict[str, Any], report: AuditReport
) -> None:
    html = render_report(results, rounds, fewshot, report.to_dict(), study=STUDY)
    tags = outline(html).tags
    assert dict(tags)["html"] == {"lang": "en"}
    assert all("scope" in attrs for tag, attrs in tags if tag == "th")
    drawings = [attrs for tag, attrs in tags if tag == "svg" and "aria-hidden" not in attrs]
    assert drawings
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in drawings)
    assert html.count("<title>") == len(drawings) + 1
    assert html.count("<table") == html.count("<caption>")
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_lines_have_contrast_on_every_ground(theme: str) -> None:
    light, dark = CSS.read_text().split("prefers-color-scheme: dark", 1)
    named = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", light if theme == "light" else dark))
    for ground in (named["ground"], named["soft"]):
        for ink in (
            "ink",
            "muted",
            "accent",
            "pass",
            "fail",
            "inconclusive",
            "axis",
            "first",
            "second",
            "fourth",
        ):
            low, high = sorted([luminance(ground), luminance(named[ink])])
            assert (high + 0.05) / (low + 0.05) >= (3 if ink == "axis" else 4.5), (ink, ground)


def test_the_best_model_of_a_site_is_bold(results: dict[str, Any]) -> None:
    html = render_report(results, [], None, None, study=STUDY)
    assert '<td class="best">0.823</td>' in html
    assert '<td class="best">0.790</td>' not in html


def test_small_formats() -> None:
    assert [size(n) for n in (0, 999, 1000, 2_500_000, 3e9)] == ["0 B", "999 B", "1 kB", "2.5 MB", "3 GB"]
    assert half_width([0.8, 0.9]) == pytest.approx(0.05)
    assert half_width(0.02) == 0.02
    assert half_width(None) is None


def test_the_federated_model_is_shown_in_detail(results: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    probability = rng.uniform(0.01, 0.99, 200)
    labels = (rng.random(200) < probability).astype(np.int64)
    found = from_rows(labels, np.log(np.column_stack([1 - probability, probability])))
    models = {"federated": found, "local": found, "zero_shot": found}
    html = render_report({**results, "models": models}, [], None, None, study=STUDY)
    tags = outline(html).tags
    assert "In detail" in html
    assert "Zero-shot baseline" in html
    assert html.count("→ disease") == 2
    assert f"{found['confusion'][0][0]}</span>" in html
    assert f"<td>{found['brier']:.3f}</td>" in html
    [curve] = [
        attrs for tag, attrs in tags if tag == "svg" and "Reliability" in (attrs.get("aria-label") or "")
    ]
    assert curve["role"] == "img"
    assert html.count("<table") == html.count("<caption>")


def test_a_private_study_shows_its_confusion_alone(results: dict[str, Any]) -> None:
    models = {"federated": from_sums(np.array([[30, 5], [0, 0]]))}
    html = render_report({**results, "models": models}, [], None, None, study=STUDY)
    outline(html)
    assert "→ disease" in html
    assert "Reliability" not in html


def test_many_classes_are_left_to_the_file(results: dict[str, Any]) -> None:
    classes = [f"topic {i}" for i in range(30)]
    models = {"federated": from_sums(np.eye(30, dtype=np.int64))}
    html = render_report({**results, "classes": classes, "models": models}, [], None, None, study=STUDY)
    assert "Figures of each of the 30 classes" in html
    assert "→ topic 3" not in html


def test_what_may_not_be_written_is_said_to_be_hidden(results: dict[str, Any], report: AuditReport) -> None:
    audit = report.to_dict()
    group = audit["attributes"][0]["groups"][0]
    group.update(n_between=(20, 30))
    group["rates"]["tpr"].update(value=None, low=0.1, high=0.4, hidden=True)
    html = render_report(results, [], None, audit, study=STUDY)
    outline(html)
    assert "<td>20–30</td>" in html
    assert "hidden [0.10, 0.40]" in html
    assert "<td>hidden</td>" in html


def test_curves_and_sites_are_shown_where_they_are_released(
    results: dict[str, Any], report: AuditReport
) -> None:
    audit = report.to_dict()
    table = audit["attributes"][0]
    for group in table["groups"][:2]:
        group["roc"] = [{"fpr": x, "tpr": x**0.5} for x in (0.0, 0.25, 1.0)]
        group["calibration"] = [{"n": 20, "predicted": x, "observed": x} for x in (0.2, 0.8)]
    row = {"metric": "tpr", "group": "female", "sites": 4, "pooled": -0.2, "within": -0.15, "simpson": -0.05}
    table["within_sites"] = [{**row, "i_squared": 0.81}]
    html = render_report(results, [], None, audit, study=STUDY)
    outline(html)
    assert "ROC by sex" in html
    assert "Calibration by sex" in html
    assert "<td>-0.150</td><td>-0.050</td><td>81 %</td>" in html


def test_the_day_gives_the_clause_index(results: dict[str, Any], report: AuditReport) -> None:
    audit = report.to_dict()
    assert 'id="clauses"' not in render_report(results, [], None, audit, study=STUDY)
    html = render_report(results, [], None, audit, study=STUDY, on=date(2026, 11, 21))
    outline(html)
    assert "45 CFR 92.210" in html
    assert "Not answered by this audit" in html
    assert "from 2028-08-02" in html
    assert not re.search(r"https?://|//[a-z]", html)


def test_start_and_trained_stand_side_by_side(results: dict[str, Any], report: AuditReport) -> None:
    audit = report.to_dict()
    gate = audit["gates"][0]
    row = {**gate, "start": {"value": 0.1, "low": 0.0, "high": 0.2}, "trained": gate["found"]}
    start = {"policy_digest": audit["policy"]["digest"], "best_round": 2, "gates": [row]}
    html = render_report({**results, "audit_of_start": start}, [], None, audit, study=STUDY)
    outline(html)
    assert "Start (inherited)" in html
    other = {**start, "policy_digest": "of another policy"}
    assert "Start (inherited)" not in render_report(
        {**results, "audit_of_start": other}, [], None, audit, study=STUDY
    )


def test_commitments_and_signers_are_listed(results: dict[str, Any], report: AuditReport) -> None:
    audit = report.to_dict()
    audit["policy_origin"] = {
        "file_sha256": "cd" * 32, "fixed_sha256": None, "after_evaluation": True, "signed_by": "jane",
        "role": "auditor", "public_key": "ef" * 32, "signed_at": "2026-11-01",
    }  # fmt: skip
    sites = [{"site": "va", "commitment": "abc=", "signed": True}]
    commitments = {"sites": sites, "missing": [{"site": "x", "reason": "it sent none"}]}
    html = render_report(results, [], None, audit, study=STUDY, commitments=commitments)
    outline(html)
    for text in ("jane (auditor), 2026-11-01", "changed after evaluation", "abc=", "it sent none"):
        assert text in html


def test_headings_are_in_order(results: dict[str, Any], fewshot: dict[str, Any], report: AuditReport) -> None:
    html = render_report(results, [], fewshot, report.to_dict(), study=STUDY, on=date(2026, 11, 21))
    levels = [int(tag[1]) for tag, _ in outline(html).tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
