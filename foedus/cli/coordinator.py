"""foedus coordinator: set up a federation, let sites in, keep its server running."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from foedus.cli.output import JsonOption, console, print_json, say

if TYPE_CHECKING:
    from foedus.enrolment import Request
    from server.home import Home

app = typer.Typer(help="The coordinator: set up a federation and let sites in.", no_args_is_help=True)
HomeOption = Annotated[Path, typer.Option("--home", help="The coordinator's folder.")]
HOME = Path("coordinator")
BESIDE = "on this machine, after the control port"


@app.callback()
def coordinator() -> None:
    """The coordinator: set up a federation and let sites in."""


@app.command("init")
def init(
    host: Annotated[str, typer.Option("--host", help="Name or address that sites reach this machine by.")],
    name: Annotated[str, typer.Option("--name", help="Name of the federation.")] = "federation",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port that sites connect to.")] = 9443,
    control_port: Annotated[
        int, typer.Option("--control-port", min=1, max=65535, help="Private port, on this machine only.")
    ] = 9444,
    home: HomeOption = HOME,
) -> None:
    """Make the authority, the server's certificate and a token for each role.

    Example: foedus coordinator init --host federation.example.org --name cardiology
    """
    from server.home import Home

    Home.create(home, name=name, host=host, port=port, control_port=control_port)
    say(f"{home} is ready. Its tokens and keys are for this machine only.")
    say(f"Next: foedus coordinator up --home {home}, and keep it running")
    say(f"Then, with the sites' requests: foedus coordinator approve NAME.request.json ... --home {home}")


@app.command("approve")
def approve(
    requests: Annotated[list[Path], typer.Argument(help="The sites' NAME.request.json files.")],
    replace: Annotated[bool, typer.Option("--replace", help="A site made new keys.")] = False,
    home: HomeOption = HOME,
    as_json: JsonOption = False,
) -> None:
    """Let sites join. Compare each fingerprint with the site's administrator first.

    Example: foedus coordinator approve north.request.json south.request.json east.request.json
    """
    from server.home import Home

    opened = Home.open(home)
    read = [_read_request(path) for path in requests]
    before = _kits(opened)
    for request in read:
        opened.approve(request, replace=replace)
        if not as_json:
            say(f"approved {request.site}: {request.fingerprint()}")
            _print_versions(request)
    _show_kits(opened, before, as_json=as_json)


@app.command("revoke")
def revoke(
    site: Annotated[str, typer.Argument(help="Name of the site.")],
    home: HomeOption = HOME,
    as_json: JsonOption = False,
) -> None:
    """Shut a site out. The others join again with their new kits, whose roster is without it.

    Example: foedus coordinator revoke north
    """
    from server.home import Home

    opened = Home.open(home)
    before = _kits(opened)
    opened.revoke(site)
    if not as_json:
        say(f"{site} can no longer sign in; a running server shuts it out within seconds.")
    if as_json or opened.approved():
        _show_kits(opened, before, as_json=as_json)


@app.command("roster")
def roster(home: HomeOption = HOME, as_json: JsonOption = False) -> None:
    """Show the approved sites, and which are signed in.

    Example: foedus coordinator roster
    """
    from foedus.errors import RunError
    from server.control import Control, key_bytes
    from server.home import Home

    opened = Home.open(home)
    try:
        nodes = Control(opened, role="auditor").nodes()
    except RunError as error:
        nodes = {}
        print(f"who is signed in is not known: {error}", file=sys.stderr)
    rows = [
        {
            "site": name,
            "fingerprint": request.fingerprint(),
            "status": nodes.get(key_bytes(request.node), (0, "unknown"))[1],
            "foedus": request.foedus,
            "flwr": request.flwr,
        }
        for name, request in opened.approved().items()
    ]
    if as_json:
        print_json(rows)
        return
    if not rows:
        say("no site is approved yet; foedus coordinator approve NAME.request.json")
        return
    table = Table("site", "status", Column("fingerprint", overflow="fold"), "foedus", "flwr")
    for row in rows:
        table.add_row(row["site"], row["status"], row["fingerprint"], row["foedus"], row["flwr"])
    console.print(table)


@app.command("up")
def up(
    listen: Annotated[str, typer.Option("--listen", help="Address of the public side.")] = "0.0.0.0",  # noqa: S104
    metrics: Annotated[
        str | None, typer.Option("--metrics", help="HOST:PORT for Prometheus, or off.", show_default=BESIDE)
    ] = None,
    health: Annotated[
        str | None, typer.Option("--health", help="HOST:PORT for gRPC health, or off.", show_default=BESIDE)
    ] = None,
    home: HomeOption = HOME,
) -> None:
    """Run the server until stopped; what ends by itself is started again.

    Example: foedus coordinator up
    """
    from foedus import pki
    from server.home import Home
    from server.monitoring import monitoring
    from server.service import service

    opened = Home.open(home)
    left = pki.days_left(opened.pki / pki.SERVER_CERTIFICATE)
    if left < 30:
        when = f"expires in {left} days" if left >= 0 else "has expired: no site will connect"
        say(f"[yellow]the server's certificate {when}; run foedus coordinator renew --home {home}")

    def tell(line: str) -> None:
        say(escape(line))

    with (
        service(opened, listen=listen, say=tell) as (supervisor, duties),
        monitoring(opened, metrics=metrics, health=health, restarts=supervisor.restarts) as places,
    ):
        tell(f"sites connect to {opened.address}; logs are in {opened.folder / 'logs'}; stop with ctrl-C")
        for name, place in places.items():
            tell(f"{name}: {place}")
        supervisor.run(meanwhile=duties)


@app.command("renew")
def renew(home: HomeOption = HOME) -> None:
    """A new server certificate from the same authority; sites notice nothing.

    Example: foedus coordinator renew
    """
    from foedus import pki
    from server.home import Home

    opened = Home.open(home)
    hosts = [opened.settings["host"], "localhost", "127.0.0.1", "::1"]
    pki.create_server_certificate(opened.pki, hosts=hosts)
    say(f"renewed; start foedus coordinator up --home {home} again")


def _kits(home: "Home") -> dict[str, str]:
    """Fingerprint of each approved site's kit."""
    return {name: home.kit(name).fingerprint() for name in home.approved()}


def _print_versions(request: "Request") -> None:
    from importlib.metadata import version

    for name, there in (("foedus", request.foedus), ("flwr", request.flwr)):
        if there != (here := version(name)):
            say(f"[yellow]{request.site} has {name} {there}, this coordinator {here}; install the same")


def _show_kits(home: "Home", before: Mapping[str, str], *, as_json: bool) -> None:
    """Where the kits are, their fingerprint, who needs a new one, and what comes next."""
    now = _kits(home)
    again = sorted(name for name, found in before.items() if now.get(name, found) != found)
    fingerprint = next(iter(now.values()), None)
    if as_json:
        kits = {name: str(home.kit_file(name)) for name in now}
        print_json({"kits": kits, "fingerprint": fingerprint, "join_again": again})
        return
    for name in now:
        say(f"kit for {name}: {home.kit_file(name)}")
    say(f"Fingerprint of the kits, to read to every site: [bold]{fingerprint}")
    if home.roster() is None:
        say("Secure sums need three sites; approve more, then send the kits that are made then.")
        return
    if again:
        say(f"The roster changed. Who joined before joins again with the new kit: {', '.join(again)}")
    say("Next, at each site: foedus site join NAME.kit.json --folder FOLDER --fingerprint ...")


def _read_request(path: Path) -> "Request":
    from foedus.enrolment import Request

    return Request.read(path, hint="give the NAME.request.json that foedus site init made")
