"""foedus run, watch, stop: studies on a coordinator's server."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from foedus.cli.coordinator import HOME, HomeOption
from foedus.cli.output import JsonOption, StageProgress, print_json, progress, say

if TYPE_CHECKING:
    from foedus.runs import RunFolder
    from server.conducting import Sight

STAGE: dict[str | None, str] = {None: "submitted", "enlist": "asked"}
"""Stages that are shown under another name here than in a simulation, where sites show their own bars."""

RunArgument = Annotated[str, typer.Argument(help="Run id or folder.")]


def run(
    study: Annotated[Path, typer.Argument(help="The study.toml.")],
    home: HomeOption = HOME,
    detach: Annotated[bool, typer.Option("--detach", help="Submit it and return.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a study with the sites that are signed in. The same file runs under foedus simulate.

    Example: foedus run study.toml --home coordinator
    """
    from fairness.policy import policy_text
    from fairness.signing import signature_text
    from foedus.study import load_study
    from server.conducting import submit
    from server.home import Home

    loaded = load_study(study)
    file = study.parent / loaded.fairness.policy if loaded.fairness else None
    policy, signature = (policy_text(file), signature_text(file)) if file else (None, None)
    submitted = submit(Home.open(home), study, policy=policy, policy_signature=signature)
    print(f"run {submitted.run_id}", file=sys.stderr)
    if detach and as_json:
        print_json({"run": str(submitted.path)})
    elif detach:
        say(f"Next: foedus watch {submitted.run_id} --home {home}")
    else:
        follow(submitted, as_json=as_json)


def watch(name: RunArgument, home: HomeOption = HOME, as_json: JsonOption = False) -> None:
    """Follow a run until it ends; the exit code is the run's.

    Example: foedus watch heart-20261121-101500-1f2e --home coordinator
    """
    from foedus.runs import find_run
    from server.home import Home

    follow(find_run(Home.open(home).runs, name), as_json=as_json)


def stop(name: RunArgument, home: HomeOption = HOME, as_json: JsonOption = False) -> None:
    """Stop a run; foedus resume goes on from its last round.

    Example: foedus stop heart-20261121-101500-1f2e --home coordinator
    """
    from foedus.runs import find_run
    from server import conducting
    from server.home import Home

    opened = Home.open(home)
    stopped = find_run(opened.runs, name)
    conducting.stop(opened, stopped)
    if as_json:
        print_json({"run": str(stopped.path), "status": stopped.state()["status"]})
        return
    say(f"stopped; foedus resume {name} --home {home} goes on from its last round")


def follow(followed: "RunFolder", *, as_json: bool) -> None:
    """Show a run until it ends.

    Raises:
        typer.Exit: With 1 if it did not finish.
    """
    from foedus.cli.studies import show
    from server import conducting

    with progress(followed.study().study.name) as shown:
        telling = _Telling(followed.study().federation.rounds, shown)
        for sight in conducting.watch(followed):
            telling(sight)
    if sight.status == "finished":
        show(followed.path, as_json=as_json)
        return
    problem = sight.problem or "no reason was recorded"
    if as_json:
        print_json({"run": str(followed.path), "status": sight.status, "problem": problem})
    else:
        say(f"[red]{sight.status}:[/] {escape(problem)}")
    raise typer.Exit(conducting.verdict(sight))


class _Telling:
    """Says on stderr what is new in each sight of a run: its stage, its rounds, who did not count and why.

    Args:
        total: Rounds planned.
        shown: Gets stages and rounds.
    """

    def __init__(self, total: int, shown: StageProgress) -> None:
        self._total = total
        self._shown = shown
        self._stage: str | None = ""
        self._rounds = self._absent = 0
        self._served = True

    def __call__(self, sight: "Sight") -> None:
        """One look."""
        if sight.stage == "rounds":
            self._tell_stage(sight)
        for line in sight.lines[self._rounds :]:
            self._shown("round", line)
            self._say_absent(f"round {line['round']}", line["rejected"])
        for found in sight.absent[self._absent :]:
            self._say_absent(found["what"], found["sites"])
        self._rounds, self._absent = len(sight.lines), max(self._absent, len(sight.absent))
        self._tell_stage(sight)
        if sight.status == "running" and self._served and not sight.served:
            print("the coordinator does not run; with foedus coordinator up the run goes on", file=sys.stderr)
        self._served = sight.served

    def _tell_stage(self, sight: "Sight") -> None:
        if sight.status == "running" and sight.stage != self._stage:
            self._stage = sight.stage
            name = STAGE.get(sight.stage) or str(sight.stage)
            self._shown(name, {"total": self._total, "done": len(sight.lines)})

    @staticmethod
    def _say_absent(what: str, sites: list[dict[str, str]]) -> None:
        for each in sites:
            print(f"  {what}: {each['site']} did not count: {each['reason']}", file=sys.stderr)
