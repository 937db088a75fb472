"""A real federation on loopback: SuperLink with TLS and signed-in sites, each party a process with its own home."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from clients.service import free_port
from foedus import pki, simulation
from foedus.runs import HEAD_FILE, RunFolder
from server.home import Home

FOEDUS = str(Path(sys.executable).parent / "foedus")
SITES = ("east", "north", "south")
START_S = 90.0


def foedus(*words: object, code: int = 0) -> str:
    """Run a command as a user would; what it printed."""
    done = subprocess.run(
        [FOEDUS, *map(str, words)], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


class Federation:
    """A coordinator and three sites that joined it, as a newcomer would set them up."""

    def __init__(self, folder: Path) -> None:
        self.home, self.sites = folder / "coordinator", folder / "sites"
        ports = ("--port", free_port(), "--control-port", free_port())
        foedus("coordinator", "init", "--host", "127.0.0.1", *ports, "--home", self.home)
        for name in SITES:
            toml = self.sites / name / "site.toml"
            toml.write_text(toml.read_text().replace('doors = ["open"]', 'doors = ["open", "secure-only"]'))
            foedus("site", "init", self.sites / name)
        requests = [self.sites / name / f"{name}.request.json" for name in SITES]
        said = foedus("coordinator", "approve", *requests, "--home", self.home)
        fingerprint = said.split("read to every site:")[1].split()[0]
        for name in SITES:
            kit = self.home / "kits" / f"{name}.kit.json"
            foedus("site", "join", kit, "--folder", self.sites / name, "--fingerprint", fingerprint)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.start("coordinator", "coordinator", "up", "--listen", "127.0.0.1", "--home", self.home)
        for name in SITES:
            self.start(name, "site", "start", self.sites / name)

    def start(self, name: str, *words: object) -> None:
        """A service, in a process group of its own."""
        self.processes[name] = subprocess.Popen(
            [FOEDUS, *map(str, words)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait_for(self, n: int) -> None:
        """Until that many sites are signed in."""
        begin = time.monotonic()
        while time.monotonic() < begin + START_S:
            rows = json.loads(foedus("coordinator", "roster", "--json", "--home", self.home))
            if sum(row["status"] == "online" for row in rows) == n:
                return
            time.sleep(1)
        logs = [path.read_text()[-800:] for path in self.home.glob("logs/*.log")]
        raise AssertionError(f"{n} sites are not online: {rows}\n" + "\n".join(logs))

    def stop(self) -> None:
        """Everything that was started, with SIGTERM."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            process.wait(30)


@pytest.fixture
def federation(toy: Path) -> Iterator[Federation]:
    shutil.rmtree(toy / "sites/west")
    found = Federation(toy)
    try:
        found.wait_for(3)
        yield found
    finally:
        found.stop()


def study(toy: Path, *, rounds: int) -> Path:
    """The toy study through masks."""
    text = (toy / "study.toml").read_text()
    text = text.replace('mode = "open"', 'mode = "secure-only"').replace("rounds = 4", f"rounds = {rounds}")
    (toy / "study.toml").write_text(text)
    return toy / "study.toml"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_study_runs_on_a_real_federation_as_it_does_simulated(federation: Federation, toy: Path) -> None:
    path = study(toy, rounds=2)
    simulated, _ = simulation.simulate(path, toy / "sites", runs=toy / "runs")
    said = foedus("run", path, "--home", federation.home, "--json")
    found = RunFolder.open(next((federation.home / "runs").iterdir()))
    assert found.state()["status"] == "finished"
    assert (found.path / HEAD_FILE).read_bytes() == (simulated.path / HEAD_FILE).read_bytes()
    assert (found.path / "report.html").exists()
    assert json.loads(said)["audit"]["verdict"]
    noted = (federation.home / "audit.jsonl").read_text()
    assert noted.count("register-node") == 3
    assert "start-run" in noted
    _the_public_side_shows_the_fleet_only(federation)
    _roles_may_do_what_they_may(federation, toy)


def _the_public_side_shows_the_fleet_only(federation: Federation) -> None:
    home = Home.open(federation.home)
    trusted = str(home.pki / pki.CA_CERTIFICATE)
    with httpx.Client(verify=trusted) as client:
        public = f"https://{home.address}"
        assert client.post(f"{public}/v1/control/list-runs").status_code == 404
        assert client.post(f"{public}/v1/runtime/acquire-task").status_code == 404
        private = f"https://{home.control_address}"
        assert client.post(f"{private}/v1/control/list-runs").status_code == 403
        wrong = {"Authorization": "Bearer guessed"}
        assert client.post(f"{private}/v1/control/start-run", headers=wrong).status_code == 403


def _roles_may_do_what_they_may(federation: Federation, toy: Path) -> None:
    home = Home.open(federation.home)
    with httpx.Client(verify=str(home.pki / pki.CA_CERTIFICATE)) as client:
        auditor = {"Authorization": f"Bearer {home.token('auditor')}"}
        private = f"https://{home.control_address}/v1/control"
        refused = client.post(f"{private}/start-run", headers=auditor)
        assert refused.status_code == 403
        assert "role 'auditor' may not call start-run" in refused.text
        coordinator = {"Authorization": f"Bearer {home.token('coordinator')}"}
        assert client.post(f"{private}/register-node", headers=coordinator).status_code == 403


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kills_cost_a_round_in_flight_and_no_byte_of_the_model(federation: Federation, toy: Path) -> None:
    path = study(toy, rounds=2)
    simulated, _ = simulation.simulate(path, toy / "sites", runs=toy / "runs")
    foedus("run", path, "--home", federation.home, "--detach")
    run = RunFolder.open(next((federation.home / "runs").iterdir()))
    _until(lambda: run.latest() is not None)
    os.kill(int(run.state()["pid"]), signal.SIGKILL)  # the ServerApp, mid-round
    _until(lambda: run.state().get("attempts") == 1)
    foedus("watch", run.run_id, "--home", federation.home)
    assert (run.path / HEAD_FILE).read_bytes() == (simulated.path / HEAD_FILE).read_bytes()
    run.verify_log()


def _until(true: object, *, within_s: float = 240.0) -> None:
    assert callable(true)
    begin = time.monotonic()
    while not true():
        assert time.monotonic() < begin + within_s
        time.sleep(0.5)
