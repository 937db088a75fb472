"""The coordinator at work: the gated SuperLink and the executor of ServerApps, kept running.

Sites that were approved are let in, the others out; a run whose process was killed is submitted again.
"""

import errno
import logging
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from foedus import pki
from foedus.errors import ConfigError, RunError
from foedus.supervise import Supervisor, alone
from server.conducting import look_after
from server.control import Control, key_bytes
from server.home import RUNS_VARIABLE, SECRET, Home

log = logging.getLogger(__name__)
LOOK_S = 3.0
"""Between two looks at which sites are approved."""
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
"""glibc: what held a part of a message goes back to the system once it is free, not to the thread that held it."""
PORT_S = 5.0
"""How long a port may still be another's: of a coordinator that was killed just now."""


def commands(home: Home, *, listen: str) -> dict[str, list[str]]:
    """The two processes of a coordinator."""
    return {
        "superlink": [sys.executable, "-m", "server.gate", str(home.folder), "--listen", listen],
        "executor": [
            *(sys.executable, "-m", "server.executor", "--runtime", home.control_address),
            *("--secret", str(home.folder / SECRET), "--authority", str(home.pki / pki.CA_CERTIFICATE)),
        ],
    }


class Duties:
    """What a coordinator does now and then: let sites in and out, submit killed runs again.

    Args:
        home: The coordinator's folder.
        say: Gets one line when the server answers, and when a site signs in or is lost.
    """

    def __init__(self, home: Home, say: Callable[[str], None]) -> None:
        self.home = home
        self._say = say
        self._said = ""
        self._next = 0.0

    def __call__(self) -> None:
        """Every few seconds; while the server starts, later."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + LOOK_S
        try:
            self.reconcile()
            look_after(self.home)
        except RunError as error:
            log.info("later: %s", error)

    def reconcile(self) -> None:
        """Let in who is approved and not registered; shut out who is registered and not approved.

        Raises:
            RunError: If the server does not answer.
        """
        control = Control(self.home, role="admin")
        wanted = {key_bytes(request.node): name for name, request in self.home.approved().items()}
        known = control.nodes()
        names = {node: wanted[key] for key, (node, _) in known.items() if key in wanted}
        self._tell([name for key, name in wanted.items() if known.get(key, (0, ""))[1] == "online"])
        for key, name in wanted.items():
            if key not in known:
                names[control.register(key, name=name)] = name
                log.info("site '%s' may sign in", name)
        self.home.note_nodes(names)
        for key, (node, _) in known.items():
            if key not in wanted:
                control.unregister(node)
                log.info("node %s may no longer sign in", node)

    def _tell(self, online: list[str]) -> None:
        said = f"the server answers; signed in: {', '.join(online) or 'nobody yet'}"
        if said != self._said:
            self._said = said
            self._say(said)


@contextmanager
def service(home: Home, *, listen: str, say: Callable[[str], None]) -> Iterator[tuple[Supervisor, Duties]]:
    """What `foedus coordinator up` runs.

    Raises:
        ConfigError: If one of its ports cannot be had.
        RunError: If it runs already, or its folder cannot be written.
    """
    folder = home.folder.resolve()
    running = f"the coordinator in {home.folder} runs already; stop the other foedus coordinator up first."
    with alone(folder, running=running):
        settings = home.settings
        require_port(listen, settings["port"])
        require_port("127.0.0.1", settings["control_port"])
        supervisor = Supervisor(
            commands(Home(folder), listen=listen),
            logs=folder / "logs",
            home=folder / "flwr",
            environment={RUNS_VARIABLE: str(Home(folder).runs), **GIVE_BACK},
        )
        yield supervisor, Duties(Home(folder), say)


def require_port(host: str, port: int) -> None:
    """Refuse to start where nothing can listen: the server would end and be started again for ever.

    Raises:
        ConfigError: If `port` of `host` stays taken, or `host` is not this machine's.
    """
    deadline = time.monotonic() + PORT_S
    while True:
        try:
            kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(kind, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                probe.listen()
            return
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                problem = f"{host}:{port} cannot be listened on ({error.strerror}); free it, or take another"
                raise ConfigError("coordinator up", [problem]) from None
        time.sleep(0.2)
