"""What a round costs beyond its work in a real federation of two sites: our executor beside Flower's own.

    python benchmarks/deployed.py [--rounds 6] [--out benchmarks/results/deployed.json]

One coordinator (TLS, node authentication, open door) on loopback and two sites with a table of 120 rows, whose
training takes milliseconds; so a round's seconds are overhead. First with `foedus site start`, then with
Flower's own `flower-supernode` in its default isolation, which starts a process for every message.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
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

SITES = ("east", "north")


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


def measured(kind: type[Loopback], rounds: int) -> dict[str, Any]:
    """Seconds of each round but the first, and of signing in."""
    with tempfile.TemporaryDirectory(prefix="foedus-deployed-") as scratch:
        folder = Path(scratch)
        sites = federations.write_sites(folder / "sites", SITES)
        study = federations.write_study(folder, rounds=rounds, door="open")
        with kind(folder / COORDINATOR, sites) as federation:
            federation.foedus("run", study, "--home", federation.home)
            run = RunFolder.open(federation.run_folders()[-1])
            each = [round(line["seconds"], 2) for line in run.rounds()][1:]
    return {"rounds_s": each, "median_s": round(median(each), 2), "load": round(os.getloadavg()[0], 1)}


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/deployed.json")
    given = parser.parse_args()
    found = {name: measured(kind, given.rounds) for name, kind in (("foedus", Loopback), ("flower", Stock))}
    ratio = round(found["flower"]["median_s"] / found["foedus"]["median_s"], 2)
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    result = {"machine": machine, "sites": len(SITES), **found, "flower_over_foedus": ratio}
    files.write_json(given.out, result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
