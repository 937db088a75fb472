"""The coordinator at work: the gated SuperLink and the executor of ServerApps, kept running.

Sites that were approved are let in, the others out; a run whose process was killed is submitted again.
"""

import logging
import sys
import time

from foedus import pki
from foedus.errors import RunError
from foedus.supervise import Supervisor
from server.conducting import look_after
from server.control import Control, key_bytes
from server.executor import RUNS_VARIABLE
from server.home import SECRET, Home

log = logging.getLogger(__name__)
LOOK_S = 3.0
"""Between two looks at which sites are approved."""


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
    """What a coordinator does now and then: let sites in and out, submit killed runs again."""

    def __init__(self, home: Home) -> None:
        self.home = home
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
        for key, name in wanted.items():
            if key not in known:
                names[control.register(key, name=name)] = name
                log.info("site '%s' may sign in", name)
        self.home.note_nodes(names)
        for key, (node, _) in known.items():
            if key not in wanted:
                control.unregister(node)
                log.info("node %s may no longer sign in", node)


def service(home: Home, *, listen: str) -> tuple[Supervisor, Duties]:
    """What `foedus coordinator up` runs."""
    folder = home.folder.resolve()
    supervisor = Supervisor(
        commands(Home(folder), listen=listen),
        logs=folder / "logs",
        home=folder / "flwr",
        environment={RUNS_VARIABLE: str(Home(folder).runs)},
    )
    return supervisor, Duties(Home(folder))
