"""A federation whose parties share no network but one link each to the coordinator; one link is cut and restored."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from foedus import simulation
from foedus.demos.loopback import COORDINATOR, Loopback
from foedus.runs import HEAD_FILE, RunFolder

SITES = ("east", "north", "south")
HOST = "10.77.0.1"
CUT_S = 15.0


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def space(party: str) -> str:
    return f"foedus-{party}"


@pytest.fixture
def links() -> Iterator[None]:
    """A namespace a party; a bridge at the coordinator's end."""
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need the program ip")
    try:
        ip("netns", "add", space(COORDINATOR))
    except subprocess.CalledProcessError:
        pytest.skip("this machine does not allow network namespaces")
    home = space(COORDINATOR)
    try:
        ip("-n", home, "link", "set", "lo", "up")
        ip("-n", home, "link", "add", "sites", "type", "bridge")
        ip("-n", home, "addr", "add", f"{HOST}/24", "dev", "sites")
        ip("-n", home, "link", "set", "sites", "up")
        for number, name in enumerate(SITES):
            ip("netns", "add", space(name))
            ip("-n", space(name), "link", "set", "lo", "up")
            ip("-n", home, "link", "add", name, "type", "veth", "peer", "name", "out", "netns", space(name))
            ip("-n", home, "link", "set", name, "master", "sites", "up")
            ip("-n", space(name), "addr", "add", f"10.77.0.{number + 2}/24", "dev", "out")
            ip("-n", space(name), "link", "set", "out", "up")
        yield
    finally:
        for party in (COORDINATOR, *SITES):
            subprocess.run(["ip", "netns", "delete", space(party)], check=False, capture_output=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("links")
def test_a_link_is_cut_and_restored(deployed_toy: Path) -> None:
    simulated, _ = simulation.simulate(
        deployed_toy / "study.toml", deployed_toy / "sites", runs=deployed_toy / "runs"
    )
    federation = Loopback(
        deployed_toy / COORDINATOR,
        {name: deployed_toy / "sites" / name for name in SITES},
        host=HOST,
        within={party: ("ip", "netns", "exec", space(party)) for party in (COORDINATOR, *SITES)},
    )
    with federation:
        federation.foedus("run", deployed_toy / "study.toml", "--home", federation.home, "--detach")
        run = RunFolder.open(federation.run_folders()[-1])
        begun = time.monotonic()
        while run.latest() is None:
            assert time.monotonic() < begun + 240
            time.sleep(0.2)
        ip("-n", space("east"), "link", "set", "out", "down")
        time.sleep(CUT_S)
        ip("-n", space("east"), "link", "set", "out", "up")
        federation.foedus("watch", run.run_id, "--home", federation.home)
        without = [line["rejected"] for line in run.rounds() if line["rejected"]]
        same = (run.path / HEAD_FILE).read_bytes() == (simulated.path / HEAD_FILE).read_bytes()
        assert same or without, "a model may differ only where a round names the site it went on without"
        run.verify_log()
