"""What runs the ClientApp at a site: this site's own installed code and nothing that came over the wire.

python -m clients.executor --runtime HOST:PORT --secret FILE
"""

import os
import signal
from functools import partial
from typing import Any

import flwr.supernode.runtime.run_clientapp as flower
from flwr.clientapp.client_app import LoadClientAppError
from flwr.supercore.constant import TaskType

from clients.app import app as installed
from foedus import executing

PRIVATE_NAMES = (
    "flwr.supernode.runtime.run_clientapp:install_from_fab",
    "flwr.supernode.runtime.run_clientapp:get_load_client_app_fn",
    "flwr.supernode.runtime.run_clientapp:run_clientapp",
)
"""Flower's names that are replaced or called here and are not public; a test imports each."""

LONGEST_S = 12 * 3600
"""A message lives no longer by Flower's own default: whoever still works at it works for nobody."""


def load(fab_id: str, fab_version: str, fab_hash: str) -> Any:
    """The installed ClientApp, for a run of the same app and version.

    Raises:
        LoadClientAppError: If the run wants another.
    """
    if (problem := executing.mismatch(fab_id, fab_version)) is not None:
        raise LoadClientAppError(problem)
    return installed


def answer(spec: Any, *, keeper: int) -> None:
    """One message, in a process of its own that ends with it: nobody can ask for work without end.

    It also ends with the process `keeper`, the supervisor. If the executor is killed it goes on and is answered:
    Flower would end it with the executor, without an answer, and the node would wait for one for ever.
    """
    signal.alarm(LONGEST_S)
    flower.run_clientapp(
        runtime_api_address=spec.runtime_api_address,
        token=spec.token,
        insecure=spec.insecure,
        certificates=executing.certificates(spec),
        parent_pid=keeper,
        runtime_dependency_install=False,
    )


def main() -> None:
    """Serve a SuperNode on this machine until stopped."""
    keeper = os.getppid()
    given = executing.arguments("Runs the installed ClientApp for a SuperNode.")
    import torch  # noqa: F401 - warm: a fork has it already

    replaced: Any = flower
    replaced.install_from_fab = executing.keep_packed
    replaced.get_load_client_app_fn = lambda **_: load
    executing.serve(
        TaskType.CLIENT_APP,
        partial(answer, keeper=keeper),
        runtime=given.runtime,
        secret=given.secret,
        authority=given.authority,
        forks=executing.Forks(),
    )


if __name__ == "__main__":
    main()
