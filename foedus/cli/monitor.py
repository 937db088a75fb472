"""foedus monitor: compare what a service sees with what was audited."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from foedus.cli.output import JsonOption, console, print_json
from foedus.cli.release import Trust, public_keys

if TYPE_CHECKING:
    from deploy.monitor import Watched


def monitor(
    bundle: Annotated[Path, typer.Argument(help="What is served: a bundle, or a folder of releases.")],
    journal: Annotated[Path, typer.Option("--journal", help="The folder of foedus serve --journal.")],
    trust: Trust = None,
    day: Annotated[
        datetime | None,
        typer.Option("--day", formats=["%Y-%m-%d"], help="The window (UTC); everything when not given."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="CSV with id, label and the policy's attributes.")
    ] = None,
    reopen: Annotated[bool, typer.Option("--reopen", help="Open the gate again; needs --reason.")] = False,
    reason: Annotated[str | None, typer.Option("--reason", help="Kept beside the gate.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare a window of live traffic with the audit. Exit code 1 on a breach, which closes the service's gate.

    Example: foedus monitor releases/heart --journal journal --trust keys --day 2026-11-21 --labels labels.csv
    """
    from deploy import monitor as monitoring
    from deploy.bundle import open_bundle
    from deploy.releases import find_current
    from foedus.errors import ConfigError

    keys = public_keys(trust)
    found = open_bundle(find_current(bundle, keys), keys)
    if reopen:
        if not reason:
            raise ConfigError("foedus monitor", ["say why with --reason; it is kept beside the gate"])
        print_json(monitoring.reopen(journal, found.name, reason=reason))
        return
    watched = monitoring.monitor(found, journal, day=day.date() if day else None, labels=labels)
    if as_json:
        print_json(watched.to_dict())
    else:
        _show(watched)
    if watched.breaches:
        raise typer.Exit(1)


def _show(watched: "Watched") -> None:
    console.print(
        f"{watched.model} version {watched.version}, window {watched.window}: {watched.n} records, "
        f"{watched.n_labelled} labels, {len(watched.findings)} figures compared",
        markup=False,
    )
    for note in watched.notes:
        console.print(f"  {note}", markup=False)
    for finding in watched.breaches:
        console.print(f"[red]  {escape(finding.reason)}", soft_wrap=True)
    if watched.groups:
        console.print(_groups_table(watched))
    console.print(f"gate: {watched.action}" if watched.breaches else "[green]nothing beyond chance")


def _groups_table(watched: "Watched") -> Table:
    table = Table(title="by group", title_justify="left")
    for name in ("attribute", "group", "metric", "n", "value", "interval"):
        table.add_column(name)
    for line in watched.groups:
        shown = ["–" if line[key] is None else f"{line[key]:.3f}" for key in ("value", "low", "high")]
        names = (escape(str(line[key])) for key in ("attribute", "group", "metric", "n"))
        table.add_row(*names, shown[0], f"{shown[1]} to {shown[2]}")
    return table
