"""What runs the ClientApp at a site: this site's own installed code and nothing that came over the wire.

    python -m clients.executor --runtime HOST:PORT --secret FILE

Flower would unpack the bundle of a run and import it. This executor never does: a run names the
app "foedus/foedus" and a version, and if that is the installed one, the installed app answers.
It forks from a process that has imported everything already, so a message costs no imports.
"""

import argparse
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import flwr.supernode.runtime.run_clientapp as flower
from flwr.clientapp.client_app import LoadClientAppError
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
from flwr.supercore.superexec.executor.types import LaunchResult
from flwr.supercore.superexec.run_superexec import run_superexec

from clients.app import app as installed
from foedus import __version__
from foedus.supervise import speak

log = logging.getLogger(__name__)

PRIVATE_NAMES = (
    "flwr.supernode.runtime.run_clientapp:install_from_fab",
    "flwr.supernode.runtime.run_clientapp:get_load_client_app_fn",
    "flwr.supernode.runtime.run_clientapp:run_clientapp",
    "flwr.supercore.superexec.executor.subprocess_executor:SubprocessExecutor.launch",
    "flwr.supercore.superexec.executor.subprocess_executor:SubprocessExecutor.get_eligible_capacity",
    "flwr.supercore.superexec.run_superexec:run_superexec",
)
"""Flower's names that are replaced or called here and are not public; a test imports each."""
APP = "foedus/foedus"


def load(fab_id: str, fab_version: str, fab_hash: str) -> Any:
    """The installed ClientApp, for a run of the same app and version.

    Raises:
        LoadClientAppError: If the run wants another.
    """
    if (fab_id, fab_version) != (APP, __version__):
        raise LoadClientAppError(
            f"this site runs {APP} {__version__} only; install the coordinator's version, or ask it to use this one"
        )
    return installed


def keep_packed(content: bytes, **options: Any) -> None:
    """In place of Flower's installer: the bundle stays what it is, bytes."""


def launch(executor: SubprocessExecutor, spec: Any) -> LaunchResult:
    """Answer one message in a fork of this warm process."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    if os.fork() == 0:
        status = 1
        try:
            _answer(spec)
            status = 0
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return LaunchResult.accepted()


def _answer(spec: Any) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    path = spec.root_certificates_path
    flower.run_clientapp(
        runtime_api_address=spec.runtime_api_address,
        token=spec.token,
        insecure=spec.insecure,
        certificates=Path(path).read_bytes() if path else None,
        parent_pid=spec.parent_pid,
        runtime_dependency_install=False,
    )


def only_clients(
    executor: SubprocessExecutor, supported: set[TaskType], **options: Any
) -> tuple[set[Any], set[str]]:
    """Of everything a SuperLink may hand out, a site does nothing but answer as a client."""
    return {TaskType.CLIENT_APP}, set()


def install() -> None:
    """Put this module in the place of Flower's installer, loader and launcher."""
    replaced: Any = flower
    replaced.install_from_fab = keep_packed
    replaced.get_load_client_app_fn = lambda **_: load
    executor: Any = SubprocessExecutor
    executor.launch = launch
    executor.get_eligible_capacity = only_clients


def main() -> None:
    """Serve a SuperNode on this machine until stopped."""
    parser = argparse.ArgumentParser(description="Runs the installed ClientApp for a SuperNode.")
    parser.add_argument("--runtime", required=True, help="host:port of the SuperNode's own interface")
    parser.add_argument("--secret", required=True, type=Path, help="file with the secret both know")
    given = parser.parse_args()
    speak()
    import torch  # noqa: F401 - warm: a fork has it already

    install()
    log.info("answering with the installed foedus %s", __version__)
    run_superexec(
        runtime_api_address=given.runtime,
        insecure=True,
        superexec_auth_secret=given.secret.read_bytes(),
        runtime_dependency_install=False,
    )


if __name__ == "__main__":
    main()
