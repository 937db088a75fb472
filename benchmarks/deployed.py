"""What a round costs beyond its work in a real federation of two sites: our executor beside Flower's own.

    python benchmarks/deployed.py [--rounds 6] [--slope 2 8 16] [--large 2 8 16 [--door secure-only]] [--only-large]

One coordinator (TLS, node authentication, open door) on loopback and two sites with a table of 120 rows, whose
training takes milliseconds; so a round's seconds are overhead. First with `foedus site start`, then with
Flower's own `flower-supernode` in its default isolation, which starts a process for every message. With --slope
then as many sites as asked for, with what the server's process and the run's need of CPU and memory; with --large
the same for a study that tunes all of MiniLM-L6, so that every site sends an update of 90 MB; it is stopped after
its rounds.
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

OURS = ("--isolation", "--superexec-auth-secret-file", "--ssl-certfile", "--ssl-keyfile", "--ssl-ca-certfile")
"""What a node is told of its own executor; Flower's has none, and its processes speak without TLS."""


class Stock(Loopback):
    """Its sites run Flower's own SuperNode, which unpacks the bundle and starts a process a message."""

    def start(self, name: str) -> None:
        """As Flower's documentation has it."""
        if name == COORDINATOR:
            super().start(name)
            return
        site = Membership(self.sites[name])
        words = node.flags(site, port=free_port())
        for ours in OURS:
            at = words.index(ours)
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


def measured(
    kind: type[Loopback], rounds: int, *, n_sites: int = 2, large: bool = False, door: str = "open"
) -> dict[str, Any]:
    """Seconds of each round but the first; of the coordinator's processes, CPU seconds a round and peak memory, MiB."""
    names = [f"site-{i:02d}" for i in range(n_sites)]
    with tempfile.TemporaryDirectory(prefix="foedus-deployed-") as scratch:
        folder = Path(scratch)
        write = federations.write_large_sites if large else federations.write_sites
        write_study = federations.write_large_study if large else federations.write_study
        sites, study = write(folder / "sites", names), write_study(folder, rounds=rounds, door=door)
        with kind(folder / COORDINATOR, sites) as federation:
            federation.foedus("run", study, "--home", federation.home, "--detach")
            run = RunFolder.open(federation.run_folders()[-1])
            server, conducting = federation.pid(COORDINATOR, "superlink"), 0.0
            used: dict[int, float] = {}
            while run.state()["status"] == "running":
                pid = run.state().get("pid")
                conducting = max(conducting, peak_mib(pid))
                used.setdefault(len(run.rounds()), cpu_s(server) + cpu_s(pid))
                if large and len(run.rounds()) == rounds:  # the rest sends the model out and gets counts back
                    federation.foedus("stop", run.run_id, "--home", federation.home)
                time.sleep(0.1)
            memory = {"server_mib": peak_mib(server), "run_mib": conducting}
            if run.state()["status"] != ("stopped" if large else "finished"):
                raise SystemExit(f"the run is {run.state()}; {federation.tails()}")
            each = [round(line["seconds"], 2) for line in run.rounds()][1:]
            up = max(line["bytes_up"] for line in run.rounds()) // n_sites
            coordinator = (used[rounds] - used[1]) / (rounds - 1)
    return {
        "sites": n_sites,
        "door": door,
        "bytes_up_a_site": up,
        **memory,
        "rounds_s": each,
        "median_s": round(median(each), 2),
        "coordinator_cpu_s": round(coordinator, 2),
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


def cpu_s(pid: int | None) -> float:
    """CPU seconds a process has used; 0 once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def compared(rounds: int, slope: list[int]) -> dict[str, Any]:
    """Our executor and Flower's at two sites, then ours at as many as asked for."""
    found: dict[str, Any] = {
        name: measured(kind, rounds) for name, kind in (("foedus", Loopback), ("flower", Stock))
    }
    ratio = round(found["flower"]["median_s"] / found["foedus"]["median_s"], 2)
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    more = {"slope": [measured(Loopback, rounds, n_sites=n) for n in slope]} if slope else {}
    return {"machine": machine, **found, "flower_over_foedus": ratio, **more}


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--slope", type=int, nargs="*", default=[])
    parser.add_argument("--large", type=int, nargs="*", default=[])
    parser.add_argument("--door", default="open", help="of the large updates")
    parser.add_argument("--only-large", action="store_true", help="leave the figures beside it as they are")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/deployed.json")
    given = parser.parse_args()
    before = files.read_json(given.out) if given.out.exists() else {}
    result = before if given.only_large else {**before, **compared(given.rounds, given.slope)}
    for n in given.large:  # each is kept as soon as it is known: sixteen sites of this size fill a machine
        found = measured(Loopback, 2, n_sites=n, large=True, door=given.door)
        others = [row for row in result.get("large", []) if (row["sites"], row["door"]) != (n, given.door)]
        result["large"] = sorted([*others, found], key=lambda row: (row["door"], row["sites"]))
        files.write_json(given.out, result)
    files.write_json(given.out, result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
