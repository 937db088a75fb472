"""What foedus privacy and the end of a private run print."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from foedus.cli.output import privacy_lines
from foedus.cli.privacy import app
from foedus.door import LEDGER_FOLDER
from foedus.privacy.accountant import Gaussian
from foedus.privacy.ledger import Ledger

PRIVACY = {
    "mode": "secure+ddp",
    "guarantee": "differential privacy",
    "epsilon": 3.0,
    "delta": 1e-5,
    "attack": {
        "within_claim": True,
        "clipping_held": True,
        "lower_bound": 1.14,
        "claim": 1.77,
        "of": "the rounds",
    },
}


def test_a_private_run_ends_with_its_promise_and_what_attacks_made_of_it() -> None:
    promise, attacked = privacy_lines(PRIVACY)
    assert promise.startswith(
        "Privacy: epsilon 3 at delta 1e-05 for each unit of a site, in sums under masks"
    )
    assert (
        "[green]the claim holds[/]: at least 1.14 of the 1.77 claimed for the rounds; the clip held"
        in attacked
    )
    broken = {**PRIVACY, "attack": {**PRIVACY["attack"], "clipping_held": False}}  # type: ignore[dict-item]
    assert "THE CLAIM DOES NOT HOLD" in privacy_lines(broken)[1]
    assert privacy_lines({"mode": "secure-only", "guarantee": None}) == [
        "Privacy: sums under masks, no differential privacy."
    ]
    assert privacy_lines({"mode": "open", "guarantee": None}) == []


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site whose ledger has one charge."""
    text = '[site]\nname = "north"\n[data]\nkind = "table"\npath = "data.csv"\nlabel = "y"\n'
    (tmp_path / "site.toml").write_text(text)
    ledger = Ledger.open(tmp_path / LEDGER_FOLDER, data="data.csv", unit="record", cap_epsilon=8, delta=1e-5)
    ledger.reserve("heart", "r", "round 1", [Gaussian(10)])
    return tmp_path


def test_an_auditor_gets_every_line_of_the_ledger(site: Path, tmp_path: Path) -> None:
    out = tmp_path / "ledger.json"
    done = CliRunner().invoke(app, ["export", str(site), "--out", str(out)])
    assert done.exit_code == 0, done.output
    [found] = json.loads(out.read_text())
    assert [row["state"] for row in found["rows"]] == ["open", "reserve"]
    assert (found["cap"], found["delta"]) == (8.0, 1e-5)
    assert found["prv_epsilon"] == pytest.approx(found["epsilon"], rel=0.02)


def test_status_and_verify_tell_a_changed_ledger(site: Path) -> None:
    run = CliRunner().invoke
    assert run(app, ["verify", str(site)]).exit_code == 0
    assert json.loads(run(app, ["status", str(site), "--json"]).output)["ledgers"][0]["epsilon"] > 0
    [path] = (site / LEDGER_FOLDER).glob("*.jsonl")
    path.write_bytes(path.read_bytes().replace(b"heart", b"hearz"))
    done = run(app, ["verify", str(site)])
    assert done.exit_code == 1
    assert "line 2" in done.output
