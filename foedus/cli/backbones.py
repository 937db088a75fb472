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
