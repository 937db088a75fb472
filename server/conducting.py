"""Runs on a coordinator's server: submitted, followed, submitted again when their process was killed."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx

from foedus import __version__, files
from foedus.backbones import describe
from foedus.errors import ConfigError, RunError
from foedus.runs import ABSENT, RunFolder, list_runs
from foedus.secure.roster import MIN_SITES
from foedus.study import Study, load_study
from foedus.supervise import exists, lives
from foedus.traffic import ASKED_FILE, Asked
from server.control import Control, key_bytes
from server.home import Home

ENGINE = "superlink"
ATTEMPTS = 5
"""Times a run is submitted again after its process was killed, before it counts as failed."""
LOOK_S = 1.0
DONE = ("finished", "failed", "stopped")
STOPPED = "stopped by the coordinator; foedus resume goes on from its last round"


@dataclass(frozen=True)
class Sight:
    """What can be seen of a run at one moment.

    Attributes:
        status: As in run.json.
        problem: Why it failed.
        stage: What it has come to; None before it began.
        lines: One dictionary a finished round.
        absent: One dictionary for each exchange but the rounds' in which sites did not count.
        served: Whether the coordinator's service runs; without it nothing goes on.
    """

    status: str
    problem: str | None
    stage: str | None
    lines: list[dict[str, Any]]
    absent: list[dict[str, Any]]
    served: bool


def submit(
    home: Home,
    study_file: Path,
    *,
    policy: str | None,
    policy_signature: str | None = None,
    traffic: Asked | None = None,
) -> RunFolder:
    """Start a study on the coordinator's server; with `traffic`, only ask what went through its model.

    Raises:
        ConfigError: If the study is not valid, or fewer sites are signed in than it needs.
        RunError: If the server does not answer.
    """
    study = load_study(study_file)
    describe(study.backbone, study.table)
    control = Control(home)
    if problem := _too_few(home, control, study):
        raise ConfigError(str(study_file), [problem])
    run = RunFolder.create(
        home.runs.resolve(),
        study_file,
        policy=policy,
        policy_signature=policy_signature,
        engine=ENGINE,
        sites="",
    )
    if traffic is not None:
        files.write_bytes(run.path / ASKED_FILE, traffic.model_dump_json().encode())
    _submit(control, run)
    return run


def _too_few(home: Home, control: Control, study: Study) -> str | None:
    """Why the study would find too few sites; None if it would not."""
    approved, roster = home.approved(), home.roster()
    if study.door.masked and roster is None:
        return (
            f"{study.door.mode} sums need {MIN_SITES} sites, and {len(approved)} are approved; approve more"
        )
    nodes = control.nodes()
    away = [n for n, found in approved.items() if nodes.get(key_bytes(found.node), (0, ""))[1] != "online"]
    present, hint = len(approved) - len(away), f"not signed in: {', '.join(away)}" if away else "approve more"
    if present < study.federation.min_sites:
        return f"{present} sites are signed in, federation.min_sites is {study.federation.min_sites}; {hint}"
    if study.door.masked and roster is not None and present < roster.threshold:
        return (
            f"{present} sites are signed in, and masked sums of {len(roster)} need {roster.threshold}; {hint}"
        )
    return None


def resume(home: Home, run: RunFolder) -> None:
    """Go on with a run whose process ended, from its last round.

    Raises:
        RunError: If it is finished or still running.
    """
    state, control = run.state(), Control(home)
    if state["status"] == "finished":
        raise RunError(f"run '{run.run_id}' is finished; there is nothing to resume.")
    if not _ended(control, state):
        raise RunError(f"run '{run.run_id}' is still running; see it with foedus watch.")
    _submit(control, run)


def stop(home: Home, run: RunFolder) -> None:
    """End a run; it can be resumed.

    Raises:
        RunError: If it is not running.
    """
    state, control = run.state(), Control(home)
    if state["status"] in DONE:
        raise RunError(f"run '{run.run_id}' is not running: it is {state['status']}.")
    run.set_state("stopped", problem=STOPPED)
    if not _ended(control, state):
        control.stop(int(state["number"]))
    run.set_state("stopped", problem=STOPPED)  # its process may have written in between


def look_after(home: Home) -> None:
    """Submit every run again whose process was killed; after several times it has failed.

    Raises:
        RunError: If the server does not answer.
    """
    running = [run for run in list_runs(home.runs) if _is_ours(run)]
    if not running:
        return
    control = Control(home)
    for run in running:
        state = run.state()
        killed = _killed(state)
        if not killed and not _ended(control, state):
            continue
        state = run.state()  # it may have written its end in between
        if state["status"] != "running":
            continue
        if killed and not _ended(control, state):
            control.stop(int(state["number"]))  # by itself Flower finds out when the run's lease is over
        if state.get("attempts", 0) >= ATTEMPTS:
            problem = f"its process was killed {ATTEMPTS} times; foedus resume tries again"
            run.set_state("failed", problem=problem)
            continue
        _start(control, run, attempts=state.get("attempts", 0) + 1)
        run.log("submitted again", attempt=run.state()["attempts"])


def watch(run: RunFolder) -> Iterator[Sight]:
    """The run as it goes, whenever something changed, until it has ended."""
    before: Sight | None = None
    while True:
        state = run.state()
        sight = Sight(
            status=str(state["status"]),
            problem=state.get("problem"),
            stage=state.get("stage"),
            lines=run.rounds(),
            absent=_absent(run),
            served=lives(run.path.parent.parent / "logs"),
        )
        if sight != before:
            yield sight
            before = sight
        if sight.status in DONE:
            return
        time.sleep(LOOK_S)


def verdict(sight: Sight) -> Literal[0, 1]:
    """Exit code of a run that ended."""
    return 0 if sight.status == "finished" else 1


def _start(control: Control, run: RunFolder, *, attempts: int) -> None:
    run.set_state("running", attempts=attempts, problem=None, stage=None, pid=None)
    run.set_state("running", number=control.start(run.path, version=__version__))


def _submit(control: Control, run: RunFolder) -> None:
    """As a user asks; until the server has it, it has no number, so that `look_after` leaves it alone."""
    run.set_state("running", number=None)
    try:
        _start(control, run, attempts=0)
    except RunError as error:
        run.set_state("failed", problem=f"it could not be submitted: {error}")
        raise


def _absent(run: RunFolder) -> list[dict[str, Any]]:
    try:
        return run.events(ABSENT)
    except RunError:  # a line is being written; it is whole at the next look
        return []


def _is_ours(run: RunFolder) -> bool:
    state = run.state()
    return state.get("engine") == ENGINE and state["status"] == "running" and state.get("number") is not None


def _killed(state: dict[str, Any]) -> bool:
    """Whether the run had a process, which is no more."""
    return state.get("pid") is not None and not exists(int(state["pid"]))


def _ended(control: Control, state: dict[str, Any]) -> bool:
    """Whether Flower knows the run's process to be gone."""
    try:
        status, _ = control.runs().get(int(state.get("number") or 0), ("finished:unknown", ""))
    except httpx.HTTPError:
        return False
    return status.startswith("finished")
