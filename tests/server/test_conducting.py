"""Runs on a coordinator's server, as they are submitted, stopped, resumed and watched; the server is played."""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import typer

from clients.membership import Membership
from foedus import files
from foedus.cli.federation import follow
from foedus.errors import ConfigError, RunError
from foedus.runs import RunFolder
from foedus.supervise import NOTE
from server import conducting
from server.control import key_bytes
from server.home import Home


class Server:
    """Knows what it was told; refuses where `down`."""

    statuses: dict[int, str] = {}
    down = False

    def __init__(self, home: Home) -> None:
        pass

    def start(self, folder: Path, *, version: str) -> int:
        state = RunFolder(folder).state()
        assert state["number"] is None or state["attempts"], "look_after would start it a second time"
        if self.down:
            raise RunError("the coordinator's server does not answer")
        number = len(self.statuses) + 1
        self.statuses[number] = "running"
        return number

    def runs(self) -> dict[int, tuple[str, str]]:
        return {number: (status, "") for number, status in self.statuses.items()}

    def stop(self, number: int) -> None:
        self.statuses[number] = "finished:stopped"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setattr(conducting, "Control", Server)
    monkeypatch.setattr(Server, "statuses", {})
    return Home.create(tmp_path / "home", name="care", host="localhost", port=9443, control_port=9444)


@pytest.fixture
def run(home: Home, toy: Path) -> RunFolder:
    return RunFolder.create(home.runs, toy / "study.toml", policy=None, engine=conducting.ENGINE, sites="")


def test_a_run_is_stopped_once_and_resumed_once(home: Home, run: RunFolder) -> None:
    run.set_state("failed")
    conducting.resume(home, run)
    conducting.look_after(home)
    assert Server.statuses == {1: "running"}
    with pytest.raises(RunError, match="is still running"):
        conducting.resume(home, run)
    conducting.stop(home, run)
    assert Server.statuses == {1: "finished:stopped"}
    with pytest.raises(RunError, match="is not running: it is stopped"):
        conducting.stop(home, run)
    conducting.look_after(home)
    assert len(Server.statuses) == 1


def test_a_run_whose_process_was_killed_is_submitted_again_at_once_and_five_times(
    home: Home, run: RunFolder
) -> None:
    conducting.resume(home, run)
    run.set_state("running", pid=os.getpid())
    conducting.look_after(home)
    assert Server.statuses == {1: "running"}
    gone = subprocess.Popen(["true"])
    gone.wait()
    for attempt in range(1, 6):
        run.set_state("running", pid=gone.pid)
        conducting.look_after(home)
        assert Server.statuses == {
            **dict.fromkeys(range(1, attempt + 1), "finished:stopped"),
            attempt + 1: "running",
        }
        assert run.state()["attempts"] == attempt
        conducting.look_after(home)
        assert len(Server.statuses) == attempt + 1
    run.set_state("running", pid=gone.pid)
    conducting.look_after(home)
    assert set(Server.statuses.values()) == {"finished:stopped"}
    assert run.state()["status"] == "failed"
    assert run.state()["problem"] == "its process was killed 5 times; foedus resume tries again"


def test_a_run_that_wrote_its_end_before_its_process_was_gone_is_left(home: Home, run: RunFolder) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    conducting.resume(home, run)
    run.set_state("finished", pid=gone.pid)
    conducting.look_after(home)
    assert Server.statuses == {1: "running"}
    assert run.state()["status"] == "finished"


def test_a_study_that_would_find_too_few_sites_names_those_that_are_away(
    home: Home, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(min_sites: int, mode: str) -> str:
        text = (toy / "study.toml").read_text()
        text = text.replace("min_sites = 2", f"min_sites = {min_sites}").replace('"open"', f'"{mode}"')
        (toy / "tried.toml").write_text(text)
        with pytest.raises(ConfigError) as error:
            conducting.submit(home, toy / "tried.toml", policy=None)
        assert not home.runs.exists()
        return error.value.problems[0]

    requests = [Membership(toy / "sites" / name).request() for name in ("east", "north", "south", "west")]
    for request in requests[:2]:
        home.approve(request)
    keys = {key_bytes(request.node): (1, "online") for request in requests[:2]}
    monkeypatch.setattr(Server, "nodes", lambda self: keys, raising=False)
    assert refused(3, "open") == "2 sites are signed in, federation.min_sites is 3; approve more"
    assert refused(2, "secure-only") == "secure-only sums need 3 sites, and 2 are approved; approve more"
    for request in requests[2:]:
        home.approve(request)
    assert refused(2, "secure-only") == (
        "2 sites are signed in, and masked sums of 4 need 3; not signed in: south, west"
    )


def test_a_run_that_could_not_be_submitted_has_failed_and_says_so_to_a_machine(
    home: Home, run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run.set_state("stopped")
    monkeypatch.setattr(Server, "down", True)
    with pytest.raises(RunError, match="does not answer"):
        conducting.resume(home, run)
    with pytest.raises(typer.Exit) as ended:
        follow(run, as_json=True)
    assert ended.value.exit_code == 1
    assert json.loads(capsys.readouterr().out) == {
        "run": str(run.path),
        "status": "failed",
        "problem": "it could not be submitted: the coordinator's server does not answer",
    }


def test_who_watches_sees_stages_rounds_and_every_site_that_did_not_count(
    home: Home, run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line: dict[str, Any] = {"validation_loss": 0.5, "validation_accuracy": 0.8, "asked": 3, "answered": 2}
    line |= {"round": 1, "bytes_up": 1, "bytes_down": 2, "seconds": 0.1}
    line["rejected"] = [{"site": "east", "reason": "no answer within 5 s"}]
    run.set_state("running", number=1)
    run.note_stage("enlist", {})
    run.note_absent("enlisting", {"west": "it is approved and not signed in"})
    steps = [
        lambda: files.write_json(home.folder / "logs" / NOTE, {"time": time.time(), "pids": {}}),
        lambda: run.note_stage("rounds", {}),
        lambda: run.checkpoint(1, {}, lines=[line]),
        lambda: run.set_state("failed", problem="round 2: too few"),
    ]
    monkeypatch.setattr(conducting.time, "sleep", lambda seconds: steps.pop(0)())
    with pytest.raises(typer.Exit):
        follow(run, as_json=False)
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        "  enlisting: west did not count: it is approved and not signed in",
        "toy: asking sites",
        "the coordinator does not run; with foedus coordinator up the run goes on",
        "toy: rounds",
        "toy: round 1: 2/3 sites, validation loss 0.500, accuracy 0.800, 3 bytes, 0.10 s",
        "  round 1: east did not count: no answer within 5 s",
    ]
    assert said.out == "failed: round 2: too few\n"
