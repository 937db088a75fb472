"""Runs installed apps for Flower, each task in a fork of a process that has imported everything.

Flower would unpack the bundle of a run and import what is in it. An executor made of this module
never does: a run names the app "foedus/foedus" and a version, and if that is the installed one, the
installed app answers. So nothing that came over the wire is ever executed.
"""

import argparse
import contextlib
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
from flwr.supercore.superexec.executor.types import LaunchResult
from flwr.supercore.superexec.run_superexec import run_superexec

from foedus import __version__
from foedus.supervise import speak

log = logging.getLogger(__name__)

PRIVATE_NAMES = (
    "flwr.supercore.superexec.executor.subprocess_executor:SubprocessExecutor.launch",
    "flwr.supercore.superexec.executor.subprocess_executor:SubprocessExecutor.get_eligible_capacity",
    "flwr.supercore.superexec.run_superexec:run_superexec",
)
"""Flower's names that are replaced or called here and are not public; a test imports each."""
APP = "foedus/foedus"
GRACE_S = 10.0
"""For a task whose reply is out to end by itself."""
Answer = Callable[[Any], None]
"""Does one task, given Flower's ExecutionSpec."""


def mismatch(fab_id: str, fab_version: str) -> str | None:
    """Why the app a run names cannot be run here; None if it is the installed one."""
    if (fab_id, fab_version) == (APP, __version__):
        return None
    return f"this machine runs {APP} {__version__} only; install the other side's version, or ask it to use this one"


def keep_packed(content: bytes, **options: Any) -> None:
    """In place of Flower's installer: the bundle stays what it is, bytes."""


def certificates(spec: Any) -> bytes | None:
    """The authority's certificate that a task names."""
    return Path(spec.root_certificates_path).read_bytes() if spec.root_certificates_path else None


class Forks:
    """The forks of an executor that takes one task after the other: a new task ends what is left of older ones.

    One can be left where the run it belongs to ended while its message was on the way: Flower's client
    then waits for the rest of it for ever.
    """

    def __init__(self) -> None:
        self._superseded: dict[int, float] = {}
        self._newest: int | None = None

    def add(self, pid: int) -> None:
        """A task began."""
        if self._newest is not None:
            self._superseded[self._newest] = time.monotonic()
        self._newest = pid

    def end_old(self) -> None:
        """Kill what has been superseded for a while."""
        for pid, since in list(self._superseded.items()):
            if time.monotonic() > since + GRACE_S:
                del self._superseded[pid]
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    log.warning("ended a task that was left over from an earlier message")


def serve(
    kind: TaskType,
    answer: Answer,
    *,
    runtime: str,
    secret: Path,
    authority: Path | None,
    forks: Forks | None = None,
) -> None:
    """Do tasks of one kind until stopped.

    Args:
        kind: Of everything Flower may hand out, the only kind that is taken.
        answer: Does one task; called in a fork.
        runtime: host:port of Flower's Runtime interface.
        secret: File with the secret both sides know.
        authority: Certificate file where that interface speaks TLS; None where it is this machine's own.
        forks: Given where tasks come one after the other.
    """

    def launch(executor: SubprocessExecutor, spec: Any) -> LaunchResult:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        pid = os.fork()
        if pid == 0:
            _in_fork(answer, spec)
        if forks is not None:
            forks.add(pid)
        return LaunchResult.accepted()

    def only(
        executor: SubprocessExecutor, supported: set[TaskType], **options: Any
    ) -> tuple[set[Any], set[str]]:
        if forks is not None:
            forks.end_old()
        return {kind}, set()

    replaced: Any = SubprocessExecutor
    replaced.launch, replaced.get_eligible_capacity = launch, only
    log.info("answering with the installed foedus %s", __version__)
    gc.freeze()  # what is imported stays: forks need neither search it for garbage nor copy its pages
    run_superexec(
        runtime_api_address=runtime,
        insecure=authority is None,
        root_certificates_path=str(authority) if authority else None,
        superexec_auth_secret=secret.read_bytes(),
        runtime_dependency_install=False,
    )


def _in_fork(answer: Answer, spec: Any) -> None:
    """Do the task and end, whatever comes of it."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        answer(spec)
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 0
    except Exception:
        log.exception("a task could not be done")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def arguments(description: str) -> argparse.Namespace:
    """runtime, secret and authority, from the command line; our loggers speak from here on."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--runtime", required=True, help="host:port of Flower's Runtime interface")
    parser.add_argument("--secret", required=True, type=Path, help="file with the secret both sides know")
    parser.add_argument("--authority", type=Path, help="certificate of the authority, where it speaks TLS")
    given = parser.parse_args()
    speak()
    return given
