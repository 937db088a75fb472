"""Rounds on a frozen backbone: Foedus' cache against the plain quickstart way, in one run.

    python benchmarks/rounds.py [--images 2000] [--size 64] [--rounds 10]

The plain way is what Flower's quickstart does: every round each client runs the whole frozen
network over its images again, then takes a gradient step per batch on a linear head.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from clients.app import app as client_app
from clients.training import Descent, train
from foedus.backbones import open_backbone
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.study import BackboneSection

N_SITES = 4
CLASSES = 10


def plain(images: list[np.ndarray], labels: np.ndarray, size: int, rounds: int) -> tuple[float, float]:
    """CPU seconds of `rounds` rounds that re-forward the whole network; one pass of it alone."""
    section = BackboneSection(source="bundled:efficientnet-lite0", tap="head", image_size=size)
    embedder = open_backbone(section, None)
    embedder.embed(images[:32])
    head = LinearHead.zeros(CLASSES, embedder.spec.dim)
    measured = min(rounds, 2)
    begun = time.process_time()
    for number in range(measured):
        features = embedder.embed(images)
        head, _ = train(
            head, Examples(features, labels), Descent(1, 32, 0.05), rng=np.random.default_rng(number)
        )
    spent = (time.process_time() - begun) / measured
    return spent * rounds, spent


def cached(images: list[np.ndarray], labels: np.ndarray, size: int, rounds: int) -> tuple[float, float]:
    """CPU seconds of one pass of the trunk and `rounds` rounds on its features; the pass alone."""
    section = BackboneSection(source="bundled:efficientnet-lite0", image_size=size)
    embedder = open_backbone(section, None)
    embedder.embed(images[:32])
    begun = time.process_time()
    features = embedder.embed(images).astype(np.float16).astype(np.float32)
    one_pass = time.process_time() - begun
    head = LinearHead.zeros(CLASSES, embedder.spec.dim)
    for number in range(rounds):
        head, _ = train(
            head, Examples(features, labels), Descent(1, 32, 0.05), rng=np.random.default_rng(number)
        )
    return time.process_time() - begun, one_pass


def empty_round(n_sites: int) -> float:
    """Milliseconds of a round on sites with next to no data: what the machinery itself costs."""
    from foedus.runs import RunFolder
    from server.app import _begin_or_resume
    from server.federation import Federation
    from server.local_grid import LocalGrid
    from server.rounds import train_once
    from server.strategies import make_strategy

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "study.toml").write_text(
            '[study]\nname="empty"\nclasses=["a","b"]\n[backbone]\nsource="tabular"\n[door]\nmode="open"\n'
            '[federation]\nmin_sites=1\n[[table.columns]]\nname="x"\nkind="number"\n'
        )
        sites = []
        for i in range(n_sites):
            site = folder / "sites" / f"s{i:04d}"
            site.mkdir(parents=True)
            rows = "".join(f"{(-1) ** r * r},{'ab'[r % 2]}\n" for r in range(12))
            (site / "d.csv").write_text("x,y\n" + rows)
            (site / "site.toml").write_text(
                f'[site]\nname="s{i:04d}"\n[data]\nkind="table"\npath="d.csv"\nlabel="y"\n[policy]\ndoors=["open"]\n'
            )
            sites.append(site)
        run = RunFolder.create(folder / "runs", folder / "study.toml", policy=None, engine="local", sites="")
        federation = Federation.enlist(LocalGrid(client_app, sites), run.study(), run.run_id)
        training = _begin_or_resume(federation, run)
        strategy = make_strategy(federation.study.federation)
        head = training.head
        times = []
        for number in range(1, 11):
            begun = time.perf_counter()
            head, _, _ = train_once(federation, strategy, head, number)
            times.append(time.perf_counter() - begun)
    return 1000 * float(np.median(times))


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=10)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (28, 28, 3), np.uint8) for _ in range(asked.images)]
    labels = rng.integers(0, CLASSES, asked.images)
    naive, _ = plain(images, labels, asked.size, asked.rounds)
    ours, one_pass = cached(images, labels, asked.size, asked.rounds)
    found = {
        "images": asked.images,
        "size": asked.size,
        "rounds": asked.rounds,
        "plain_cpu_s": round(naive, 2),
        "cached_cpu_s": round(ours, 2),
        "speedup": round(naive / ours, 1),
        "study_over_one_pass": round(ours / one_pass, 2),
        "empty_round_ms": {n: round(empty_round(n), 1) for n in (4, 100)},
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
