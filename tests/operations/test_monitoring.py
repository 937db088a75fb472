"""The dashboard and the alerts ask only for what the coordinator shows."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.home import Home
from server.metrics import CoordinatorCollector

FOLDER = Path(__file__).parents[2] / "deploy/monitoring"
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


def dashboard() -> dict[str, Any]:
    """As Grafana imports it."""
    return dict(json.loads((FOLDER / "grafana-dashboard.json").read_text()))


def queries() -> list[str]:
    """Every expression of the dashboard and the alerts, variables filled in."""
    panels = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    variables = [
        found["query"]["query"] for found in dashboard()["templating"]["list"] if found["type"] == "query"
    ]
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    alerts = [rule["expr"] for group in groups for rule in group["rules"]]
    assert len(panels) > 15
    assert len(alerts) > 5
    return [*(text.replace("$instance", ".*") for text in panels), *variables, *alerts]


@pytest.fixture
def shown(tmp_path: Path) -> dict[str, set[str]]:
    """Name of every sample that a coordinator without runs shows, and the labels it may have."""
    home = Home.create(tmp_path / "c", name="f", host="h", port=1, control_port=2)
    families = list(CoordinatorCollector(home).collect())
    return {
        family.name + suffix: set(getattr(family, "_labelnames", ()))
        for family in families
        for suffix in SUFFIXES[family.type]
    }


def test_every_metric_that_is_asked_for_is_shown(shown: dict[str, set[str]]) -> None:
    asked = {name for text in queries() for name in re.findall(r"\bfoedus_\w+", text)}
    assert asked <= set(shown)
    families = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in shown}
    used = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in asked}
    assert families == used, "a metric that nothing asks for is one that nobody looks at"


def test_every_label_that_is_asked_for_is_shown(shown: dict[str, set[str]]) -> None:
    for text in queries():
        for name, selector in re.findall(r"\b(foedus_\w+)\{([^}]*)\}", text):
            assert set(re.findall(r"(\w+)\s*=", selector)) - {"instance"} <= shown[name], text
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert labels <= set().union(
                *(shown[name] for name in re.findall(r"\bfoedus_\w+", target["expr"]))
            )


def test_prometheus_can_parse_every_query() -> None:
    promql = pytest.importorskip("promql_parser", reason="it is in the extra operations")
    for text in queries():
        if not text.startswith("label_values("):  # Grafana's own
            promql.parse(text)


def test_the_panels_lie_side_by_side_and_are_numbered_once() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_every_alert_says_what_is_wrong() -> None:
    for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["annotations"]["summary"].endswith("?") or rule["annotations"]["summary"].endswith(
                "."
            )
            assert rule["labels"]["severity"] in ("warning", "critical")
