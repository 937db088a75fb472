"""foedus tune: choose hyper-parameters over the federation."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from foedus.cli.output import JsonOption, console, number, print_json
from foedus.cli.studies import RUNS, Runs


def tune(
    study: Annotated[Path, typer.Argument(help="The study.toml; its [search] says what is tried.")],
    sites: Annotated[Path, typer.Option("--sites", help="Folder with one sub-folder a site.")],
    runs: Runs = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Choose hyper-parameters by successive halving, from validation sums alone; test records stay untouched.

    Example: foedus tune study.toml --sites sites/
    """
    from foedus import files, tuning

    plain = not sys.stderr.isatty()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=plain) as bar:
        task = bar.add_task(study.stem, total=None)

        def tell(done: int, total: int, name: str) -> None:
            bar.update(task, completed=done, total=total, description=name)
            if plain:
                print(f"{study.stem}: {done}/{total} rounds, {name}", file=sys.stderr)

        folder = tuning.tune(study, sites, runs=runs, tell=tell)
    found = files.read_json(folder / tuning.TRIALS_FILE)
    following = f"foedus simulate {folder / 'study.toml'} --sites {sites}"
    if as_json:
        print_json({"folder": str(folder), "next": following, **found})
        return
    _show(found)
    console.print(f"Next: {escape(following)}", soft_wrap=True)


def _show(found: dict[str, Any]) -> None:
    metric, keys = found["metric"], list(found["best"]["values"])
    rungs = ", then ".join(f"{rung['trials']} trials to round {rung['rounds']}" for rung in found["rungs"])
    table = Table(title=f"{found['study']}: {rungs}", title_justify="left")
    for heading in ("trial", *(key.rpartition(".")[2] if _clear(key, keys) else key for key in keys)):
        table.add_column(heading, justify="right")
    table.add_column("rounds", justify="right")
    table.add_column(f"validation {metric.replace('_', ' ')}", justify="right")
    table.add_column("seconds", justify="right")
    for row in found["trials"]:
        cells = [escape(str(row["values"][key])) for key in keys]
        score = number(row["scores"][-1] if row["scores"] else None)
        noise = "" if row["noise"] is None else f" ± {1.96 * row['noise']:.3f}"
        style = "bold" if row["trial"] == found["best"]["trial"] else ""
        table.add_row(
            str(row["trial"]),
            *cells,
            str(row["rounds"]),
            score + noise,
            number(row["seconds"], 1),
            style=style,
        )
    console.print(table)
    for line in _notes(found):
        console.print(line)


def _clear(key: str, keys: list[str]) -> bool:
    """Whether the last part of a key says which it is."""
    last = key.rpartition(".")[2]
    return sum(other.rpartition(".")[2] == last for other in keys) == 1


def _notes(found: dict[str, Any]) -> list[str]:
    notes = [
        f"[yellow]trial {row['trial']} stopped: {escape(row['problem'])}"
        for row in found["trials"]
        if row["problem"]
    ]
    notes += [
        f"[yellow]{escape(row['site'])} did not take part: {escape(row['reason'])}"
        for row in found["refused"]
    ]
    if again := found["drawn_again"]:
        values = ", ".join(f"{key} = {value}" for key, value in again[0]["values"].items())
        notes.append(escape(f"drawn again: {len(again)} that are no valid study, such as {values}"))
    if budget := found["privacy"]:
        notes.append(
            f"epsilon: {budget['search']:.3f} for the search, {budget['left']:.3f} left for the study, "
            f"{budget['together']:.3f} together of {budget['asked']:.3f}. ±: 95 % of the privacy noise."
        )
    return notes
