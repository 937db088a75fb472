"""SIGKILL to every process of a real federation, at every moment of a round: what it costs, and what it changes.

    python benchmarks/kills.py [--out benchmarks/results/kills.json] [--only "the run's process" unmasking]

A coordinator and three sites on loopback (TLS, node authentication, secure sums). "recovered_s" is the time from
the kill until the first site answers again, or the run has ended; "seconds" the whole run's; "same" says whether
head.safetensors has the same bytes; where it has not, "without" names the rounds that went on without a site.
"""

import argparse
import json
import os
import platform
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import federations

from foedus import files
from foedus.demos.loopback import COORDINATOR, Loopback
from foedus.runs import HEAD_FILE, RunFolder

SITES = ("east", "north", "south")
ROUNDS = 3


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/kills.json")
    parser.add_argument(
        "--only", nargs="+", help="cases whose name holds one of these; the others' figures stay"
    )
    given = parser.parse_args()
    rows = {row["case"]: row for row in files.read_json(given.out)["cases"]} if given.only else {}
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory(prefix="foedus-kills-") as scratch:
        folder = Path(scratch)
        sites = federations.write_sites(folder / "sites", SITES)
        study = federations.write_study(folder, rounds=ROUNDS, door="secure-only")
        with Loopback(folder / COORDINATOR, sites) as federation:
            for row in _rows(federation, study, given.only):  # each is kept as soon as it is known
                rows[row["case"]] = row
                known = [rows[name] for name in ("undisturbed", *cases(federation)) if name in rows]
                found = {"machine": machine, "rounds": ROUNDS, "sites": len(SITES), "cases": known}
                files.write_json(given.out, found)


def _rows(federation: Loopback, study: Path, only: list[str] | None) -> Any:
    run, whole, _ = _run(federation, study, lambda run: None)
    before = (run.path / HEAD_FILE).read_bytes()
    yield _said({"case": "undisturbed", "seconds": round(whole, 1), "load": _load()})
    for name, kill in cases(federation).items():
        if only and not any(part in name for part in only):
            continue
        run, took, recovered = _run(federation, study, kill)
        line = {
            "case": name,
            "finished": run.state()["status"] == "finished",
            "same": (run.path / HEAD_FILE).exists() and (run.path / HEAD_FILE).read_bytes() == before,
            "recovered_s": round(recovered, 1),
            "seconds": round(took, 1),
            "without": {
                str(r["round"]): sorted(x["site"] for x in r["rejected"])
                for r in run.rounds()
                if r["rejected"]
            },
            "attempts": run.state().get("attempts", 0),
            "load": _load(),
        }
        yield _said(line)


def _run(
    federation: Loopback, study: Path, disturb: Callable[[RunFolder], None]
) -> tuple[RunFolder, float, float]:
    """The run, its seconds, and those from the disturbance to the next answer of the first site."""
    federation.wait_for(len(SITES))
    begun = time.monotonic()
    federation.foedus("run", study, "--home", federation.home, "--detach")
    run = RunFolder.open(federation.run_folders()[-1])
    disturb(run)
    disturbed, before = time.monotonic(), len(federations.sent(federation.sites[SITES[0]]))
    federations.until(
        lambda: (
            len(federations.sent(federation.sites[SITES[0]])) > before or run.state()["status"] != "running"
        ),
        within_s=600,
    )
    recovered = time.monotonic() - disturbed
    federation.foedus("watch", run.run_id, "--home", federation.home, code=None)
    return run, time.monotonic() - begun, recovered


def cases(federation: Loopback) -> dict[str, Callable[[RunFolder], None]]:
    """Name to what waits for the moment and kills."""
    east = federation.sites["east"]

    def at(
        moment: Callable[[RunFolder, int], None], who: str, process: str | None
    ) -> Callable[[RunFolder], None]:
        def disturb(run: RunFolder) -> None:
            moment(run, len(federations.sent(east)))
            if process == "serverapp":
                os.kill(int(run.state()["pid"]), signal.SIGKILL)
                return
            federation.kill(who, process)
            if process is None:
                federation.start(who)

        return disturb

    def started(run: RunFolder, sent: int) -> None:
        federations.until(lambda: run.state().get("pid") is not None)

    def training(run: RunFolder, sent: int) -> None:
        federations.until(lambda: bool(run.rounds()))
        now = len(federations.sent(east))
        federations.until(lambda: "train" in [x["type"] for x in federations.sent(east, now - 2)] or _busy())

    def _busy() -> bool:
        parent = federation.pid("east", "executor")
        return bool(Path(f"/proc/{parent}/task/{parent}/children").read_text().split())

    def answered(run: RunFolder, sent: int) -> None:
        federations.until(lambda: bool(run.rounds()))
        now = len(federations.sent(east))
        federations.until(lambda: "train" in [x["type"] for x in federations.sent(east, now)])

    def unmasking(run: RunFolder, sent: int) -> None:
        answered(run, sent)
        now = len(federations.sent(east))
        federations.until(lambda: len(federations.sent(east)) > now)

    def kept(run: RunFolder, sent: int) -> None:
        first = run.latest()
        federations.until(lambda: run.latest() is not None and run.latest() != first)

    moments = {
        "before training": started,
        "a site at work": training,
        "after its answer": answered,
        "while unmasking": unmasking,
        "at a checkpoint": kept,
    }
    whom = {
        "a site's node": ("east", "node"),
        "a site's executor": ("east", "executor"),
        "the run's process": (COORDINATOR, "serverapp"),
        "the server": (COORDINATOR, "superlink"),
        "a site's supervisor": ("east", None),
        "the coordinator's supervisor": (COORDINATOR, None),
    }
    found = {
        f"{title}, {moment}": at(wait, *process)
        for title, process in whom.items()
        for moment, wait in moments.items()
    }
    found["the coordinator's executor, a site at work"] = at(training, COORDINATOR, "executor")
    return found


def _said(line: dict[str, Any]) -> dict[str, Any]:
    print(json.dumps(line), flush=True)
    return line


def _load() -> float:
    return round(os.getloadavg()[0], 1)


if __name__ == "__main__":
    main()
