"""Keep processes running: start them, restart the one that ends, stop all together."""

import contextlib
import ctypes
import fcntl
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from foedus import files
from foedus.errors import RunError

log = logging.getLogger(__name__)

PATIENCE_S = 60.0
"""A process that ran this long failed anew; one that ends sooner waits longer before its next start."""
LONGEST_WAIT_S = 20.0
GRACE_S = 10.0
"""After asking a process to stop, before it is killed."""
LOCK = "running.lock"
NOTE, NOTE_S, STALE_S = "processes.json", 5.0, 30.0
"""Beside the logs: what runs, written every few seconds; one that is older tells of no supervisor."""
LOG_BYTES = 50_000_000
"""A log that is longer is moved to NAME.log.1, and begun anew."""
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)
"""Loaded here: to load it in a child that was forked beside threads could wait for ever."""

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "HF_HUB_OFFLINE": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.25",
    "OMP_NUM_THREADS": "1",
    "GOMP_SPINCOUNT": "0",
}


def speak() -> None:
    """In a supervised process: our own loggers write to its log file; Flower has its own handler."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    for name in ("foedus", "server", "clients"):
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(logging.INFO)


@contextlib.contextmanager
def alone(folder: Path, *, running: str) -> Iterator[None]:
    """Hold `folder`, so that what runs from it runs once.

    Args:
        folder: Gets the lock, which ends with this process whatever happens.
        running: Said where somebody else holds it.

    Raises:
        RunError: If somebody does, or the folder cannot be written.
    """
    try:
        lock = (folder / LOCK).open("a")
    except OSError as error:
        raise RunError(
            f"{folder} cannot be written ({error.strerror}); make it writable for this user."
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(running) from None
        yield


class Supervisor:
    """Some processes that belong together.

    Args:
        commands: Name to command line.
        logs: Folder that gets a log file for each.
        home: FLWR_HOME of all of them: each party's own, so that two on one machine never meet.
        environment: Beside this process's own.
    """

    def __init__(
        self,
        commands: Mapping[str, Sequence[str]],
        *,
        logs: Path,
        home: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.commands = commands
        self.logs = logs
        self.restarts = dict.fromkeys(commands, 0)
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        self.environment = {
            **os.environ,
            **QUIET,
            "PATH": path,
            "FLWR_HOME": str(home),
            **(environment or {}),
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._started: dict[str, float] = {}
        self._next: dict[str, float] = {}
        self._wait: dict[str, float] = {}
        self._noted = -NOTE_S
        self._stop = threading.Event()

    def run(self, *, every_s: float = 0.5, meanwhile: Callable[[], None] | None = None) -> None:
        """Until SIGTERM, SIGINT or `stop`; `meanwhile` is called between looks at the processes."""
        self.logs.mkdir(parents=True, exist_ok=True)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: self._stop.set())
        try:
            while not self._stop.is_set():
                for name in self.commands:
                    self._look_after(name)
                self._note()
                if meanwhile is not None:
                    meanwhile()
                self._stop.wait(every_s)
        finally:
            self._end_all()
            (self.logs / NOTE).unlink(missing_ok=True)

    def stop(self) -> None:
        """Have `run` end."""
        self._stop.set()

    def pids(self) -> dict[str, int]:
        """Name to process id of those that run."""
        return {name: found.pid for name, found in self._processes.items() if found.poll() is None}

    def _look_after(self, name: str) -> None:
        process = self._processes.get(name)
        if process is not None and process.poll() is None:
            return
        now = time.monotonic()
        if process is not None and name not in self._next:
            ran = now - self._started[name]
            wait = 0.5 if ran > PATIENCE_S else min(2 * self._wait.get(name, 0.25), LONGEST_WAIT_S)
            self._wait[name], self._next[name] = wait, now + wait
            message = "%s ended with status %s; starting it again in %.0f s; why is in %s"
            log.warning(message, name, process.returncode, wait, self.logs / f"{name}.log")
        if process is None or now >= self._next[name]:
            self._next.pop(name, None)
            self.restarts[name] += process is not None
            self._start(name, now)

    def _start(self, name: str, now: float) -> None:
        with (self.logs / f"{name}.log").open("ab") as output:
            self._processes[name] = subprocess.Popen(
                list(self.commands[name]),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
                preexec_fn=die_with_parent,
                umask=0o077,  # folders of features, reports and runs are this user's alone
            )
        self._started[name] = now

    def _note(self) -> None:
        if time.monotonic() < self._noted + NOTE_S:
            return
        self._noted = time.monotonic()
        self._shorten_logs()
        pids = {name: self.pids().get(name) for name in self.commands}
        try:
            files.write_json(self.logs / NOTE, {"time": time.time(), "pids": pids, "restarts": self.restarts})
        except RunError as error:  # a full disk must not end what runs; whoever reads sees a stale note
            log.warning("%s", error)

    def _shorten_logs(self) -> None:
        """Copied and cut, since their processes hold them open; they append, so they go on at the beginning."""
        for name in self.commands:
            path = self.logs / f"{name}.log"
            if path.exists() and path.stat().st_size > LOG_BYTES:
                with contextlib.suppress(OSError):  # a full disk: there is the more reason to cut it
                    shutil.copyfile(path, path.with_suffix(".log.1"))
                os.truncate(path, 0)

    def _end_all(self) -> None:
        running = [found for found in self._processes.values() if found.poll() is None]
        for found in reversed(running):
            _signal_group(found, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        for found in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                found.wait(max(0.1, deadline - time.monotonic()))
            _signal_group(found, signal.SIGKILL)
            found.wait()


def problems(logs: Path) -> list[str]:
    """Why the supervisor that writes its logs there cannot be said to be well; empty if it is.

    Args:
        logs: As given to the Supervisor.
    """
    try:
        note = files.read_json(logs / NOTE)
    except RunError:
        return ["it is not running"]
    if time.time() > note["time"] + STALE_S:
        return [f"nothing was heard of it for {time.time() - note['time']:.0f} s"]
    return [f"its {name} is not running" for name, pid in note["pids"].items() if not exists(pid)]


def lives(logs: Path) -> bool:
    """Whether the supervisor that writes its logs there does, however its processes are."""
    try:
        return bool(time.time() <= files.read_json(logs / NOTE)["time"] + STALE_S)
    except RunError:
        return False


def exists(pid: int | None) -> bool:
    """Whether a process of this machine has that number."""
    try:
        os.kill(pid or 0, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid is not None


def die_with_parent() -> None:
    """In a child, before its program: Linux kills it when this process is killed, so that none is left over."""
    if sys.platform == "linux":
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _signal_group(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """To the process and what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
