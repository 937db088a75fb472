"""foedus fewshot: adapt a federated model at a site from a handful of labelled examples."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from foedus.cli.output import JsonOption, console, number, print_json
from foedus.cli.studies import RUNS, Runs

app = typer.Typer(help="Adapt a federated model from a handful of labelled examples.", no_args_is_help=True)
Method = Annotated[Literal["prototypical", "ridge"], typer.Option("--method", help="Kind of head.")]
SiteFolder = Annotated[
    Path, typer.Option("--site", help="Folder with a site.toml and the labelled examples.")
]
Classes = Annotated[
    str | None,
    typer.Option(
        "--classes", help="Names of the classes there, comma-separated; the study's when not given."
    ),
]


@app.command("evaluate")
def evaluate(
    run: Annotated[str, typer.Argument(help="A finished run that had a few-shot stage.")],
    site: SiteFolder,
    method: Method = "ridge",
    n_way: Annotated[int, typer.Option("--n-way", min=2)] = 5,
    n_shot: Annotated[int, typer.Option("--n-shot", min=1)] = 5,
    n_query: Annotated[int, typer.Option("--n-query", min=1)] = 15,
    episodes: Annotated[int, typer.Option("--episodes", min=2)] = 600,
    classes: Classes = None,
    runs: Runs = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Accuracy over random episodes at a site, with its 95 % interval. Nothing leaves this machine.

    Example: foedus fewshot evaluate cheques-20261121-101500-1f2e --site sites/newbank --n-shot 1
    """
    from foedus import adaptation
    from foedus.runs import find_run

    found = adaptation.evaluate(
        find_run(runs, run),
        site,
        classes=_split(classes),
        method=method,
        n_way=n_way,
        n_shot=n_shot,
        n_query=n_query,
        episodes=episodes,
    )
    if as_json:
        print_json(asdict(found))
        return
    interval = f"{number(found.accuracy)} ± {found.ci95:.3f}"
    console.print(
        f"{method}, {n_way}-way {n_shot}-shot over {found.episodes} episodes: {interval}, ECE {number(found.ece)}"
    )


@app.command("fit")
def fit(
    run: Annotated[str, typer.Argument(help="A finished run that had a few-shot stage.")],
    site: SiteFolder,
    out: Annotated[Path, typer.Option("--out", help="The adapted head is written here (safetensors).")],
    method: Method = "ridge",
    classes: Classes = None,
    runs: Runs = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Fit a head on all labelled examples at a site and save it.

    Example: foedus fewshot fit cheques-20261121-101500-1f2e --site sites/newbank --out head.safetensors
    """
    from foedus import adaptation
    from foedus.runs import find_run

    found = adaptation.fit(find_run(runs, run), site, classes=_split(classes), method=method, out=out)
    if as_json:
        print_json(found)
        return
    counts = ", ".join(f"{name} {n}" for name, n in found["examples"].items())
    console.print(escape(f"{method} head on {counts} written to {out}"))
    console.print("It has not been audited; do not deploy it before foedus audit run has passed on it.")


def _split(classes: str | None) -> list[str] | None:
    return None if classes is None else [name.strip() for name in classes.split(",")]
