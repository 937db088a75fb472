"""A site at the service of its federation: its SuperNode and its executor, kept running."""

import json
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from clients.membership import EGRESS, LOCAL, SECRET, STATUS, Membership
from foedus import files, pki
from foedus.site import load_site
from foedus.supervise import Supervisor, alone


def commands(site: Membership, *, port: int) -> dict[str, list[str]]:
    """The two processes of a site; all its connections go out, to the kit's address."""
    folder, node = str(site.folder.resolve()), site.node.resolve()
    return {
        "node": [sys.executable, "-m", "clients.node", folder, "--port", str(port)],
        "executor": [
            *(sys.executable, "-m", "clients.executor", "--runtime", f"127.0.0.1:{port}"),
            *("--secret", str(node / SECRET), "--authority", str(node / LOCAL / pki.CA_CERTIFICATE)),
        ],
    }


def certify(folder: Path) -> None:
    """Certificates for the way between the site's own processes, which the authority's key does not outlive.

    While the node is being started again, anybody on this machine could listen on its port and ask in its place.

    Args:
        folder: Gets them; readable by their owner only.
    """
    pki.create_authority(folder, name="this site")
    pki.create_server_certificate(folder, hosts=["127.0.0.1"], days=pki.AUTHORITY_DAYS)
    (folder / pki.CA_KEY).unlink()


class Watcher:
    """Says how this site's node is, whenever that changes, and what this site refused.

    Args:
        folder: The site's folder.
        say: Gets one line.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._status = Membership(folder).node / STATUS
        self._egress = Membership(folder).node / EGRESS
        self._log = Membership(folder).node / "logs" / "executor.log"
        self._read = self._egress.stat().st_size if self._egress.exists() else 0
        self._say = say
        self._said: tuple[object, object] | None = None
        self._begun = datetime.now(UTC).isoformat(timespec="seconds")

    def __call__(self) -> None:
        """Look once."""
        if self._egress.exists():
            self._tell_refusals()
        if not self._status.exists():
            return
        status = files.read_json(self._status)
        now = (status["state"], status["reason"])
        if now != self._said and status["at"] >= self._begun:
            self._said = now
            self._say(f"{status['state']}: {status['reason']}" if status["reason"] else str(status["state"]))

    def _tell_refusals(self) -> None:
        with self._egress.open("rb") as written:
            written.seek(self._read)
            for line in written:
                if not line.endswith(b"\n"):  # still being written
                    break
                self._read += len(line)
                note = json.loads(line)
                if said := note["withheld"] or note.get("refused"):
                    self._say(f"refused: {said}".replace("its own log", str(self._log)))


@contextmanager
def service(folder: Path) -> Iterator[Supervisor]:
    """What `foedus site start` runs.

    Raises:
        ConfigError: If its site.toml is not valid, or the site has not joined.
        RunError: If it runs already, or its folder cannot be written.
    """
    site = Membership(folder)
    load_site(folder)
    site.kit()
    home = site.node.resolve()
    with alone(
        home, running=f"the site in {folder} takes part already; stop the other foedus site start first."
    ):
        certify(home / LOCAL)
        yield Supervisor(commands(site, port=free_port()), logs=home / "logs", home=home / "flwr")


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
