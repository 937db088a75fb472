"""foedus coordinator: set up a federation, let sites in, keep its server running."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from foedus.cli.output import JsonOption, console, print_json

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
    console.print(f"{home} is ready. Its tokens and keys are for this machine only.")
    console.print(f"Next: foedus coordinator up --home {home}")


@app.command("approve")
def approve(
    requests: Annotated[list[Path], typer.Argument(help="The sites' NAME.request.json files.")],
    replace: Annotated[bool, typer.Option("--replace", help="A site made new keys.")] = False,
    home: HomeOption = HOME,
) -> None:
    """Let sites join. Compare each fingerprint with the site's administrator first.

    Example: foedus coordinator approve north.request.json south.request.json east.request.json
    """
    from foedus.enrolment import Request
    from server.home import Home

    opened = Home.open(home)
    for path in requests:
        request = Request.decode(_read(path))
        opened.approve(request, replace=replace)
        console.print(f"approved {request.site}: {request.fingerprint()}")
    for name in opened.approved():
        console.print(f"kit for {name}: {opened.kit_file(name)}")
    one = next(iter(opened.approved()))
    console.print(f"Fingerprint of the kits, to read to every site: [bold]{opened.kit(one).fingerprint()}")
    if opened.roster() is None:
        console.print("Secure sums need three sites; approve more, then send the kits that are made then.")


@app.command("revoke")
def revoke(site: Annotated[str, typer.Argument(help="Name of the site.")], home: HomeOption = HOME) -> None:
    """Shut a site out. The others join again with their new kits, whose roster is without it.

    Example: foedus coordinator revoke north
    """
    from server.home import Home

    opened = Home.open(home)
    opened.revoke(site)
    console.print(f"{site} can no longer sign in. Send the others their kits from {opened.folder / 'kits'}.")


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
    except RunError:
        nodes = {}
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
    table = Table("site", "status", "fingerprint", "foedus", "flwr")
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
        console.print(
            f"[yellow]the server's certificate expires in {left} days; run foedus coordinator renew"
        )
    supervisor, duties = service(opened, listen=listen)
    console.print(
        f"sites connect to {opened.address}; logs are in {opened.folder / 'logs'}; stop with ctrl-C"
    )
    with monitoring(opened, metrics=metrics, health=health, restarts=supervisor.restarts) as places:
        for name, place in places.items():
            console.print(f"{name}: {place}")
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
    console.print("renewed; start foedus coordinator up again")


def _read(path: Path) -> str:
    from foedus.errors import ConfigError

    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        raise ConfigError(
            str(path), ["it cannot be read as a request; ask the site to send it again"]
        ) from None
