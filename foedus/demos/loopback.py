"""A whole federation on this machine: a coordinator and sites, each a process with a home of its own.

They are set up by the commands a newcomer types, over TLS, on free ports of the loopback interface.
Tests and benchmarks use it; nothing of it is simulated.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from clients.membership import FOLDER
from clients.service import free_port
from foedus import files
from foedus.errors import RunError
from foedus.supervise import NOTE, die_with_parent
from server.control import Control, key_bytes
from server.home import Home

COORDINATOR = "coordinator"
PATIENCE_S = 180.0
COMMAND_S = 900.0


@dataclass(frozen=True)
class Typed:
    """A command and what came of it.

    Attributes:
        words: Without the "foedus" in front.
        out: Its output.
        code: Its exit code.
    """

    words: tuple[str, ...]
    out: str
    code: int


@dataclass
class Loopback:
    """A federation on this machine; `with` starts and stops it.

    Attributes:
        home: The coordinator's folder; made here.
        sites: Name to folder of each site, with its site.toml.
        host: Address that sites reach the coordinator by.
        within: Party to the words in front of its commands, such as those that enter its network namespace.
        typed: Every command so far.
    """

    home: Path
    sites: Mapping[str, Path]
    host: str = "127.0.0.1"
    within: Mapping[str, Sequence[str]] = field(default_factory=dict)
    typed: list[Typed] = field(default_factory=list)
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        try:
            self.enrol()
            self.start(COORDINATOR)
            for name in self.sites:
                self.start(name)
            self.wait_for(len(self.sites))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def enrol(self) -> None:
        """The coordinator's folder, the sites' keys, requests and kits: what is typed once."""
        ports = ("--port", free_port(), "--control-port", free_port())
        self.foedus("coordinator", "init", "--host", self.host, *ports, "--home", self.home)
        self._side_by_side([("site", "init", folder) for folder in self.sites.values()])
        requests = [folder / f"{name}.request.json" for name, folder in self.sites.items()]
        said = self.foedus("coordinator", "approve", *requests, "--home", self.home).out
        fingerprint = said.split("read to every site:")[1].split()[0]
        kits = {name: self.home / "kits" / f"{name}.kit.json" for name in self.sites}
        self._side_by_side(
            [
                ("site", "join", kits[name], "--folder", folder, "--fingerprint", fingerprint)
                for name, folder in self.sites.items()
            ]
        )

    def foedus(self, *words: object, code: int | None = 0, party: str = COORDINATOR) -> Typed:
        """Run a command to its end.

        Args:
            words: Of the command line.
            code: The exit code it must have; any when None.
            party: Whose machine it is typed at.

        Raises:
            RunError: If it has another, with what it said.
        """
        self.typed.append(self._run(words, code=code, party=party))
        return self.typed[-1]

    def _side_by_side(self, commands: Sequence[Sequence[object]]) -> None:
        """Commands that different parties type at the same time, noted in this order."""
        with ThreadPoolExecutor(len(commands)) as hands:
            self.typed += hands.map(lambda words: self._run(words, code=0, party=COORDINATOR), commands)

    def _run(self, words: Sequence[object], *, code: int | None, party: str) -> Typed:
        line = [str(word) for word in words]
        done = subprocess.run(
            [*self.within.get(party, ()), *_PROGRAM, *line],
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_S,
            env=_PLAIN,
        )
        if (code is not None and done.returncode != code) or "Traceback" in done.stderr:
            raise RunError(
                f"foedus {' '.join(line)} ended with {done.returncode}: {done.stdout}{done.stderr}"
            )
        return Typed(tuple(line), done.stdout, done.returncode)

    def start(self, name: str) -> None:
        """The coordinator's or a site's service."""
        if name == COORDINATOR:
            words = ["coordinator", "up", "--listen", self.host, "--home", str(self.home)]
        else:
            words = ["site", "start", str(self.sites[name])]
        self.typed.append(Typed(tuple(words), "", 0))
        self._running[name] = subprocess.Popen(
            [*self.within.get(name, ()), *_PROGRAM, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )

    def pid(self, name: str, process: str | None = None) -> int:
        """Process id of a service's supervisor, or of one of the processes it keeps running."""
        if process is None:
            return self._running[name].pid
        return int(files.read_json(self.logs(name) / NOTE)["pids"][process])

    def kill(self, name: str, process: str | None = None) -> None:
        """SIGKILL to a supervisor or to one of its processes."""
        os.kill(self.pid(name, process), signal.SIGKILL)
        if process is None:
            self._running.pop(name).wait()

    def online(self) -> set[str]:
        """Names of the sites that are signed in."""
        if COORDINATOR in self.within:  # its control port is in a network of its own
            words = ("coordinator", "roster", "--json", "--home", self.home)
            rows: list[dict[str, str]] = json.loads(self._run(words, code=0, party=COORDINATOR).out)
            return {row["site"] for row in rows if row["status"] == "online"}
        home = Home.open(self.home)
        try:
            nodes = Control(home, role="auditor").nodes()
        except RunError:  # it has not started yet
            return set()
        signed_in = {key for key, (_, status) in nodes.items() if status == "online"}
        return {name for name, request in home.approved().items() if key_bytes(request.node) in signed_in}

    def wait_for(self, n: int, *, within_s: float = PATIENCE_S) -> None:
        """Until that many sites are signed in.

        Raises:
            RunError: If that takes too long, with the ends of all logs.
        """
        begun = time.monotonic()
        while len(found := self.online()) != n:
            if time.monotonic() > begun + within_s:
                raise RunError(f"{len(found)} of {n} sites are signed in. {self.tails()}")
            time.sleep(0.5)

    def logs(self, name: str) -> Path:
        """Folder with the log of each of a service's processes."""
        return (self.home if name == COORDINATOR else self.sites[name] / FOLDER) / "logs"

    def tails(self, n_chars: int = 600) -> str:
        """The ends of all logs."""
        paths = [
            path for name in (COORDINATOR, *self.sites) for path in sorted(self.logs(name).glob("*.log"))
        ]
        return "\n".join(f"{path}: {path.read_text(errors='replace')[-n_chars:]}" for path in paths)

    def run_folders(self) -> Sequence[Path]:
        """Run folders of the coordinator, by name: the last is the newest."""
        found = [path.parent for path in Home.open(self.home).runs.glob("*/run.json")]
        return sorted(found)

    def close(self) -> None:
        """Stop everything that was started."""
        for process in self._running.values():
            process.send_signal(signal.SIGTERM)
        for process in self._running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
            process.wait()
        self._running.clear()


_PROGRAM = (str(Path(sys.executable).parent / "foedus"),)
_PLAIN = {**os.environ, "COLUMNS": "110", "NO_COLOR": "1", "TERM": "dumb"}
