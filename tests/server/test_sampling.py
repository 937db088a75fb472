"""A private study whose rounds are over a Poisson sample of the units: charged as such, epsilon as asked."""

import json
from pathlib import Path
from typing import Any

import pytest

from foedus import simulation
from foedus.door import LEDGER_FOLDER
from foedus.privacy.status import status
from foedus.runs import RunFolder
from foedus.site import find_sites


def _change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def _rows(site: Path) -> list[dict[str, Any]]:
    [chain] = (site / LEDGER_FOLDER).glob("*.jsonl")
    return [json.loads(line) for line in chain.read_text().splitlines()]


@pytest.fixture
def toy(toy: Path) -> Path:
    """The toy study, private, with 30 rounds over a fifth of the units each."""
    study = toy / "study.toml"
    _change(study, "rounds = 4", "rounds = 30")
    _change(study, 'kind = "number"', 'kind = "number"\nrange = [-4.0, 4.0]')
    _change(study, '[fairness]\npolicy = "policy.toml"\n', "")
    _change(study, 'mode = "open"', 'mode = "secure+ddp"\nsampling_rate = 0.2')
    return toy


def _run(toy: Path, mode: str, *, cap: float = 3.0) -> RunFolder:
    _change(toy / "study.toml", "secure+ddp", mode)
    for site in find_sites(toy / "sites"):
        _change(site / "site.toml", 'doors = ["open"]', f'doors = ["{mode}"]\nepsilon_cap = {cap}')
    run, _ = simulation.simulate(toy / "study.toml", toy / "sites", runs=toy / "runs", reference=False)
    return run


@pytest.mark.parametrize("mode", ["secure+ddp", "local-dp"])
def test_thirty_sampled_rounds_spend_what_was_asked_at_every_site(toy: Path, mode: str) -> None:
    run = _run(toy, mode)  # the cap is exactly what is asked for
    privacy = json.loads((run.path / "results.json").read_text())["privacy"]
    assert privacy["epsilon"] <= 3.0
    assert privacy["epsilon"] == pytest.approx(3.0, abs=1e-3)
    assert privacy["epsilon_prv"] == pytest.approx(3.0, rel=0.02)
    assert len(run.rounds()) == 30
    spent = [line["epsilon"] for line in run.rounds()]
    assert spent == sorted(spent)
    assert spent[-1] < 3.0
    for site in find_sites(toy / "sites"):
        assert status(site / LEDGER_FOLDER)[0].epsilon == pytest.approx(privacy["epsilon"], abs=1e-6)
        charged = {row["what"]: row["events"] for row in _rows(site) if row["state"] == "reserve"}
        assert len(charged) == 33
        for what, [event] in charged.items():
            assert event["sampling"] == (0.2 if what.startswith("round ") else 1.0)
            assert event["noise_multiplier"] == privacy["releases"][what]
    assert privacy["attack"]["of"] == "one round to someone who knows who is in it"
    assert privacy["attack"]["within_claim"]
    assert "over a random 20 % of the units" in (run.path / "report.html").read_text()
