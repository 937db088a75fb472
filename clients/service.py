"""A site at the service of its federation: Flower's SuperNode and our executor, kept running."""

import json
import socket
import sys
from pathlib import Path

from clients.app import SITE_KEY
from clients.membership import AUTHORITY, SECRET, Membership
from foedus import pki
from foedus.supervise import Supervisor


def commands(site: Membership, *, port: int) -> dict[str, list[str]]:
    """The two processes of a site; all its connections go out, to the kit's address."""
    kit, node = site.kit(), site.node.resolve()
    folder = json.dumps(str(site.folder.resolve()))
    scripts = Path(sys.executable).parent
    return {
        "supernode": [
            *(str(scripts / "flower-supernode"), "--superlink", kit.address),
            *("--root-certificates", str(node / AUTHORITY)),
            *("--auth-supernode-private-key", str(node / pki.NODE_KEY)),
            *("--host", "127.0.0.1", "--port", str(port), "--isolation", "process"),
            *("--superexec-auth-secret-file", str(node / SECRET)),
            *("--node-config", f"{SITE_KEY}={folder}"),
        ],
        "executor": [
            *(sys.executable, "-m", "clients.executor", "--runtime", f"127.0.0.1:{port}"),
            *("--secret", str(node / SECRET)),
        ],
    }


def service(folder: Path) -> Supervisor:
    """What `foedus site start` runs.

    Raises:
        ConfigError: If the site has not joined.
    """
    site = Membership(folder)
    home = site.node.resolve()
    return Supervisor(commands(site, port=free_port()), logs=home / "logs", home=home / "flwr")


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
