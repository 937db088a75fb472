"""Seconds and memory of a round as the number of sites grows, and a line through them.

    python benchmarks/scale.py [--out benchmarks/results/scale.json] [--quick]

"load" is the machine's five-minute load average after a measurement: above its number of cores,
seconds on the wall clock tell of its neighbours, and CPU seconds of Foedus.

Each measurement is a process of its own: small tables, a small head, so that what is measured is the
machinery. The first round is left out; seconds are the median of the others, on the wall clock and of CPU.
Memory is the peak of the process, and of it what came after the sites' folders were written.
"""

import argparse
import json
import logging
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

ROWS = 40
ENGINES = {  # engine and door: numbers of sites
    ("local", "open"): (4, 16, 64, 250, 1000),
    ("local", "secure-only"): (4, 16, 64, 100, 128),
    ("ray", "open"): (4, 64, 250, 1000),
}
SLOPES = ("round_s", "round_cpu_s", "peak_mib")
QUICK = {("local", "open"): (4, 16), ("local", "secure-only"): (4,)}
STUDY = """
[study]
name = "scale"
classes = ["a", "b"]
[backbone]
source = "tabular"
[door]
mode = "{door}"
[federation]
min_sites = 1
[[table.columns]]
name = "x"
kind = "number"
"""
SITE = """
[site]
name = "{name}"
[data]
kind = "table"
path = "d.csv"
label = "y"
[policy]
doors = ["{door}"]
"""


def write_sites(folder: Path, n: int, *, door: str) -> list[Path]:
    """Folders of `n` sites with a few rows each."""
    rng = np.random.default_rng(0)
    sites = []
    for i in range(n):
        site = folder / "sites" / f"s{i:05d}"
        site.mkdir(parents=True)
        values = rng.normal(size=ROWS)
        rows = "".join(f"{x:.4f},{'ab'[int(x + rng.normal() > 0)]}\n" for x in values)
        (site / "d.csv").write_text("x,y\n" + rows)
        (site / "site.toml").write_text(SITE.format(name=site.name, door=door))
        sites.append(site)
    return sites


@contextmanager
def grid_of(engine: str, sites: list[Path]) -> Iterator[Any]:
    """A grid of these sites."""
    from clients.app import SITES_VARIABLE
    from clients.app import app as client_app
    from server.local_grid import LocalGrid
    from server.ray_engine import ray_grid

    if engine == "local":
        yield LocalGrid(client_app, sites)
        return
    with ray_grid(client_app, len(sites), variables={SITES_VARIABLE: str(sites[0].parent)}) as grid:
        yield grid


def measure(engine: str, door: str, n: int, *, rounds: int) -> dict[str, Any]:
    """One measurement, in this process."""
    from foedus.runs import RunFolder
    from foedus.simulation import enrol
    from server.federation import Federation
    from server.rounds import train_once
    from server.start import begin
    from server.strategies import make_strategy

    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "study.toml").write_text(STUDY.format(door=door))
        sites = write_sites(folder, n, door=door)
        run = RunFolder.create(folder / "runs", folder / "study.toml", policy=None, engine=engine, sites="")
        if run.study().door.masked:
            enrol(sites, run.study())
        before = _peak_mib()
        begun = time.perf_counter()
        with grid_of(engine, sites) as grid:
            up = time.perf_counter()
            federation = Federation.enlist(grid, run.study(), run.run_id)
            training = begin(federation)
            started = time.perf_counter()
            strategy = make_strategy(federation.study.federation)
            model, wall, cpu = training.model, [], []
            for number in range(1, rounds + 1):
                at, used = time.perf_counter(), time.process_time()
                model, _, gathered = train_once(federation, strategy, model, number)
                wall.append(time.perf_counter() - at)
                cpu.append(time.process_time() - used)
                assert len(gathered.answered) == n
    return {
        "engine": engine,
        "door": door,
        "sites": n,
        "engine_start_s": round(up - begun, 2),
        "enlist_and_start_s": round(started - up, 3),
        "round_s": round(float(np.median(wall[1:])), 4),
        "round_cpu_s": round(float(np.median(cpu[1:])), 4),
        "bytes_up_a_site": round(gathered.bytes_up / n),
        "peak_mib": round(_peak_mib(), 1),
        "peak_of_rounds_mib": round(_peak_mib() - before, 1),
    }


def slope(found: list[dict[str, Any]], key: str) -> dict[str, float]:
    """Least squares through the points: what one more site costs, and what none would."""
    a, b = np.polyfit([row["sites"] for row in found], [row[key] for row in found], 1)
    return {"per_site": float(f"{a:.4g}"), "at_zero": float(f"{b:.4g}")}


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(engine: str, door: str, n: int, *, rounds: int) -> dict[str, Any]:
    """One measurement, in a process of its own; why, if it failed."""
    command = [sys.executable, __file__, "--rounds", str(rounds), "--one", engine, door, str(n)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return {"engine": engine, "door": door, "sites": n, "failed": done.stderr.strip().splitlines()[-1]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def slopes(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The line through each engine and door that was measured twice or more."""
    found = {}
    for engine, door in ENGINES:
        series = [
            row for row in rows if (row["engine"], row["door"]) == (engine, door) and "failed" not in row
        ]
        if len(series) > 1:
            found[f"{engine} {door}"] = {key: slope(series, key) for key in SLOPES}
    return found


def main() -> None:
    """Measure what --out does not have yet; it is written after every measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--one", nargs=3, metavar=("ENGINE", "DOOR", "SITES"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        engine, door, n = asked.one
        print(json.dumps(measure(engine, door, int(n), rounds=asked.rounds)))
        return
    rows = json.loads(asked.out.read_text())["measured"] if asked.out and asked.out.exists() else []
    known = {(row["engine"], row["door"], row["sites"]) for row in rows}
    machine = {"cores": os.cpu_count(), "python": platform.python_version()}
    for (engine, door), numbers in (QUICK if asked.quick else ENGINES).items():
        for n in numbers:
            if (engine, door, n) not in known:
                rows.append(
                    {**run(engine, door, n, rounds=asked.rounds), "load": round(os.getloadavg()[1], 1)}
                )
                print(json.dumps(rows[-1]), file=sys.stderr)
            if asked.out:
                result = {"machine": machine, "rows_a_site": ROWS, "measured": rows, "slopes": slopes(rows)}
                asked.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({"measured": rows, "slopes": slopes(rows)}, indent=1))


if __name__ == "__main__":
    main()
