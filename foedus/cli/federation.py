"""foedus run, watch, stop: studies on a coordinator's server."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from foedus.cli.coordinator import HOME, HomeOption
from foedus.cli.output import JsonOption, console, number, progress

if TYPE_CHECKING:
    from foedus.runs import RunFolder

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
    if detach:
        console.print(f"Next: foedus watch {submitted.run_id} --home {home}")
        return
    follow(submitted, as_json=as_json)


def watch(name: RunArgument, home: HomeOption = HOME, as_json: JsonOption = False) -> None:
    """Follow a run until it ends; the exit code is the run's.

    Example: foedus watch heart-20261121-101500-1f2e
    """
    from foedus.runs import find_run
    from server.home import Home

    follow(find_run(Home.open(home).runs, name), as_json=as_json)


def stop(name: RunArgument, home: HomeOption = HOME) -> None:
    """Stop a run; foedus resume goes on from its last round.

    Example: foedus stop heart-20261121-101500-1f2e
    """
    from foedus.runs import find_run
    from server import conducting
    from server.home import Home

    opened = Home.open(home)
    conducting.stop(opened, find_run(opened.runs, name))
    console.print(f"stopped; foedus resume {name} --home {home} goes on from its last round")


def follow(followed: "RunFolder", *, as_json: bool) -> None:
    """Show a run until it ends.

    Raises:
        typer.Exit: With 1 if it did not finish.
    """
    from foedus.cli.studies import show
    from server import conducting

    total = followed.study().federation.rounds
    sight = None
    with progress(followed.study().study.name) as shown:
        shown("rounds", {"total": total, "done": 0})
        seen = 0
        for sight in conducting.watch(followed):
            for line in sight.lines[seen:]:
                shown("round", line)
                if not sys.stderr.isatty():
                    loss = number(line["validation_loss"])
                    print(
                        f"round {line['round']}/{total}: {line['answered']} sites, loss {loss}",
                        file=sys.stderr,
                    )
                for refused in line["rejected"]:
                    print(f"  {refused['site']} did not count: {refused['reason']}", file=sys.stderr)
            seen = len(sight.lines)
    if sight is not None and sight.status != "finished":
        console.print(f"[red]{sight.status}:[/] {escape(sight.problem or 'no reason was recorded')}")
        raise typer.Exit(conducting.verdict(sight))
    show(followed.path, as_json=as_json)
