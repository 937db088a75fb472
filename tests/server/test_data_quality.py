"""Data quality of all sites together: the sum of what each site's own check counts, through every door."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
from flwr.app import ConfigRecord, Message, RecordDict

from clients.app import app as client_app
from foedus import records, simulation
from foedus.data import check_site
from foedus.data.quality import DataQuality
from foedus.runs import RunFolder
from foedus.site import find_sites
from foedus.study import load_study
from server.federation import Federation
from server.local_grid import LocalGrid
from server.results import data_quality

K = 5


def _spoil(toy: Path) -> None:
    """Records without a label or of a foreign class, cells that are empty, no number or out of range."""
    study = toy / "study.toml"
    study.write_text(study.read_text().replace("rounds = 4", "rounds = 1").replace(
        'name = "a"\nkind = "number"', 'name = "a"\nkind = "number"\nrange = [-1.5, 1.5]\nmissing = ["?"]'
    ))  # fmt: skip
    policy = toy / "policy.toml"
    policy.write_text(policy.read_text() + f"[disclosure]\nk = {K}\n")
    for site in find_sites(toy / "sites"):
        frame = pd.read_csv(site / "data.csv", dtype=str)
        frame.loc[:1, "y"] = ""
        frame.loc[2, "y"] = "perhaps"
        frame.loc[5:6, "a"] = "?"
        frame.loc[7, "b"] = "high"
        frame.loc[8:10, "b"] = ""
        frame.to_csv(site / "data.csv", index=False)


def _use(toy: Path, mode: str) -> None:
    study = toy / "study.toml"
    study.write_text(re.sub(r'mode = ".*"', f'mode = "{mode}"', study.read_text()))
    for site in find_sites(toy / "sites"):
        file = site / "site.toml"
        file.write_text(re.sub(r"doors = \[.*\]", f'doors = ["{mode}"]', file.read_text()))


def _run(toy: Path, name: str) -> tuple[RunFolder, dict[str, Any]]:
    run, _ = simulation.simulate(toy / "study.toml", toy / "sites", runs=toy / name, reference=False)
    return run, json.loads((run.path / "results.json").read_text())


def _checked(toy: Path) -> tuple[Counter[str], dict[str, Counter[str]]]:
    """What the lines of `foedus site check` add up to: records, by reason, and cells, by column."""
    seen, columns = Counter[str](), {"a": Counter[str](), "b": Counter[str]()}
    for site in find_sites(toy / "sites"):
        report = check_site(site, load_study(toy / "study.toml"))
        seen.update(record.kind for record in report.quarantined)
        for row in report.rows:
            if row.check == "records":
                seen["usable"] += int(row.found.split(" usable")[0])
            elif row.check.startswith("column "):
                for n, problem in re.findall(r"(\d+) (\D+?)(?:, | of \d)", row.found):
                    columns[row.check.removeprefix("column ")][problem] += int(n)
    return seen, columns


def test_totals_are_the_sum_of_the_sites_own_checks_and_masks_change_no_byte(toy: Path) -> None:
    _spoil(toy)
    seen, columns = _checked(toy)
    run, results = _run(toy, "plain")
    found = results["data_quality"]
    assert found["usable"] == seen.pop("usable") == 4 * 87
    assert seen == {"no label": 8, "label is not a class of the study": 4}
    assert found["set_aside"] == {"no label": 8, "label is not a class of the study": None}  # 4 < K
    assert found["columns"]["a"] == columns["a"]
    assert columns["a"]["out of range"] > 4 * K
    assert columns["b"] == {"empty": 12, "not a number": 4}
    assert found["columns"]["b"] == {"empty": 12, "not a number": None}
    html = (run.path / "report.html").read_text()
    assert "Data quality, all sites together" in html
    assert '<tr><th scope="row">Records set aside: no label</th><td>8</td></tr>' in html
    assert '<tr><th scope="row">Column b: not a number</th><td>hidden</td></tr>' in html

    _use(toy, "secure-only")
    _, masked = _run(toy, "masked")
    assert json.dumps(masked["data_quality"]) == json.dumps(found)


def test_a_private_study_does_not_ask_and_its_sites_do_not_answer(toy: Path) -> None:
    study = toy / "study.toml"
    text = study.read_text().replace('kind = "number"', 'kind = "number"\nrange = [-4.0, 4.0]')
    study.write_text(re.sub(r"\[fairness\]\n.*\n", "", text))
    _use(toy, "local-dp")
    grid = LocalGrid(client_app, find_sites(toy / "sites"))
    federation = Federation(grid, load_study(study), "r", {1: "a site that would be asked"}, {}, {})
    assert data_quality(federation) is None
    reply = _ask(toy, ["a", "b"])
    assert "'data-quality' has no place in a private study" in (reply.error.reason or "")


def test_a_site_answers_for_the_columns_of_the_study_alone(toy: Path) -> None:
    assert not _ask(toy, ["a", "b"]).has_error()
    for columns in (["a"], ["b", "a"], []):
        assert "the request or the site's configuration is not valid" in (
            _ask(toy, columns).error.reason or ""
        )


def _ask(toy: Path, columns: list[str]) -> Message:
    config = {
        records.STUDY: load_study(toy / "study.toml").to_json(),
        records.RUN: "r",
        records.STATISTIC: DataQuality.name,
        records.SETTINGS: json.dumps(DataQuality(columns).settings()),
        records.SPLIT: "all",
    }
    content = RecordDict({records.CONFIG: ConfigRecord(dict(config))})
    message = Message(content, dst_node_id=1000, message_type=records.QUERY_STATISTIC)
    [reply] = LocalGrid(client_app, [toy / "sites/west"]).send_and_receive([message])
    return reply
