"""Few-shot over sites: one round of ridge sums against ten of FedAvg, and what a start is worth at a new site.

    python benchmarks/fewshot_sites.py --cache /tmp/features [--splits 4] [--out FILE]

Features of fewshot_heads.py, from its cache (run it first). `one round`: four sites with 1 to 3 cases of each of
ten classes. `new sites`: six sites of 200 MNIST-5k images of five classes each, drawn at random; four train
together for 30 rounds from zero, two never take part; `another source` trains on four sites of all MNIST-5k classes
and meets scikit-learn's digits, which other scanners and hands made. The learning rate of every method is the one of
three that is best on half of the training sites' own rows, after adaptation. Same functions as a study's sites run.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from clients.training import Descent, train
from fewshot.episodes import EpisodeSampler
from fewshot.heads import RidgeHead
from fewshot.maml.shared import Outer, SharedHead, learn_start
from fewshot.maml.tasks import Inner
from fewshot.start_sums import WAYS, StartResult, StartSums, Way
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.statistic import Arrays, add

ROUNDS, RATES, SHOTS, CLASSES = 30, (0.05, 0.2, 1.0), (1, 5), 10
INNER = Inner(5, 0.05)
Trainer = Callable[[LinearHead, Examples, int, float], LinearHead]


def fedavg(head: LinearHead, site: Examples, seed: int, lr: float) -> LinearHead:
    """One local epoch."""
    return train(head, site, Descent(1, 64, lr), rng=np.random.default_rng(seed))[0]


def episodic(*, steps: int, reptile: bool = False, first_order: bool = False) -> Trainer:
    """A site's part of a round of episodes."""

    def run(head: LinearHead, site: Examples, seed: int, lr: float) -> LinearHead:
        start = SharedHead(head.weight, head.bias, replace(INNER, first_order=first_order))
        sampler = EpisodeSampler(site.labels, 5, 5, 10, random_state=seed)
        rates = {"weight": (lr, 0.0), "bias": (lr, 0.0)}
        learn_start(start, (site.features,), sampler, Outer(steps, 16, reptile, rates))
        return LinearHead(*(p.detach().numpy().astype(np.float32) for p in (start.weight, start.bias)))

    return run


METHODS: dict[str, Trainer] = {
    "FedAvg": fedavg,
    "FedMeta": episodic(steps=1),
    "Per-FedAvg": episodic(steps=5),
    "Per-FedAvg, first order": episodic(steps=5, first_order=True),
    "Reptile": episodic(steps=5, reptile=True),
}


@dataclass(frozen=True)
class Split:
    """Standardised examples of the sites that train, and of those that never take part."""

    training: list[Examples]
    new: list[Examples]


def standardised(parts: list[tuple[np.ndarray, np.ndarray]], n_training: int) -> Split:
    """By the training sites' mean and deviation."""
    known = np.concatenate([x for x, _ in parts[:n_training]])
    mean, scale = known.mean(0), np.maximum(known.std(0), 1e-6)
    found = [Examples(((x - mean) / scale).astype(np.float32), y.astype(np.int64)) for x, y in parts]
    return Split(found[:n_training], found[n_training:])


def five_classes_each(x: np.ndarray, y: np.ndarray, seed: int) -> Split:
    """Six sites without a common image; the classes of each at random."""
    rng = np.random.default_rng(seed)
    left = {c: list(rng.permutation(np.flatnonzero(y == c))) for c in range(CLASSES)}
    parts = []
    for _ in range(6):
        rows = np.concatenate([[left[c].pop() for _ in range(40)] for c in rng.permutation(CLASSES)[:5]])
        parts.append((x[rows], y[rows]))
    return standardised(parts, 4)


def another_source(x: np.ndarray, y: np.ndarray, other: tuple[np.ndarray, np.ndarray], seed: int) -> Split:
    """Four sites of 400 images each; the new one is all of another data set."""
    rows = np.random.default_rng(seed).permutation(len(y))[:1600].reshape(4, 400)
    return standardised([*((x[r], y[r]) for r in rows), other], 4)


def learnt(method: Trainer, sites: list[Examples], lr: float, seed: int) -> LinearHead:
    """The shared head after the rounds."""
    head = LinearHead.zeros(CLASSES, sites[0].features.shape[1])
    shares = np.array([len(site) for site in sites]) / sum(len(site) for site in sites)
    for number in range(ROUNDS):
        heads = [method(head, site, 1000 * seed + 10 * number + i, lr) for i, site in enumerate(sites)]
        weight = sum(s * h.weight for s, h in zip(shares, heads, strict=True))
        bias = sum(s * h.bias for s, h in zip(shares, heads, strict=True))
        head = LinearHead(np.asarray(weight, np.float32), np.asarray(bias, np.float32))
    return head


def chosen(method: Trainer, sites: list[Examples], seed: int) -> LinearHead:
    """With the learning rate that is best, after adaptation, on the half of each site's rows it did not see."""
    order = [np.argsort(site.labels, kind="stable") for site in sites]  # every other one of each class
    seen = [s.take(o[::2]) for s, o in zip(sites, order, strict=True)]
    held = [s.take(o[1::2]) for s, o in zip(sites, order, strict=True)]

    def loss(lr: float) -> float:
        return measured(learnt(method, seen, lr, seed), held, "adapted", n_shot=3, episodes=30).nll

    return learnt(method, sites, min(RATES, key=loss), seed)


def measured(head: LinearHead, sites: list[Examples], way: Way, *, n_shot: int, episodes: int) -> StartResult:
    """Over episodes of all these sites."""
    n_query = 15 if n_shot != 3 else 5
    sums = StartSums(
        head, way, n_shot=n_shot, n_query=n_query, episodes=episodes, n_steps=INNER.n_steps, inner_lr=INNER.lr
    )
    return sums.read(total([sums.measure(site) for site in sites]))


def total(parts: list[Arrays]) -> Arrays:
    """The sum of contributions."""
    found = parts[0]
    for part in parts[1:]:
        found = add(found, part)
    return found


def new_sites(splits: list[Split], episodes: int, methods: dict[str, Trainer]) -> dict[str, Any]:
    """Accuracy in per cent, half its 95 % interval over episodes, and the range over splits."""
    rows: dict[str, list[list[StartResult]]] = {}
    for seed, split in enumerate(splits):
        heads = {name: chosen(method, split.training, seed) for name, method in methods.items()}
        for name, head in heads.items():
            for way in WAYS:
                if (way == "stepped" and name == "FedAvg") or (way == "local" and name != "FedAvg"):
                    continue
                label = "local only" if way == "local" else f"{name}, {way}"
                found = [measured(head, split.new, way, n_shot=n, episodes=episodes) for n in SHOTS]
                rows.setdefault(label, []).append(found)
    return {
        label: {f"{n} shots": pooled([f[i] for f in found]) for i, n in enumerate(SHOTS)}
        for label, found in rows.items()
    }


def pooled(found: list[StartResult]) -> dict[str, float]:
    """Over splits: the mean, the interval over all episodes, the lowest and highest split."""
    accuracies = [each.accuracy for each in found]
    half = np.sqrt(sum(each.ci95**2 for each in found)) / len(found)
    return {
        "accuracy": round(100 * float(np.mean(accuracies)), 2),
        "ci95": round(100 * float(half), 2),
        "lowest split": round(100 * min(accuracies), 1),
        "highest split": round(100 * max(accuracies), 1),
    }


def one_round(x: np.ndarray, y: np.ndarray, splits: int) -> dict[str, Any]:
    """Accuracy on all other rows: a site alone, one round of ridge sums, FedAvg after 1, 10 and 50 rounds."""
    found: dict[str, Any] = {}
    for cases in (1, 2, 3):
        runs: dict[str, list[float]] = {}
        for seed in range(splits):
            rng = np.random.default_rng(seed)
            drawn = np.stack([rng.permutation(np.flatnonzero(y == c))[: 4 * cases] for c in range(CLASSES)])
            rows = [drawn[:, s * cases : (s + 1) * cases].ravel() for s in range(4)]
            rest = np.setdiff1d(np.arange(len(y)), drawn)
            split = standardised([*((x[r], y[r]) for r in rows), (x[rest], y[rest])], 4)
            [test] = split.new
            for name, value in at_few_cases(split.training, test, seed).items():
                runs.setdefault(name, []).append(100 * value)
        gap = np.subtract(runs["federated ridge, 1 round"], runs["FedAvg, 10 rounds"])
        found[f"{cases} cases"] = {
            **{name: round(float(np.mean(values)), 1) for name, values in runs.items()},
            "ridge less FedAvg of 10 rounds": round(float(gap.mean()), 2),
            "ci95": round(float(1.96 * gap.std(ddof=1) / np.sqrt(len(gap))), 2),
        }
    return found


def at_few_cases(sites: list[Examples], test: Examples, seed: int) -> dict[str, float]:
    """Accuracies of every way to train."""
    everyone = list(range(CLASSES))
    alone = [RidgeHead().fit(s.features, s.labels).score(test.features, test.labels) for s in sites]
    sums = [RidgeHead().fit(s.features, s.labels).statistics(classes=everyone) for s in sites]
    ridge = RidgeHead.from_statistics(total(sums), classes=everyone)
    ridge.tuned(total([ridge.leave_one_out(s.features, s.labels) for s in sites]))
    found = {
        "local ridge": float(np.mean(alone)),
        "federated ridge, 1 round": float(ridge.score(test.features, test.labels)),
    }
    head = LinearHead.zeros(CLASSES, test.features.shape[1])
    for number in range(1, 51):
        heads = [fedavg(head, s, 1000 * seed + number, 0.05) for s in sites]
        head = LinearHead(
            np.mean([h.weight for h in heads], axis=0), np.mean([h.bias for h in heads], axis=0)
        )
        if number in (1, 10, 50):
            right = head.scores(test.features).argmax(1) == test.labels
            found[f"FedAvg, {number} round{'s' * (number > 1)}"] = float(right.mean())
    return found


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--splits", type=int, default=4)
    parser.add_argument("--episodes", type=int, default=300, help="at each new site of each split")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--only", choices=("one round", "new sites"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/fewshot-sites.json")
    asked = parser.parse_args()
    data = {
        path.stem: (lambda found: (found["x"], found["y"]))(np.load(path))
        for path in sorted(asked.cache.glob("*.npz"))
    }
    found: dict[str, Any] = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    methods = {"FedAvg": fedavg} | {name: METHODS[name] for name in asked.methods}
    seeds, mnist = range(asked.splits), data["mnist"]

    def keep(name: str, measured: dict[str, Any]) -> None:
        found[name] = measured
        asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(measured), flush=True)

    if asked.only != "new sites":
        found["one round, draws"] = 2 * asked.splits
        some = [name for name in ("mnist", "digits", "fashion") if name in data]
        keep("one round", {name: one_round(*data[name], splits=2 * asked.splits) for name in some})
    if asked.only != "one round":
        sizes = {"draws of the sites": asked.splits, "episodes at each new site": asked.episodes}
        found["new sites and another source"] = sizes
        keep("new sites", new_sites([five_classes_each(*mnist, s) for s in seeds], asked.episodes, methods))
        others = [another_source(*mnist, data["digits"], s) for s in seeds]
        keep("another source", new_sites(others, asked.episodes, methods))


if __name__ == "__main__":
    main()
