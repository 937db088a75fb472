"""foedus site: what a site's administrator does."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from foedus.cli.output import JsonOption, console, print_json

app = typer.Typer(help="A site: check its data before it takes part.", no_args_is_help=True)
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@app.callback()
def site() -> None:
    """A site: check its data before it takes part."""


@app.command("check")
def check(
    folder: Annotated[Path, typer.Argument(help="The folder with the site.toml.")],
    study: Annotated[Path | None, typer.Option("--study", help="Check against this study, too.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a site's data hold, what is wrong and how to fix it. Nothing leaves this machine.

    Example: foedus site check sites/cleveland --study study.toml
    """
    from foedus.data import check_site
    from foedus.study import load_study

    report = check_site(folder, load_study(study) if study else None)
    if as_json:
        print_json(report.to_dict())
    else:
        table = Table("", "check", "found", "how to fix", title=escape(str(folder)), title_justify="left")
        for row in report.rows:
            cells = (escape(text) for text in (row.check, row.found, row.how_to_fix))  # [data] is no markup
            table.add_row(f"[{COLOURS[row.status]}]{row.status}[/]", *cells)
        console.print(table)
    if not report.ok:
        raise typer.Exit(1)
