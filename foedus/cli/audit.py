"""foedus audit: run the fairness audit again, or show one."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from foedus.cli.output import JsonOption, console, number, print_json, verdict_lines
from foedus.cli.studies import RUNS, Runs

app = typer.Typer(help="The fairness audit of a run.", no_args_is_help=True)


@app.command("run")
def run_again(
    run: Annotated[str, typer.Argument(help="Run id or folder.")],
    policy: Annotated[
        Path | None, typer.Option("--policy", help="The auditor's policy.toml; the run's own when not given.")
    ] = None,
    runs: Runs = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Audit a run's model on its sites' test data. Exit code 0: pass; 1: fail or inconclusive.

    Example: foedus audit run heart-20261121-101500-1f2e --policy policy.toml
    """
    from foedus import simulation
    from foedus.runs import find_run

    report = simulation.audit_again(find_run(runs, run), policy=policy)
    _show(report.to_dict(), as_json=as_json)
    if report.verdict != "pass":
        raise typer.Exit(1)


@app.command("show")
def show(
    run: Annotated[str, typer.Argument(help="Run id or folder.")],
    runs: Runs = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Show the audit of a run.

    Example: foedus audit show heart-20261121-101500-1f2e
    """
    from foedus import files
    from foedus.runs import AUDIT_FILE, find_run

    _show(files.read_json(find_run(runs, run).path / AUDIT_FILE), as_json=as_json)


def _show(audit: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(audit)
        return
    for line in verdict_lines(audit):
        console.print(line)
    for attribute in audit["attributes"]:
        _show_attribute(attribute)


def _show_attribute(attribute: dict[str, Any]) -> None:
    shown = ("selection_rate", "tpr", "fpr", "accuracy", "auc")
    title = escape(attribute["attribute"])
    table = Table(title=title, title_justify="left")
    table.add_column("group", no_wrap=True)
    for name in ("n", "positives", *shown):
        table.add_column(name)
    for group in attribute["groups"]:
        name = escape(group["group"])
        if group["suppressed"]:
            table.add_row(f"{name} (suppressed)")
            continue
        cells = (number(group["rates"][metric]["value"]) for metric in shown)
        table.add_row(name, str(group["n"]), str(group["positives"]), *cells)
    console.print(table)
