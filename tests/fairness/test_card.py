from typing import Any

import pytest
import yaml

from fairness.audit import AuditReport
from fairness.card import ABSENT, NOT_STATED, card_yaml, front_matter, to_yaml

STUDY: dict[str, Any] = {
    "study": {"name": "heart"},
    "backbone": {"source": "tabular", "tune": "head"},
    "federation": {"strategy": "fedavg", "balance": "group"},
    "door": {"mode": "open"},
    "table": {"columns": [{"name": "age"}, {"name": "sex: m?"}]},
}
RESULTS: dict[str, Any] = {
    "classes": ["healthy", "disease"],
    "rounds": 3,
    "sites": [{}, {}],
    "models": {"federated": {"n": 90, "accuracy": 0.81234, "auc": None, "confusion": [[1]]}},
    "privacy": {"guarantee": None},
}


@pytest.mark.parametrize(
    "value",
    [
        {"a": "x: y # z", "b": [], "c": {}, "d": None, "e": [1, 2.5, True, 'a"b'], "f-g": {"h": {"i": "–"}}},
        {"rows": [{"a": 1, "b": {"c": [1, 2]}}, {"a": [], "b": "no"}], "x y": [[0.1, None], []]},
    ],
)
def test_yaml_reads_back_as_what_was_written(value: dict[str, Any]) -> None:
    assert yaml.safe_load(to_yaml(value)) == value


def test_front_matter_is_what_hubs_read() -> None:
    text = front_matter(STUDY, RESULTS, modality="table", verdict="fail")
    assert text.startswith("---\n")
    assert text.endswith("---\n")
    found = yaml.safe_load(text.strip("-\n"))
    assert found["pipeline_tag"] == "tabular-classification"
    assert "fairness-verdict-fail" in found["tags"]
    [result] = found["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "accuracy", "name": "accuracy", "value": 0.8123}]


def test_the_card_says_what_is_known_and_what_is_not(report: AuditReport) -> None:
    text = card_yaml(STUDY, RESULTS, report.to_dict(), modality="table", model_digest="ab", version="1")
    found = yaml.safe_load(text)
    assert found["inputs"] == ["age", "sex: m?"]
    assert found["training"]["groups_balanced"] is True
    assert found["fairness"]["verdict"] == report.verdict
    assert len(found["fairness"]["gates"]) == len(report.gates)
    assert set(found["fairness"]["representation"]) == {"sex", "age_band"}
    assert all(found[field] == NOT_STATED for field in ABSENT)


def test_a_model_that_was_not_audited_says_so() -> None:
    text = card_yaml(STUDY, RESULTS, None, modality="table", model_digest="ab", version="1")
    assert yaml.safe_load(text)["fairness"] == {"verdict": "not audited"}
