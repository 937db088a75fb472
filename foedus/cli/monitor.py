"""foedus monitor: compare what a service sees with what was audited."""

from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from foedus.cli.output import JsonOption, console, print_json
from foedus.cli.release import Trust, public_keys

if TYPE_CHECKING:
    from deploy.bundle import Bundle
    from deploy.monitor import Watched


def monitor(
    bundle: Annotated[Path, typer.Argument(help="What is served: a bundle, or a folder of releases.")],
    journal: Annotated[
        Path, typer.Option("--journal", help="The folder of foedus serve --journal; its gate is closed.")
    ],
    trust: Trust = None,
    day: Annotated[
        datetime | None,
        typer.Option("--day", formats=["%Y-%m-%d"], help="The window (UTC); everything when not given."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="CSV with id, label and the policy's attributes.")
    ] = None,
    sites: Annotated[
        Path | None, typer.Option("--sites", help="Pool what these sites noted (a folder of site folders).")
    ] = None,
    home: Annotated[
        Path | None,
        typer.Option("--home", help="Pool what the sites noted that are signed in at this coordinator."),
    ] = None,
    follow: Annotated[
        Path | None,
        typer.Option("--follow", help="Close the gate as this gate.json of another monitor says."),
    ] = None,
    reopen: Annotated[bool, typer.Option("--reopen", help="Open the gate again; needs --reason.")] = False,
    reason: Annotated[str | None, typer.Option("--reason", help="Kept beside the gate.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare a window of live traffic with the audit. Exit code 1 on a breach, which closes the service's gate.

    With --sites or --home: the sum of what all serving sites noted, through the door and under the study's masks.

    Example: foedus monitor releases/heart --journal journal --trust keys --day 2026-11-21 --labels labels.csv

    Example: foedus monitor releases/heart --journal journal --trust keys --home coordinator
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
    if follow is not None:
        print_json(monitoring.follow(journal, found.name, follow))
        return
    window = day.date() if day else None
    if sites is None and home is None:
        watched = monitoring.monitor(found, journal, day=window, labels=labels)
    elif labels is not None or (sites is not None and home is not None):
        raise ConfigError(
            "foedus monitor",
            ["give one of --labels, --sites and --home; pooled labels are those each site.toml names"],
        )
    else:
        watched = _pooled(found, journal, window, sites=sites, home=home)
    if as_json:
        print_json(watched.to_dict())
    else:
        _show(watched)
    if watched.breaches:
        raise typer.Exit(1)


def _pooled(
    bundle: "Bundle", journal: Path, window: date | None, *, sites: Path | None, home: Path | None
) -> "Watched":
    from foedus import pooling
    from server.home import Home

    if sites is not None:
        return pooling.monitor_sites(bundle, sites, journal, day=window)
    return pooling.monitor_federation(bundle, Home.open(home or Path()), journal, day=window)


def _show(watched: "Watched") -> None:
    console.print(
        f"{watched.model} version {watched.version}, window {watched.window}: {_of(watched)}{watched.n} records, "
        f"{watched.n_labelled} labels, {len(watched.findings)} figures compared",
        markup=False,
    )
    for note in watched.notes:
        console.print(f"  {note}", markup=False)
    for finding in watched.breaches:
        console.print(f"[red]  {escape(finding.reason)}", soft_wrap=True)
    if watched.groups:
        console.print(_groups_table(watched))
    if not watched.findings:
        console.print("nothing was compared")
        return
    console.print(f"gate: {watched.action}" if watched.breaches else "[green]nothing beyond chance")


def _of(watched: "Watched") -> str:
    return "" if watched.sites is None else f"{watched.sites} sites, "


def _groups_table(watched: "Watched") -> Table:
    table = Table(title="by group", title_justify="left")
    for name in ("attribute", "group", "metric", "n", "value", "interval"):
        table.add_column(name)
    for line in watched.groups:
        shown = ["–" if line[key] is None else f"{line[key]:.3f}" for key in ("value", "low", "high")]
        names = (escape(str(line[key])) for key in ("attribute", "group", "metric", "n"))
        table.add_row(*names, shown[0], f"{shown[1]} to {shown[2]}")
    return table
