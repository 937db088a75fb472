"""foedus backbones: which pre-trained extractors are at hand."""

from dataclasses import asdict

import typer
from rich.table import Table

from foedus.cli.output import JsonOption, console, print_json

app = typer.Typer(help="Pre-trained backbones: what is on this machine.", no_args_is_help=True)


@app.callback()
def backbones() -> None:
    """Pre-trained backbones: what is on this machine."""


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
    table = Table("source", "kind", "features", "size", "licence", "here", "note")
    for entry in found:
        size = "–" if entry.size_bytes is None else f"{entry.size_bytes / 2**20:.0f} MiB"
        here = "[green]yes" if entry.installed else "[yellow]no"
        table.add_row(
            entry.name, entry.modality, str(entry.dim or "–"), size, entry.licence, here, entry.note
        )
    console.print(table)
