"""Tuning a backbone against a head alone, and what the cache at the cut saves.

    python benchmarks/tuning.py texts [--seeds 2]             Reuters R8, four banks, 400 documents
    python benchmarks/tuning.py images --fashion FOLDER       Fashion-MNIST, four shops, 4,000 images
    python benchmarks/tuning.py cut                           an epoch from the cut against the whole network

`texts` needs `foedus demo newswire --fetch` once; `images` the four .gz files of Fashion-MNIST, which
Debian ships as dataset-fashion-mnist. The best round is chosen by federated validation loss, never by
test figures. Results go to benchmarks/results/tuning-*.json.
"""

import argparse
import gzip
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import timm
import torch

from clients.finetune import Lesson, finetune
from clients.training import Descent
from foedus import demos, simulation
from foedus.backbones import Standardiser
from foedus.backbones.tunable import Tunable, tensors_of
from foedus.demos import newswire
from foedus.demos.partition import dirichlet_counts, divide
from foedus.demos.writing import write_csv, write_site
from foedus.head import LinearHead
from foedus.model import Model
from foedus.study import parse_study

RESULTS = Path(__file__).parent / "results"
SITES = ("north", "south", "east", "west")
BASE = """
[study]
name = "tuning"
classes = {classes}
seed = {seed}
[backbone]
source = "{source}"
tune = "{tune}"
{backbone}[federation]
start = "{start}"
rounds = {rounds}
local_epochs = {local_epochs}
batch_size = {batch_size}
lr = {lr}
patience = 3
[door]
mode = "open"
"""
TEXTS = {
    "head": {"tune": "head", "rounds": 20, "batch_size": 64, "lr": 0.05},
    "lora": {
        "tune": "lora",
        "start": "zero",
        "rounds": 10,
        "local_epochs": 2,
        "batch_size": 16,
        "lr": 0.02,
        "tuning": 'lr = 1e-3\nprecision = "bfloat16"\n',
    },
}
"""The second was chosen on documents of R8's training file alone (docs/tuning.md)."""
IMAGES = {
    "head": {"tune": "head", "rounds": 20, "batch_size": 64, "lr": 0.02},
    "last-blocks": {
        "tune": "last-blocks",
        "rounds": 12,
        "batch_size": 32,
        "lr": 0.01,
        "tuning": "lr = 3e-4\n",
    },
    "lora": {"tune": "lora", "rounds": 12, "batch_size": 32, "lr": 0.01, "tuning": "lr = 2e-3\nblocks = 2\n"},
}


def machine() -> dict[str, Any]:
    """Where the figures are from."""
    return {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }


def study(classes: list[str], source: str, seed: int, *, tuning: str = "", **settings: Any) -> str:
    """Text of a study.toml."""
    settings = {"start": "ridge", "backbone": "", "local_epochs": 1, **settings}
    text = BASE.format(classes=json.dumps(classes), source=source, seed=seed, **settings)
    return text + (f"[tuning]\n{tuning}" if tuning else "")


def run(folder: Path, text: str) -> dict[str, Any]:
    """One study over the sites in `folder`: its figures, seconds and bytes."""
    (folder / "study.toml").write_text(text)
    begin = time.process_time()
    found, outcome = simulation.simulate(
        folder / "study.toml", folder / "sites", runs=folder / "runs", reference=False
    )
    models = outcome.results["models"]
    return {
        "models": {
            name: {key: row[key] for key in ("accuracy", "macro_f1", "log_loss")}
            for name, row in models.items()
            if row is not None
        },
        "best_round": outcome.results["best_round"],
        "cpu_s": round(time.process_time() - begin, 1),
        "bytes_up_a_round": found.rounds()[-1]["bytes_up"],
        "validation_loss": [line["validation_loss"] for line in found.rounds()],
    }


def write_texts(folder: Path, seed: int) -> None:
    """400 training, about 100 validation and 1,000 test documents over four banks, Dirichlet 0.3."""
    cache = demos.default_cache() / "newswire"
    package = newswire.PACKAGE
    train = newswire.read(package.path(cache, newswire._TRAIN), besides=set())
    test = newswire.read(
        package.path(cache, newswire._TEST), besides={t for ts in train.values() for t in ts}
    )
    drawn = newswire.sample(train, 500, at_least=15, seed=seed)
    tests = newswire.sample(test, 1000, at_least=10, seed=seed + 1)
    sizes = [len(drawn[topic]) for topic in newswire.TOPICS]
    shares, counts = dirichlet_counts(sizes, len(SITES), alpha=0.3, min_per_site=50, seed=seed)
    rows: dict[str, list[tuple[str, str, str]]] = {name: [] for name in SITES}
    for topic, share, count in zip(newswire.TOPICS, shares, counts, strict=True):
        parts = np.split(np.array(drawn[topic], dtype=object), np.cumsum(count)[:-1])
        held = np.split(
            np.array(tests[topic], dtype=object), np.cumsum(divide(len(tests[topic]), share))[:-1]
        )
        for name, own, own_test in zip(SITES, parts, held, strict=True):
            n = round(0.2 * len(own))
            rows[name] += [(text, topic, "validation") for text in own[:n]]
            rows[name] += [(text, topic, "train") for text in own[n:]]
            rows[name] += [(text, topic, "test") for text in own_test]
    data = {"kind": "text", "path": "data.csv", "label": "topic", "text": "text"}
    for name in SITES:
        site = write_site(folder / "sites", name, data=data, split={"column": "split"})
        write_csv(site / "data.csv", ("text", "topic", "split"), rows[name])


def write_images(folder: Path, fashion: Path, seed: int) -> None:
    """4,000 training (a tenth validates) and 1,000 test images over four sites, Dirichlet 0.3, as .npz."""
    rng = np.random.default_rng(seed)
    parts: dict[str, dict[str, list[np.ndarray]]] = {name: {} for name in SITES}
    shares = None
    for kind, name, n in (("train", "train", 400), ("test", "t10k", 100)):
        pixels, labels = (
            _idx(fashion / f"{name}-images-idx3-ubyte.gz", 16),
            _idx(fashion / f"{name}-labels-idx1-ubyte.gz", 8),
        )
        pixels = pixels.reshape(-1, 28, 28)
        if shares is None:
            shares, _ = dirichlet_counts([n] * 10, len(SITES), alpha=0.3, min_per_site=200, seed=seed)
        for label in range(10):
            rows = rng.permutation(np.flatnonzero(labels == label))[:n]
            cuts = np.cumsum(divide(n, shares[label]))[:-1]
            for site, own in zip(SITES, np.split(rows, cuts), strict=True):
                held = round(0.1 * len(own)) if kind == "train" else 0
                for key, some in ((kind, own[held:]), ("val", own[:held])):
                    parts[site].setdefault(f"{key}_images", []).append(pixels[some])
                    parts[site].setdefault(f"{key}_labels", []).append(labels[some])
    for name in SITES:
        site = write_site(folder / "sites", name, data={"kind": "images", "path": "data.npz"}, split={})
        np.savez(site / "data.npz", **{key: np.concatenate(found) for key, found in parts[name].items()})


def _idx(path: Path, header: int) -> np.ndarray:
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


def compare(kind: str, seeds: int, fashion: Path | None) -> None:
    """Every way to tune on the same sites, over some seeds."""
    ways = TEXTS if kind == "texts" else IMAGES
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            if kind == "texts":
                write_texts(folder, seed)
                classes, source, more = list(newswire.TOPICS), "bundled:minilm-l6", "max_tokens = 64\n"
            else:
                assert fashion is not None
                write_images(folder, fashion, seed)
                classes, source, more = [str(n) for n in range(10)], "bundled:efficientnet-lite0", ""
            for name, settings in ways.items():
                line = run(folder, study(classes, source, seed, backbone=more, **settings))
                found[name].append(line)
                shown = {m: f"{r['accuracy']:.4f}/{r['macro_f1']:.4f}" for m, r in line["models"].items()}
                print(
                    f"seed {seed} {name}: accuracy/F1 {shown}, round {line['best_round']}, {line['cpu_s']} CPU-s",
                    flush=True,
                )
                result = {**machine(), "ways": found}
                (RESULTS / f"tuning-{kind}.json").write_text(json.dumps(result, indent=1) + "\n")


CUTS = (
    ("bundled:efficientnet-lite0", 64, None),
    ("bundled:efficientnet-lite0", 224, "blocks.4@2x2"),
    ("bundled:efficientnet-lite0", 224, "head"),
)


def cut(n: int) -> None:
    """One epoch of the last block: from the cache at the cut, from cached pixels, and the plain way."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (28, 28, 3), dtype=np.uint8) for _ in range(n)]
    labels = rng.integers(0, 10, n)
    lines = []
    for source, side, tap in CUTS:
        seconds = {}
        for name, tuning in (("cut", ""), ("pixels", "[tuning]\naugment = 'crop'\n")):
            text = study([str(c) for c in range(10)], source, 0, **{**IMAGES["head"], "tune": "last-blocks"})
            where = f"image_size = {side}\n" + (f'tap = "{tap}"\n' if tap else "")
            asked = parse_study(text.replace("[federation]", f"{where}{tuning}[federation]"))
            tunable = Tunable(asked)
            parts = [tunable.path.below(images[i : i + 32])[0] for i in range(0, len(images), 32)]
            kept = np.concatenate(parts)
            seconds[name] = _epoch(tunable, asked, kept, labels)
            seconds[f"{name}_bare"] = _bare(tunable, kept, labels)
        seconds["plain"] = _plain(images, labels, side)
        line = {"image_size": side, "tap": tap or "blocks.4@2x2", "images": n, **seconds}
        lines.append(line)
        print(
            f"{side} px, tap {line['tap']}: an epoch {seconds['cut']:.3f} CPU-s from the cut, "
            f"{seconds['pixels']:.2f} from pixels ({seconds['pixels'] / seconds['cut']:.1f}x), "
            f"{seconds['plain']:.2f} plain "
            f"({seconds['plain'] / seconds['cut']:.1f}x); forward and backward pass alone "
            f"{seconds['cut_bare']:.3f} and {seconds['pixels_bare']:.2f} "
            f"({seconds['pixels_bare'] / seconds['cut_bare']:.1f}x)",
            flush=True,
        )
    (RESULTS / "tuning-cut.json").write_text(json.dumps({**machine(), "epochs": lines}, indent=1) + "\n")


def _epoch(tunable: Tunable, asked: Any, kept: np.ndarray, labels: np.ndarray) -> float:
    """Least CPU-seconds of an epoch as a site runs it."""
    dim = tunable.spec.dim
    lesson = Lesson(
        tunable,
        (kept,),
        labels,
        Standardiser(np.zeros(dim), np.ones(dim)),
        Descent(1, 32, 0.01),
        asked.tuning.model_copy(update={"augment": "none"}),
    )
    start = Model(LinearHead.zeros(10, dim), tunable.initial())
    return _least(lambda: finetune(lesson, start, rng=np.random.default_rng(0)))


def _bare(tunable: Tunable, kept: np.ndarray, labels: np.ndarray) -> float:
    """The floor of `_epoch`: forward and backward pass through what lies above the cut, and nothing else."""
    batches = [
        (tensors_of((kept[i : i + 32],)), torch.from_numpy(labels[i : i + 32]))
        for i in range(0, len(kept), 32)
    ]
    head = torch.zeros(10, tunable.spec.dim, requires_grad=True)

    def passes() -> None:
        for inputs, classes in batches:
            loss = torch.nn.functional.cross_entropy(tunable.path.above(inputs) @ head.T, classes)
            torch.autograd.grad(loss, [head, *tunable.tensors.values()])

    return _least(passes)


def _least(work: Callable[[], Any], repeats: int = 5) -> float:
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return min(times)


def _plain(images: list[np.ndarray], labels: np.ndarray, side: int) -> float:
    """The quickstart way: decode, resize, the whole network, a step on its last block and classifier."""
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=10).eval()
    network.requires_grad_(False)
    for part in (network.blocks[-1], network.conv_head, network.bn2, network.classifier):
        part.requires_grad_(True)
    learning = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-3)

    def epoch() -> None:
        for begin in range(0, len(images), 32):
            batch = (
                torch.from_numpy(np.stack(images[begin : begin + 32])).permute(0, 3, 1, 2).float() / 127.5 - 1
            )
            batch = torch.nn.functional.interpolate(batch, (side, side), mode="bicubic")
            loss = torch.nn.functional.cross_entropy(
                network(batch), torch.from_numpy(labels[begin : begin + 32])
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return _least(epoch)


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("texts", "images", "cut"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--fashion", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    RESULTS.mkdir(exist_ok=True)
    if given.part == "cut":
        cut(given.images)
    else:
        compare(given.part, given.seeds, given.fashion)


if __name__ == "__main__":
    main()
