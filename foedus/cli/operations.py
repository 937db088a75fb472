"""What keeps a federation in service: foedus coordinator health, backup and restore; foedus site health."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from foedus.cli.approve import PASSPHRASE
from foedus.cli.coordinator import HOME, HomeOption
from foedus.cli.output import JsonOption, print_json, say


def coordinator_health(
    address: Annotated[
        str | None, typer.Option("--address", help="host:port, if up was given another with --health.")
    ] = None,
    home: HomeOption = HOME,
    as_json: JsonOption = False,
) -> None:
    """Ask a running coordinator whether it can work. Exit code 1 if it cannot, or nobody answers.

    Example: foedus coordinator health
    """
    from server.health import ask
    from server.home import Home
    from server.monitoring import default_health

    place = address or default_health(Home.open(home))
    found = ask(place)
    if as_json:
        print_json({"address": place, "status": found})
    else:
        say(f"{place}: {found}")
    if found != "SERVING":
        if not as_json:
            say(f"Why is in {home / 'logs'}, and in what foedus -v coordinator up prints.")
        raise typer.Exit(1)


def site_health(
    folder: Annotated[Path, typer.Argument(help="The folder with the site.toml.")],
    as_json: JsonOption = False,
) -> None:
    """Say whether this site's service runs, and what it last knew of the coordinator. Nothing leaves.

    Exit code 1 if it does not run; whether the coordinator lets it in is not its own doing.

    Example: foedus site health /srv/foedus/north
    """
    from clients.membership import STATUS, Membership
    from foedus import files
    from foedus.site import load_site
    from foedus.supervise import problems

    load_site(folder)
    site = Membership(folder)
    found = problems(site.node / "logs")
    status = files.read_json(site.node / STATUS) if not found and (site.node / STATUS).exists() else None
    if as_json:
        print_json({"runs": not found, "problems": found, "node": status})
    else:
        for problem in found:
            say(f"[red]{problem}[/]; logs are in {site.node / 'logs'}")
        if not found:
            state = (
                ": ".join(status[key] for key in ("state", "reason") if status[key]) if status else "starting"
            )
            say(f"the site's service runs; {escape(state)}")
    if found:
        raise typer.Exit(1)


def backup(
    file: Annotated[Path, typer.Argument(help="The new file.")],
    home: HomeOption = HOME,
) -> None:
    """Keep everything of the coordinator in one file, also while it runs, under a passphrase.

    Example: foedus coordinator backup /mnt/backup/cardiology-20261121.foedus
    """
    from server.backup import backup as write
    from server.home import Home

    count = write(Home.open(home), file, passphrase=_passphrase(confirm=True))
    say(f"{file}: {count} files. Without the passphrase it cannot be read; keep them apart.")


def restore(
    file: Annotated[Path, typer.Argument(help="As foedus coordinator backup wrote it.")],
    home: Annotated[Path, typer.Option("--home", help="A new folder for the coordinator.")],
) -> None:
    """Make a coordinator's folder from a backup. Runs that were under way go on from their last round.

    Example: foedus coordinator restore cardiology-20261121.foedus --home coordinator
    """
    from server.backup import restore as read

    read(file, home, passphrase=_passphrase(confirm=False))
    say(f"{home} is restored. The coordinator it was taken from must not run any more.")
    say(f"Next: foedus coordinator up --home {home}")


def _passphrase(*, confirm: bool) -> str:
    from foedus.errors import RunError

    found = os.environ.get(PASSPHRASE)
    if found is None and not sys.stdin.isatty():
        raise RunError(f"a backup needs a passphrase; set {PASSPHRASE} or use a terminal.")
    return found or str(typer.prompt("passphrase", hide_input=True, confirmation_prompt=confirm, err=True))
