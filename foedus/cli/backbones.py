"""foedus backbones: which pre-trained extractors are at hand, and which suits a study."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from foedus.cli.output import JsonOption, console, number, print_json

if TYPE_CHECKING:
    from foedus.ranking import Row

app = typer.Typer(
    help="Pre-trained backbones: what is on this machine, and what suits a study.", no_args_is_help=True
)
LEGEND = (
    "±: 95 % of chance in the validation examples. apart: root mean square distance of a site's mean feature "
    "from all sites' mean, in deviations. No reference says how far the data are from what a backbone was "
    "trained on."
)


@app.callback()
def backbones() -> None:
    """Pre-trained backbones: what is on this machine, and what suits a study."""


@app.command("list")
def list_all(as_json: JsonOption = False) -> None:
    """List backbones by the name a study uses, and whether they are on this machine.

    Example: foedus backbones list
    """
    from foedus.backbones import list_backbones

    found = list_backbones()
    if as_json:
        print_json([asdict(entry) for entry in found])
        return
    table = Table()
    table.add_column("source", no_wrap=True)  # it is copied into a study
    for name in ("kind", "features", "here", "note"):
        table.add_column(name)
    for entry in found:
        here = "[green]yes" if entry.installed else "[yellow]no"
        size = [] if entry.size_bytes is None else [f"{entry.size_bytes / 2**20:.0f} MiB"]
        note = "; ".join([entry.note, *size, f"licence: {entry.licence}"])
        table.add_row(entry.name, entry.modality, str(entry.dim or "–"), here, note)
    console.print(table)


@app.command()
def rank(
    study: Annotated[Path, typer.Argument(help="The study.toml.")],
    sites: Annotated[Path, typer.Option("--sites", help="Folder with one sub-folder a site.")],
    candidate: Annotated[
        list[str] | None, typer.Option("--candidate", help="One more, as SOURCE or SOURCE@TAP; repeat it.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Rank backbones on the sites' own data, from sums alone, before anything is trained.

    Example: foedus backbones rank study.toml --sites sites/ --candidate bundled:efficientnet-lite0@blocks.3@2x2
    """
    from foedus import ranking

    plain = not sys.stderr.isatty()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=plain) as bar:
        task = bar.add_task(study.stem, total=None)

        def tell(done: int, total: int, name: str) -> None:
            bar.update(task, completed=done, total=total, description=name)
            if plain:
                print(f"{study.stem}: {done + 1}/{total} {name}", file=sys.stderr)

        rows = ranking.rank(study, sites, candidates=candidate or [], tell=tell)
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    _show(rows)


def _show(rows: "Sequence[Row]") -> None:
    table = Table(title="backbones by validation accuracy of the one-round ridge head", title_justify="left")
    table.add_column("backbone", overflow="fold", min_width=14)
    for heading in ("features", "accuracy", "LogME", "H-score", "apart", "s/1000", "MiB", "KiB/round"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(_label(row) + (" (yours)" if row.own else ""), *_cells(row))
    console.print(table)
    for row in rows:
        for note in row.notes if row.problem is None else [row.problem]:
            console.print(f"[yellow]{_label(row)}[/]: {escape(note)}")
    console.print(LEGEND)


def _label(row: "Row") -> str:
    return row.source if row.tap is None else f"{row.source} {row.tap}"


def _cells(row: "Row") -> list[str]:
    if row.problem is not None or row.shift is None:
        return ["–"] * 8
    error = "" if row.accuracy_error is None else f" ± {1.96 * row.accuracy_error:.3f}"
    round_bytes = (row.round_bytes_down or 0) + (row.round_bytes_up or 0)
    return [
        str(row.dim),
        number(row.accuracy) + error,
        number(row.logme),
        number(row.h_score, 2),
        number(row.shift["squared"] ** 0.5, 2),
        number(row.seconds_per_1000, 1),
        number((row.size_bytes or 0) / 2**20, 1),
        number(round_bytes / 2**10, 0),
    ]
