"""A whole study on real folders: the same bytes twice, and after SIGKILL; bad sites are named and left out."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from clients import workplace
from clients.app import app as client_app
from foedus import door, records, simulation
from foedus.door import KEYS_FOLDER
from foedus.errors import RoundError, RunError
from foedus.runs import RunFolder
from foedus.secure.keystore import Keystore
from foedus.secure.roster import Roster
from foedus.site import find_sites
from foedus.study import load_study
from server import app
from server.app import conduct
from server.federation import Federation
from server.local_grid import LocalGrid

SAME = ("model/head.safetensors", "audit.json", "results.json")


def _run(toy: Path, name: str) -> RunFolder:
    run, _ = simulation.simulate(toy / "study.toml", toy / "sites", runs=toy / name)
    return run


def test_the_same_study_twice_gives_the_same_bytes(toy: Path) -> None:
    first, second = _run(toy, "one"), _run(toy, "two")
    for name in SAME:
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes(), name


@pytest.mark.parametrize(
    "after", [pytest.param(0, marks=pytest.mark.slow), 1, pytest.param(3, marks=pytest.mark.slow)]
)
def test_a_run_killed_after_any_round_resumes_to_the_same_bytes(
    toy: Path, killed: Callable[[int, str], RunFolder], after: int
) -> None:
    whole, run = _run(toy, "whole"), killed(after, "local")
    simulation.resume(run)
    assert len(run.rounds()) == 4
    for name in SAME:
        assert (run.path / name).read_bytes() == (whole.path / name).read_bytes(), name
    with pytest.raises(RunError, match="is finished; there is nothing to resume"):
        simulation.resume(run)


def _spoiling(site: str, spoil: str) -> ClientApp:
    """The real ClientApp, except that one site answers training with something else."""
    spoiled = ClientApp()

    @spoiled.query("enlist")
    def enlist(message: Message, context: Context) -> Message:
        return client_app(message, context)

    @spoiled.query("statistic")
    def statistic(message: Message, context: Context) -> Message:
        return client_app(message, context)

    @spoiled.query("report")
    def report(message: Message, context: Context) -> Message:
        return client_app(message, context)

    @spoiled.train()
    def train(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        if Path(str(context.node_config["site-folder"])).name != site:
            return reply
        arrays = records.from_record(reply.content[records.ARRAYS])
        match spoil:
            case "nan":
                arrays["weight"] = np.full(arrays["weight"].shape, np.nan)
            case "huge":
                arrays["weight"] = np.full_like(arrays["weight"], 2**31 - 1)
            case "shape":
                arrays["weight"] = np.zeros((1, 1), np.int32)
            case "weightless":
                arrays["examples"] = np.full_like(arrays["examples"], -5)
            case "weighty":
                arrays["examples"] = np.full_like(arrays["examples"], 2**30)
            case _:
                raise RuntimeError("patient 17 broke it")
        reply.content[records.ARRAYS] = records.to_record(arrays)
        return reply

    return spoiled


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ("nan", "has type float64"),
        ("huge", "ranges over"),
        ("shape", "has shape (1, 1)"),
        ("weightless", "'examples' ranges over -5"),
        ("weighty", "'examples' ranges over 1.07e+09"),
        ("raise", "RuntimeError"),
    ],
)
def test_a_bad_update_is_rejected_and_named_and_the_round_goes_on(toy: Path, spoil: str, reason: str) -> None:
    policy = (toy / "policy.toml").read_text()
    sites = find_sites(toy / "sites")
    run = RunFolder.create(
        toy / "runs", toy / "study.toml", policy=policy, engine="local", sites=str(toy / "sites")
    )
    conduct(LocalGrid(_spoiling("south", spoil), sites), run)
    for line in run.rounds():
        assert line["answered"] == 3
        [rejected] = line["rejected"]
        assert rejected["site"] == "south"
        assert reason in rejected["reason"]
        assert "patient" not in rejected["reason"]


def test_a_site_that_cannot_take_part_is_named_without_telling_about_its_data(toy: Path) -> None:
    (toy / "sites/west/data.csv").write_text("id,y,sex\n1,no,f\n")
    run = _run(toy, "runs")
    results = json.loads((run.path / "results.json").read_text())
    assert [site["site"] for site in results["sites"]] == ["east", "north", "south"]
    [refused] = results["refused"]
    assert "do not fit the study" in refused["reason"]
    assert str(toy) not in json.dumps(results)


def test_too_few_sites_end_the_run_with_the_reasons(toy: Path) -> None:
    for name in ("north", "south", "west"):
        (toy / f"sites/{name}/data.csv").unlink()
    with pytest.raises(RoundError, match=r"1 sites can take part, federation.min_sites is 2"):
        _run(toy, "runs")


def test_a_site_policy_without_the_open_door_keeps_the_site_out(toy: Path) -> None:
    path = toy / "sites/west/site.toml"
    path.write_text(path.read_text().replace('doors = ["open"]', 'doors = ["secure+ddp"]'))
    run = _run(toy, "runs")
    [refused] = json.loads((run.path / "results.json").read_text())["refused"]
    assert "the site's policy allows doors: secure+ddp" in refused["reason"]


def test_a_door_mode_that_no_site_allows_is_refused_by_each_of_them(toy: Path) -> None:
    path = toy / "study.toml"
    path.write_text(path.read_text().replace('mode = "open"', 'mode = "secure-only"'))
    with pytest.raises(RoundError, match='policy allows doors: open; the study asks for "secure-only"'):
        _run(toy, "runs")


def test_figures_of_a_site_that_keeps_them_do_not_leave(toy: Path) -> None:
    path = toy / "sites/west/site.toml"
    path.write_text(path.read_text().replace("release_site_metrics = true", "release_site_metrics = false"))
    run = _run(toy, "runs")
    results = json.loads((run.path / "results.json").read_text())
    west = next(site for site in results["sites"] if site["site"] == "west")
    assert west["released"] is False
    assert west["local"] is None
    assert (toy / "sites/west/.foedus/reports" / run.run_id / "report.json").exists()


@pytest.mark.parametrize(
    "strategy",
    [
        "fedavg",
        "fedprox",
        "fedadam",
        "fedyogi",
        "fedadagrad",
        "fedavgm",
        "qfedavg",
        "fedmedian",
        "fedtrimmedavg",
        "krum",
    ],
)
def test_every_strategy_trains_and_resumes_to_the_same_bytes(toy: Path, strategy: str) -> None:
    path = toy / "study.toml"
    path.write_text(path.read_text().replace("[federation]", f'[federation]\nstrategy = "{strategy}"'))
    whole = _run(toy, "whole")
    run = _run(toy, "again")
    state = run.state()
    # Go back to the checkpoint of round 2, as if the run had been killed there.
    for line in (run.path / "checkpoints").glob("round-0000[34]*"):
        line.unlink()
    _rewind(run, toy, 2)
    assert state["status"] == "finished"
    simulation.resume(run)
    assert (run.path / SAME[0]).read_bytes() == (whole.path / SAME[0]).read_bytes()


def _rewind(run: RunFolder, toy: Path, number: int) -> None:
    """Make `number` the last checkpoint, by running the study only so far."""
    study = (toy / "study.toml").read_text()
    (toy / "short.toml").write_text(study.replace("rounds = 4", f"rounds = {number}"))
    short, _ = simulation.simulate(toy / "short.toml", toy / "sites", runs=toy / "short")
    pointer, arrays = short.latest() or ({}, {})
    kept = {key: pointer[key] for key in ("lines", "best_loss", "best_round", "n_train")}
    run.checkpoint(number, arrays, **kept)
    run.set_state("running")


def test_a_site_file_that_is_not_valid_costs_the_run_nothing_but_the_site(toy: Path) -> None:
    (toy / "sites/west/site.toml").write_text("not toml [")
    policy = toy / "policy.toml"
    policy.write_text(policy.read_text() + "[disclosure]\nk = 1\n")  # three sites have few test examples
    run = _run(toy, "runs")
    results = json.loads((run.path / "results.json").read_text())
    assert [site["site"] for site in results["sites"]] == ["east", "north", "south"]
    assert results["models"]["pooled"]["accuracy"] > 0.7


def test_of_two_folders_with_one_name_the_first_takes_part(toy: Path) -> None:
    path = toy / "sites/west/site.toml"
    path.write_text(path.read_text().replace('"west"', '"east"'))
    run = _run(toy, "runs")
    results = json.loads((run.path / "results.json").read_text())
    assert [site["site"] for site in results["sites"]] == ["east", "north", "south"]
    [refused] = results["refused"]
    assert "another node already answers as 'east'" in refused["reason"]


def test_a_site_with_another_backbone_does_not_count_and_is_named(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest of what lies on a site's own disk decides, not the name the study gives it."""
    own = workplace.describe

    def describe(*given: Any) -> Any:
        found = own(*given)
        return replace(found, digest="f" * 64) if next(sites) == 1 else found

    sites = count()
    monkeypatch.setattr(workplace, "describe", describe)
    federation = Federation.enlist(
        LocalGrid(client_app, find_sites(toy / "sites")), load_study(toy / "study.toml"), "run"
    )
    assert sorted(federation.cohort.values()) == ["east", "south", "west"]
    assert "another backbone (digest ffffffffffff) than the coordinator" in federation.refused["north"]


def test_a_site_answers_under_the_name_it_was_approved_under_or_not_at_all(toy: Path) -> None:
    grid = LocalGrid(client_app, find_sites(toy / "sites"))
    approved = dict(grid.labels)
    first, second, *_ = sorted(approved)
    approved[first], approved[second] = approved[second], approved[first]
    federation = Federation.enlist(grid, load_study(toy / "study.toml"), "run", approved=approved)
    assert len(federation.cohort) == 2
    assert all("was approved as" in reason for reason in federation.refused.values())


def test_a_lost_server_leaves_the_run_to_be_submitted_again_and_an_error_ends_it(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder.create(toy / "runs", toy / "study.toml", policy=None, engine="superlink", sites="")
    context = Context(1, 1, {}, RecordDict(), {app.RUN_KEY: str(run.path)})

    def failing(error: Exception) -> dict[str, Any]:
        def conduct(grid: Any, found: RunFolder, **given: Any) -> None:
            raise error

        monkeypatch.setattr(app, "conduct", conduct)
        with pytest.raises(type(error)):
            app.main(None, context)  # type: ignore[arg-type]
        return run.state()

    lost = failing(app.ObjectPushError("a", 1, "b"))
    assert (lost["status"], lost.get("problem")) == ("running", None)
    assert failing(httpx.ConnectError("gone"))["status"] == "running"
    failed = failing(RoundError("too few sites"))
    assert (failed["status"], failed["problem"]) == ("failed", "too few sites")


def test_a_node_that_nobody_approved_does_not_count_even_where_none_is_known_yet(toy: Path) -> None:
    grid = LocalGrid(client_app, find_sites(toy / "sites"))
    with pytest.raises(RoundError, match=r"0 sites can take part.*was approved as 'node-"):
        Federation.enlist(grid, load_study(toy / "study.toml"), "run", approved={})


def test_a_site_with_a_roster_of_its_own_is_left_out_whoever_answers_first(toy: Path) -> None:
    """East, the first to answer, shows a roster of itself and two sites it invented."""
    for path in (toy / "study.toml", *toy.glob("sites/*/site.toml")):
        path.write_text(path.read_text().replace('"open"', '"secure-only"'))
    study, sites = load_study(toy / "study.toml"), find_sites(toy / "sites")
    simulation.enrol(sites, study)
    own = Keystore(sites[0] / KEYS_FOLDER)
    invented = {"x": bytes(31) + b"x", "y": bytes(31) + b"y"}
    own.pin(Roster.build(sites={"east": own.public_key, **invented}), replace=True)
    federation = Federation.enlist(LocalGrid(client_app, sites), study, "run")
    assert sorted(federation.cohort.values()) == ["north", "south", "west"]
    assert "site 'east' has another roster" in federation.refused["east"]


def test_figures_that_cannot_be_shown_cost_a_site_its_figures_and_nothing_else(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave = door.leave

    def lying(message: Message, *args: Any, **more: Any) -> Message:
        reply = leave(message, *args, **more)
        words = reply.content.config_records.get(records.CONFIG, {}) if reply.has_content() else {}
        if '"site": "south"' in str(words.get(records.FIGURES)):
            words[records.FIGURES] = '{"site": "north", "local": {"accuracy": NaN}}'
        return reply

    monkeypatch.setattr("clients.app.leave", lying)
    results = json.loads((_run(toy, "runs").path / "results.json").read_text())
    released = {site["site"]: site["released"] for site in results["sites"]}
    assert released == {"east": True, "north": True, "south": False, "west": True}
