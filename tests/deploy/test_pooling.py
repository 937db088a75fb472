"""What several sites saw, summed under masks: drift that no site sees alone is found, and its absence is not."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from deploy.bundle import Bundle
from deploy.journal import Journal, read_gate
from deploy.monitor import follow, monitor
from deploy.served import Served, load
from fairness.policy import load_policy
from foedus import journals, records
from foedus.backbones import describe
from foedus.cli import app
from foedus.door import SITE_REFUSED
from foedus.errors import ConfigError, DataError, DoorError, ReleaseError, RoundError
from foedus.histograms import TRUTHS, Histograms
from foedus.pooling import monitor_sites
from foedus.releasing import release
from foedus.statistic import Arrays
from foedus.study import Study, load_study
from foedus.traffic import PARTS, Asked, Traffic
from server import summing
from server.local_grid import LocalGrid
from server.masked import MaskedSums

SITES = ("east", "north", "west")
SERVICE = '\n[service]\njournal = "journal"\nlabels = "labels.csv"\n'
ASKED = Asked(version=1, day=None, fewest=3, attributes={"sex": ["f", "m"]})
Made = Any


@pytest.fixture(scope="module")
def masked(make_approved: Callable[..., Made], tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The toy study under masks."""
    rng = np.random.default_rng(5)
    study = TOY.replace('mode = "open"', 'mode = "secure-only"')
    values = {name: rng.normal(size=(800, 3)).tolist() for name in SITES}
    rows = {
        name: [row(a, b, noise, i) for i, (a, b, noise) in enumerate(found)] for name, found in values.items()
    }
    made = make_approved(tmp_path_factory.mktemp("masked"), study, rows, kind='kind = "table"')
    for name in SITES:
        site = made.folder / "sites" / name / "site.toml"
        site.write_text(site.read_text() + SERVICE)
    return made


TOY = """
[study]
name = "toy"
classes = ["no", "yes"]
[backbone]
source = "tabular"
[federation]
rounds = 0
min_sites = 3
[door]
mode = "open"
[fairness]
policy = "policy.toml"
[[table.columns]]
name = "a"
kind = "number"
[[table.columns]]
name = "b"
kind = "number"
"""


def row(a: float, b: float, noise: float, i: int) -> dict[str, str]:
    return {"a": f"{a:.3f}", "b": f"{b:.3f}", "y": "yes" if a + noise / 2 > b else "no", "sex": "fm"[i % 2]}


@pytest.fixture(scope="module")
def bundle(masked: Made) -> Bundle:
    return release(masked.run, masked.hub, keys=[masked.jane.public], to=masked.folder / "releases")


@pytest.fixture(scope="module")
def served(bundle: Bundle, masked: Made) -> Served:
    return load(bundle.path, masked.keys)


@pytest.fixture
def sites(masked: Made, tmp_path: Path) -> Path:
    return Path(shutil.copytree(masked.folder / "sites", tmp_path / "sites"))


def note(
    site: Path, served: Served, *, seed: int, n: int, shift: float = 0.0, wrong: float = 0.0, of: str = "fm"
) -> None:
    """What a service at a site notes of n records in requests of 50; labels come for all, `wrong` ones flipped."""
    rng = np.random.default_rng(seed)
    a, b, noise = rng.normal(size=(3, n))
    journal = Journal(site / "journal")
    rows = []
    for at in range(0, n, 50):
        frame = pd.DataFrame({"a": a[at : at + 50] + shift, "b": b[at : at + 50]})
        answers = served.head.answer(served.embedder.embed(frame))
        journal.note("toy", "1", f"{seed}-{at}", answers, Histograms(served.head.head))
        for i, said in enumerate(answers.labels):
            sex = "fm"[(at + i) % 2]
            truth = "yes" if a[at + i] + noise[at + i] / 2 > b[at + i] else "no"
            if sex in of and rng.random() < wrong:
                truth = "no" if said == "yes" else "yes"
            rows.append((f"{seed}-{at}/{i}", truth, sex))
    journal.close()
    with (site / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "label", "sex"), *rows])


def test_drift_that_no_site_sees_alone_is_found_in_the_sum(
    bundle: Bundle, served: Served, sites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, name in enumerate(SITES):
        note(sites / name, served, seed=seed, n=150, shift=0.5)
        alone = monitor(bundle, sites / name / "journal")
        assert alone.breaches == []
        assert alone.notes == ["150 records are fewer than the policy's 200: nothing is said of drift"]
    monkeypatch.setattr(summing.PlainSums, "total", None)  # not one sum is made without masks
    found = monitor_sites(bundle, sites, tmp_path / "hub")
    assert (found.sites, found.n, found.n_labelled) == (3, 450, 420)  # 3 x 7 blocks of 20
    assert "feature a" in [finding.what for finding in found.breaches]
    gate = json.loads((tmp_path / "hub/toy/gate.json").read_text())
    assert (gate["action"], gate["sites"]) == ("shadow", 3)
    assert any("feature a is distributed otherwise" in reason for reason in gate["reasons"])
    here = sites / "east/journal"
    assert follow(here, "toy", tmp_path / "hub/toy/gate.json")["action"] == "shadow"
    assert read_gate(here, "toy")["reasons"] == gate["reasons"]
    (tmp_path / "open.json").write_text('{"action": "none", "reasons": []}')
    assert follow(here, "toy", tmp_path / "open.json")["action"] == "shadow"
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(ReleaseError, match="is no gate"):
        follow(here, "toy", tmp_path / "other.json")


def test_the_same_people_at_every_site_raise_no_alarm(
    bundle: Bundle, served: Served, sites: Path, tmp_path: Path
) -> None:
    for seed, name in enumerate(SITES):
        note(sites / name, served, seed=10 + seed, n=400)
    found = monitor_sites(bundle, sites, tmp_path / "hub")
    assert (found.n, found.n_labelled, found.notes, found.breaches) == (1200, 1200, [], [])
    assert {"feature a", "abstentions", "calibration", "accuracy in sex f"} <= {
        finding.what for finding in found.findings
    }
    assert not (tmp_path / "hub").exists()


def test_a_groups_errors_at_all_sites_together_close_the_gate(
    bundle: Bundle, served: Served, sites: Path, tmp_path: Path
) -> None:
    for seed, name in enumerate(SITES):
        note(sites / name, served, seed=20 + seed, n=80, wrong=0.3, of="f")
        labels = sites / name / "labels.csv"
        assert monitor(bundle, sites / name / "journal", labels=labels).breaches == []
    found = monitor_sites(bundle, sites, tmp_path / "hub")
    assert "accuracy in sex f" in [finding.what for finding in found.breaches]
    assert "accuracy in sex m" not in [finding.what for finding in found.breaches]
    assert [line["n"] for line in found.groups if line["metric"] == "accuracy"] == [120, 120]


def test_the_pooled_sum_is_the_sum_of_the_journals_exactly(
    bundle: Bundle, served: Served, sites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, name in enumerate(SITES):
        note(sites / name, served, seed=30 + seed, n=620)
    totals: list[Arrays] = []
    real = MaskedSums.total

    def keeping(self: MaskedSums, *args: Any, **kwargs: Any) -> Any:
        found = real(self, *args, **kwargs)
        totals.append(found[0])
        return found

    monkeypatch.setattr(MaskedSums, "total", keeping)
    monitor_sites(bundle, sites, tmp_path / "hub")
    [total] = totals
    windows = [
        window
        for name in SITES
        for _, window in journals.read_windows(sites / name / "journal/toy", version="1")
    ]
    assert len(windows) == 6  # 500 and 120 at each site
    for name in windows[0].keys() - {TRUTHS}:
        np.testing.assert_array_equal(total[name], np.sum([window[name] for window in windows], axis=0))
    assert total[PARTS].tolist() == [3, 3]
    lines = [line for name in SITES for line in journals.read_predictions(sites / name / "journal/toy")]
    assert total["outcomes"][0].sum() == len(lines) == 1860
    chances = sum(line["probabilities"][1] for line in lines)
    assert total["chances"][0] == pytest.approx(chances, abs=1e-6)


def served_dim(study: Study) -> int:
    return describe(study.backbone, study.table).dim


def traffic(site: Path, bundle: Bundle, asked: Asked = ASKED, *, block: int = 20) -> Arrays:
    study = load_study(bundle.path / "study.toml")
    found = Traffic(asked, study, dim=served_dim(study))
    return found.measure(site / "journal", labels=site / "labels.csv", block=block)


def test_two_answers_never_differ_by_less_than_a_block(bundle: Bundle, served: Served, sites: Path) -> None:
    site = sites / "east"
    note(site, served, seed=40, n=57)
    n = traffic(site, bundle)["outcomes"][0].sum()
    assert n == 40  # of 57 labels, two blocks of 20
    rows = (site / "labels.csv").read_text().splitlines()
    before = traffic(site, bundle)
    for count in (42, 55, 57):
        (site / "labels.csv").write_text("\n".join(rows[: count + 1]) + "\n")
        np.testing.assert_array_equal(traffic(site, bundle)["outcomes"], before["outcomes"])
    (site / "labels.csv").write_text("\n".join(rows[:31]) + "\n")
    assert traffic(site, bundle)["outcomes"][0].sum() == 20
    journal = Journal(site / "journal")
    answers = served.head.answer(served.embedder.embed(pd.DataFrame({"a": [0.0], "b": [0.0]})))
    journal.note("toy", "1", "alone", answers, Histograms(served.head.head))
    journal.close()
    assert traffic(site, bundle)["decisions"].sum() == 57  # the window of one record waits
    other = Traffic(ASKED, load_study(bundle.path / "study.toml"), dim=9)
    with pytest.raises(DataError, match="holds windows of another model"):
        other.measure(site / "journal", labels=None, block=20)
    with pytest.raises(DoorError, match=r"blocks are of 2 records .* raise min_records"):
        traffic(site, bundle, block=2)


def test_blocks_fill_day_by_day() -> None:
    items = [("mon", 3, "a"), ("tue", 6, "b"), ("mon", 2, "c"), ("mon", 4, "d"), ("tue", 1, "e")]
    assert journals.whole_blocks(items, 5) == ["b", "a", "c"]


def test_a_site_that_names_no_service_sends_nothing(
    bundle: Bundle, served: Served, sites: Path, tmp_path: Path
) -> None:
    for name in SITES:
        note(sites / name, served, seed=50, n=100)
    quiet = sites / "west/site.toml"
    quiet.write_text(quiet.read_text().replace(SERVICE, ""))
    with pytest.raises(RoundError, match=r"the site names no \[service\]: nothing of its traffic leaves"):
        monitor_sites(bundle, sites, tmp_path / "hub")


def test_labels_of_too_few_sites_are_not_told_of(
    bundle: Bundle, served: Served, sites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, name in enumerate(SITES):
        note(sites / name, served, seed=70 + seed, n=100)
    (sites / "west/labels.csv").unlink()
    rules = load_policy(bundle.path / "policy.toml")
    strict = rules.model_copy(update={"disclosure": rules.disclosure.model_copy(update={"min_sites": 3})})
    monkeypatch.setattr("foedus.pooling.load_policy", lambda path: strict)
    found = monitor_sites(bundle, sites, tmp_path / "hub")
    assert (found.sites, found.n, found.n_labelled) == (3, 300, 0)
    assert found.notes == ["labels came from fewer than 3 sites: nothing is said of outcomes"]
    assert found.groups == []


def test_too_few_sites_with_traffic_are_not_told_of(
    bundle: Bundle, served: Served, sites: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="0 sites have noted enough in this window"):
        monitor_sites(bundle, sites, tmp_path / "hub")


def test_private_traffic_is_refused_by_coordinator_and_site(
    bundle: Bundle, sites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flwr.app import ConfigRecord, Message, RecordDict

    from clients.app import app as client_app

    private = tmp_path / "private.toml"
    text = (bundle.path / "study.toml").read_text()
    private.write_text(text.replace('mode = "secure-only"', 'mode = "local-dp"\nepsilon = 8.0'))
    study = load_study(private)
    monkeypatch.setattr("foedus.pooling.load_study", lambda path: study)
    with pytest.raises(DoorError, match="its privacy budget has no part for sums of traffic"):
        monitor_sites(bundle, sites, tmp_path / "hub")
    file = sites / "east/site.toml"
    file.write_text(file.read_text().replace('"secure-only"]', '"secure-only", "local-dp"]'))
    config = {
        records.STUDY: study.to_json(),
        records.RUN: "r",
        records.SETTINGS: ASKED.model_dump_json(),
    }
    content = RecordDict({records.CONFIG: ConfigRecord(dict(config))})
    message = Message(content, dst_node_id=1000, message_type=records.QUERY_TRAFFIC)
    [reply] = LocalGrid(client_app, [sites / "east"]).send_and_receive([message])
    assert reply.error.code == SITE_REFUSED
    assert "keeps traffic out of private studies" in reply.error.reason


def test_the_command_pools_and_says_so(
    bundle: Bundle, served: Served, masked: Made, sites: Path, tmp_path: Path
) -> None:
    for seed, name in enumerate(SITES):
        note(sites / name, served, seed=60 + seed, n=300, shift=1.0)
    asked = ["monitor", str(bundle.path), "--journal", str(tmp_path / "hub"), "--sites", str(sites)]
    trusted = [
        text for key in ("hub", "jane") for text in ("--trust", str(masked.folder / f"keys/{key}.pub"))
    ]
    result = CliRunner().invoke(app, [*asked, *trusted, "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["sites"] == 3
    shown = CliRunner().invoke(app, [*asked, *trusted])
    assert "3 sites, 900 records, 900 labels" in str(shown.stdout)
    both = CliRunner().invoke(app, [*asked, *trusted, "--labels", "labels.csv"])
    assert isinstance(both.exception, ConfigError)


def test_a_site_sees_what_of_its_service_may_leave(sites: Path) -> None:
    def said(*more: str) -> str:
        return str(CliRunner().invoke(app, ["site", "policy", str(sites / "west"), *more]).stdout)

    assert "[service]: sums over blocks of 20 records or more, noted in 'journal'" in said()
    assert json.loads(said("--json"))["service"]["labels"] == "labels.csv"
    file = sites / "west/site.toml"
    file.write_text(file.read_text().replace(SERVICE, ""))
    assert "no [service]: nothing of what a service here notes leaves" in said()
