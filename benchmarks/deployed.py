"""What a round costs beyond its work in a real federation of two sites: our executor beside Flower's own.

    python benchmarks/deployed.py [--rounds 6] [--slope 2 4 8] [--out benchmarks/results/deployed.json]

One coordinator (TLS, node authentication, open door) on loopback and two sites with a table of 120 rows, whose
training takes milliseconds; so a round's seconds are overhead. First with `foedus site start`, then with
Flower's own `flower-supernode` in its default isolation, which starts a process for every message. With --slope
then as many sites as asked for, and the peak memory of the server's process and of the run's.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import federations

from clients import node
from clients.membership import Membership
from clients.service import free_port
from foedus import files
from foedus.demos.loopback import COORDINATOR, Loopback
from foedus.runs import RunFolder
from foedus.supervise import QUIET, die_with_parent


class Stock(Loopback):
    """Its sites run Flower's own SuperNode, which unpacks the bundle and starts a process a message."""

    def start(self, name: str) -> None:
        """As Flower's documentation has it."""
        if name == COORDINATOR:
            super().start(name)
            return
        site = Membership(self.sites[name])
        words = node.flags(site, port=free_port())
        at = words.index("--isolation")
        del words[at : at + 2]
        at = words.index("--superexec-auth-secret-file")
        del words[at : at + 2]
        scripts = Path(sys.executable).parent
        self._running[name] = subprocess.Popen(
            [str(scripts / "flower-supernode"), *words],
            env={
                **os.environ,
                **QUIET,
                "PATH": f"{scripts}:{os.environ['PATH']}",
                "FLWR_HOME": str(site.node / "flwr"),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
            start_new_session=True,
        )


def measured(kind: type[Loopback], rounds: int, *, n_sites: int = 2) -> dict[str, Any]:
    """Seconds of each round but the first, and peak memory of the coordinator's processes, MiB."""
    with tempfile.TemporaryDirectory(prefix="foedus-deployed-") as scratch:
        folder = Path(scratch)
        sites = federations.write_sites(folder / "sites", [f"site-{i:02d}" for i in range(n_sites)])
        study = federations.write_study(folder, rounds=rounds, door="open")
        with kind(folder / COORDINATOR, sites) as federation:
            federation.foedus("run", study, "--home", federation.home, "--detach")
            run = RunFolder.open(federation.run_folders()[-1])
            server, conducting = federation.pid(COORDINATOR, "superlink"), 0.0
            while run.state()["status"] == "running":
                conducting = max(conducting, peak_mib(run.state().get("pid")))
                time.sleep(0.3)
            memory = {"server_mib": peak_mib(server), "run_mib": conducting}
            each = [round(line["seconds"], 2) for line in run.rounds()][1:]
    return {
        "sites": n_sites,
        **memory,
        "rounds_s": each,
        "median_s": round(median(each), 2),
        "load": round(os.getloadavg()[0], 1),
    }


def peak_mib(pid: int | None) -> float:
    """Largest resident memory of a process so far; 0 once it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return round(int(found[0].split()[1]) / 1024, 1) if found else 0.0


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--slope", type=int, nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/deployed.json")
    given = parser.parse_args()
    found = {name: measured(kind, given.rounds) for name, kind in (("foedus", Loopback), ("flower", Stock))}
    ratio = round(found["flower"]["median_s"] / found["foedus"]["median_s"], 2)
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    result = {"machine": machine, **found, "flower_over_foedus": ratio}
    if given.slope:
        result["slope"] = [measured(Loopback, given.rounds, n_sites=n) for n in given.slope]
    files.write_json(given.out, result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
