"""A real federation on loopback: SuperLink with TLS and signed-in sites, each party a process with its own home."""

import contextlib
import hashlib
import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.supercore.fab import Fab

from foedus import __version__, files, pki, simulation
from foedus.backbones import describe
from foedus.demos.loopback import COORDINATOR, Loopback
from foedus.runs import HEAD_FILE, RunFolder
from foedus.study import load_study
from foedus.traffic import PARTS, SUM_FILE, Asked, Traffic
from server import control
from server.conducting import submit, watch
from server.home import Home

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
SITES = ("east", "north", "south")
SEEN = ("features", "scores", "decisions", "top")


@pytest.fixture(scope="module")
def toy(deployed_toy: Path) -> Path:
    return deployed_toy


@pytest.fixture(scope="module")
def simulated(toy: Path) -> RunFolder:
    """The same study on LocalGrid."""
    return simulation.simulate(toy / "study.toml", toy / "sites", runs=toy / "runs")[0]


@pytest.fixture(scope="module")
def four_rounds(toy: Path) -> Path:
    """The study with a round for each kill, and no audit after them."""
    text = (toy / "study.toml").read_text().replace("rounds = 3", "rounds = 4")
    (toy / "four-rounds.toml").write_text(text.replace('[fairness]\npolicy = "policy.toml"\n', ""))
    return toy / "four-rounds.toml"


@pytest.fixture(scope="module")
def undisturbed(toy: Path, four_rounds: Path) -> RunFolder:
    """That on LocalGrid."""
    return simulation.simulate(four_rounds, toy / "sites", runs=toy / "runs")[0]


@pytest.fixture(scope="module")
def federation(toy: Path, simulated: RunFolder, undisturbed: RunFolder) -> Iterator[Loopback]:
    with Loopback(toy / "coordinator", {name: toy / "sites" / name for name in SITES}) as found:
        yield found


def same_model(run: Path, other: RunFolder) -> bool:
    return (run / HEAD_FILE).read_bytes() == (other.path / HEAD_FILE).read_bytes()


def test_a_study_runs_as_it_does_simulated(federation: Loopback, toy: Path, simulated: RunFolder) -> None:
    said = federation.foedus("run", toy / "study.toml", "--home", federation.home, "--json")
    [path] = federation.run_folders()
    run = RunFolder.open(path)
    assert run.state()["status"] == "finished"
    assert same_model(path, simulated)
    assert (path / "report.html").exists()
    assert json.loads(said.out)["audit"]["verdict"]
    shown = federation.foedus("audit", "show", path, code=None)
    assert "INCONCLUSIVE" in shown.out or "PASS" in shown.out or "FAIL" in shown.out
    noted = (federation.home / "audit.jsonl").read_text()
    assert noted.count("register-node") == 3
    assert "start-run" in noted
    for folder in federation.sites.values():
        lines = [json.loads(text) for text in (folder / ".foedus/node/egress.jsonl").read_text().splitlines()]
        assert lines
        assert {line["withheld"] for line in lines} == {None}


def test_the_public_side_shows_the_fleet_only(federation: Loopback) -> None:
    home = Home.open(federation.home)
    with httpx.Client(verify=str(home.pki / pki.CA_CERTIFICATE)) as client:
        public = f"https://{home.address}"
        for call in ("control/list-runs", "control/start-run", "runtime/acquire-task"):
            assert client.post(f"{public}/v1/{call}").status_code == 404
        private = f"https://{home.control_address}"
        assert client.post(f"{private}/v1/control/list-runs").status_code == 403
        wrong = {"Authorization": "Bearer guessed"}
        assert client.post(f"{private}/v1/control/start-run", headers=wrong).status_code == 403


def test_roles_may_do_what_they_may(federation: Loopback) -> None:
    home = Home.open(federation.home)
    with httpx.Client(verify=str(home.pki / pki.CA_CERTIFICATE)) as client:
        private = f"https://{home.control_address}/v1/control"
        auditor = {"Authorization": f"Bearer {home.token('auditor')}"}
        refused = client.post(f"{private}/start-run", headers=auditor)
        assert refused.status_code == 403
        assert "role 'auditor' may not call start-run" in refused.text
        coordinator = {"Authorization": f"Bearer {home.token('coordinator')}"}
        assert client.post(f"{private}/register-node", headers=coordinator).status_code == 403


def test_who_asks_while_the_servers_disk_is_slow_waits(federation: Loopback) -> None:
    home = Home.open(federation.home)
    with (
        contextlib.closing(sqlite3.connect(home.database, isolation_level=None)) as state,
        ThreadPoolExecutor() as hands,
    ):
        state.execute("BEGIN IMMEDIATE")  # as if somebody had much to write
        asked = hands.submit(control.Control(home).runs)
        with pytest.raises(TimeoutError):
            asked.result(timeout=6.5)  # Flower's own server gives up after five
        state.execute("ROLLBACK")
        assert isinstance(asked.result(timeout=20), dict)


def test_journals_are_summed_under_masks(federation: Loopback, toy: Path) -> None:
    asked = Asked(version=1, day=None, fewest=10, attributes={"sex": ["f", "m"]})
    study = load_study(toy / "study.toml")
    wanted = Traffic(asked, study, dim=describe(study.backbone, study.table).dim)
    rng = np.random.default_rng(0)
    parts = []
    for name in SITES:
        site = toy / "sites" / name
        text = (site / "site.toml").read_text()
        (site / "site.toml").write_text(text + '\n[service]\njournal = "journal"\n')
        window = {key: rng.integers(0, 90, q.shape) for key, q in wanted.declare().items() if key in SEEN}
        files.write_arrays(site / f"journal/toy/windows/20261121T120000-v1-{name}.safetensors", window)
        parts.append(window)
    run = submit(Home.open(federation.home), toy / "study.toml", policy=None, traffic=asked)
    *_, last = watch(run)
    assert (last.status, last.problem) == ("finished", None)
    total = files.read_arrays(run.path / SUM_FILE)
    assert total[PARTS].tolist() == [3, 0]
    for key in SEEN:
        np.testing.assert_array_equal(total[key], sum(part[key] for part in parts))


def test_site_check_finds_the_way_and_its_versions(federation: Loopback) -> None:
    found = json.loads(federation.foedus("site", "check", federation.sites["east"], "--json").out)
    rows = {row["check"]: row["status"] for row in found["rows"]}
    assert [rows[name] for name in ("coordinator", "clock", "foedus", "flwr", "disk")] == ["ok"] * 5


def test_code_in_a_bundle_is_never_run(federation: Loopback, tmp_path: Path) -> None:
    """Whoever holds the coordinator's token sends another app under our name: nobody unpacks it."""
    mark, home = tmp_path / "ran", Home.open(federation.home)
    folder = tmp_path / "foedus"
    control._bundle(folder, version=__version__)  # the files a bundle is made of
    text = (folder / "pyproject.toml").read_text()
    text = text.replace('"LICENSE"]', '"LICENSE", "clients/*.py", "server/*.py"]')
    (folder / "pyproject.toml").write_text(text)
    for name in ("clients", "server"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("")
        code = f"from pathlib import Path\nPath({str(mark)!r}).with_suffix('.{name}').touch()\n"
        (folder / name / "app.py").write_text(code)
    content = control.build_fab_from_disk(folder)
    asked = control.Control(home)
    request = StartRunRequest(
        fab=fab_to_proto(Fab(hashlib.sha256(content).hexdigest(), content, {})),
        override_config=user_config_to_proto({"run-folder": str(tmp_path)}),
    )
    number = int(asked._ask(asked._client.StartRun, request).run_id)
    _until(lambda: asked.runs()[number][0].startswith("finished"))
    assert not list(tmp_path.glob("ran*"))


def test_sites_killed_round_after_round_cost_no_byte_of_the_model(
    federation: Loopback, four_rounds: Path, undisturbed: RunFolder
) -> None:
    """A node, an executor, a supervisor; at last a node whose answer was made and looked at, and did not leave:
    what that site had used up of its secrets is made anew."""
    run = _started(federation, four_rounds)
    _after(run, 0)
    federation.kill("east", "node")
    _after(run, 1)
    federation.kill("north", "executor")
    _after(run, 2)
    federation.kill("south")
    federation.start("south")
    _after(run, 3)
    written = federation.sites["east"] / ".foedus/node/egress.jsonl"
    before = written.read_text().count('"train"')
    _until(lambda: written.read_text().count('"train"') > before, every_s=0.01)
    federation.kill("east", "node")
    federation.foedus("watch", run.run_id, "--home", federation.home)
    assert same_model(run.path, undisturbed)
    run.verify_log()


def test_a_coordinator_killed_part_by_part_costs_no_byte_of_the_model(
    federation: Loopback, four_rounds: Path, undisturbed: RunFolder
) -> None:
    """The server, the executor, the process of the run; each time the run is submitted again where it has to be."""
    run = _started(federation, four_rounds)
    _after(run, 0)
    federation.kill(COORDINATOR, "superlink")
    _after(run, 1)
    federation.kill(COORDINATOR, "executor")
    _after(run, 2)
    attempts = run.state()["attempts"]
    os.kill(int(run.state()["pid"]), signal.SIGKILL)
    _until(lambda: run.state()["attempts"] == attempts + 1)
    federation.foedus("watch", run.run_id, "--home", federation.home)
    assert same_model(run.path, undisturbed)
    run.verify_log()


def test_a_stopped_run_resumes_to_the_same_model(
    federation: Loopback, toy: Path, simulated: RunFolder
) -> None:
    run = _started(federation, toy / "study.toml")
    _until(lambda: run.latest() is not None)
    stopped = federation.foedus("stop", run.run_id, "--home", federation.home, "--json")
    assert json.loads(stopped.out) == {"run": str(run.path), "status": "stopped"}
    listed = json.loads(federation.foedus("list", "--home", federation.home, "--json").out)
    assert [row["status"] for row in listed if row["run"] == run.run_id] == ["stopped"]
    federation.foedus("resume", run.run_id, "--home", federation.home)
    assert run.state()["status"] == "finished"
    assert same_model(run.path, simulated)


def test_a_revoked_site_is_shut_out_and_says_why(federation: Loopback) -> None:
    revoked = federation.foedus("coordinator", "revoke", "south", "--home", federation.home, "--json")
    assert json.loads(revoked.out)["join_again"] == ["east", "north"]
    federation.wait_for(2)
    status = federation.sites["south"] / ".foedus/node/status.json"

    def refused() -> Any:
        return json.loads(status.read_text())["reason"]

    _until(lambda: refused() is not None)
    assert "its key is not approved yet, or was revoked" in refused()


def _started(federation: Loopback, study: Path) -> RunFolder:
    federation.wait_for(len(SITES))
    federation.foedus("run", study, "--home", federation.home, "--detach")
    return RunFolder.open(federation.run_folders()[-1])


def _after(run: RunFolder, number: int) -> None:
    """Wait until that round is durable: the next one is under way."""

    def durable() -> bool:
        latest = run.latest()
        return latest is not None and latest[0]["round"] >= number

    _until(durable, within_s=480.0)


def _until(true: Callable[[], bool], *, within_s: float = 240.0, every_s: float = 0.3) -> None:
    begun = time.monotonic()
    while not true():
        assert time.monotonic() < begun + within_s
        time.sleep(every_s)
