"""rounds = 0: the one-round start is the model, planned, attacked, resumed and reported like any other."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from foedus import planning, simulation
from foedus.door import LEDGER_FOLDER
from foedus.errors import ConfigError
from foedus.privacy.status import status
from foedus.runs import RunFolder
from foedus.site import find_sites
from foedus.study import load_study

SAME = ("model/head.safetensors", "audit.json", "results.json")


def _change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.fixture
def toy(toy: Path) -> Path:
    """The toy study without rounds."""
    _change(toy / "study.toml", "rounds = 4", "rounds = 0")
    return toy


def _private(toy: Path, mode: str) -> None:
    _change(toy / "study.toml", 'mode = "open"', f'mode = "{mode}"')
    _change(toy / "study.toml", 'kind = "number"', 'kind = "number"\nrange = [-4.0, 4.0]')
    for site in find_sites(toy / "sites"):
        _change(site / "site.toml", 'doors = ["open"]', f'doors = ["{mode}"]')


def _run(toy: Path, name: str) -> RunFolder:
    run, _ = simulation.simulate(toy / "study.toml", toy / "sites", runs=toy / name)
    return run


def test_the_start_is_the_model_and_the_run_is_whole(toy: Path) -> None:
    run = _run(toy, "runs")
    results = json.loads((run.path / "results.json").read_text())
    assert (results["rounds"], results["best_round"], run.rounds()) == (0, 0, [])
    assert results["models"]["federated"] == results["models"]["start"]
    assert results["models"]["federated"]["accuracy"] > 0.7
    assert results["models"]["personal"] is not None
    assert "Privacy" in (run.path / "report.html").read_text()
    assert run.state()["status"] == "finished"


def test_a_run_killed_after_the_start_resumes_to_the_same_bytes(
    toy: Path, killed: Callable[[int, str], RunFolder]
) -> None:
    whole, run = _run(toy, "whole"), killed(0, "local")
    simulation.resume(run)
    for name in SAME:
        assert (run.path / name).read_bytes() == (whole.path / name).read_bytes(), name


@pytest.mark.parametrize("mode", ["open", "local-dp"])
def test_a_plan_without_rounds_asks_for_none(toy: Path, mode: str) -> None:
    if mode != "open":
        _private(toy, mode)
    plan = planning.estimate(toy / "study.toml", toy / "sites")
    asked = [exchange.what for exchange in plan.exchanges]
    assert "ridge sums" in asked
    assert not {"training round", "validating a round"} & set(asked)
    json.dumps(plan.to_json())


@pytest.mark.parametrize("mode", ["secure+ddp", "local-dp"])
def test_a_private_start_gets_the_budget_of_the_rounds_and_is_attacked(toy: Path, mode: str) -> None:
    _private(toy, mode)
    run = _run(toy, "runs")
    privacy = json.loads((run.path / "results.json").read_text())["privacy"]
    assert set(privacy["releases"]) == {"centre", "start", "test", "audit"}
    assert privacy["releases"]["start"] == min(privacy["releases"].values())
    assert (privacy["attack"]["of"], privacy["attack"]["within_claim"]) == ("the start", True)
    assert privacy["at_site"]["verdict"] in ("pass", "inconclusive")
    assert "the ε of the start is at least" in (run.path / "report.html").read_text()
    for site in find_sites(toy / "sites"):
        assert status(site / LEDGER_FOLDER)[0].epsilon == pytest.approx(3.0, abs=1e-3)


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("rounds = 0", 'rounds = 0\nstart = "zero"', 'federation.start = "zero"'),
        ('personal = "head"', 'personal = "ditto"', 'backbone.personal = "ditto"'),
        ("[door]", "[search]\ntrials = 3\n[door]", "[search]"),
    ],
)
def test_what_needs_rounds_is_refused_without_them(toy: Path, old: str, new: str, what: str) -> None:
    _change(toy / "study.toml", old, new)
    with pytest.raises(ConfigError, match=re.escape(f"{what} needs gradient rounds")):
        load_study(toy / "study.toml")
