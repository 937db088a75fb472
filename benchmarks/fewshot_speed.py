"""Episodes per CPU second of the closed-form heads and the sampler, against their peers in the same process.

    python benchmarks/fewshot_speed.py [--out FILE]

384 features, 5-way 5-shot, 15 queries a class, one thread, float32 for prototypes and float64 for ridge at both.
Peers: scikit-learn, learn2learn, and easyfsl where it can be imported (it is not among our dependencies:
pip install --no-deps --target FOLDER easyfsl, and FOLDER on PYTHONPATH). Runs take turns; the median of five counts.
MAML: maml.py.
"""

import argparse
import contextlib
import io
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import Ridge, RidgeClassifier, RidgeClassifierCV

from fewshot.closed_form import fit_prototypes, fit_ridge
from fewshot.conformal import ConformalSets
from fewshot.episodes import EpisodeSampler
from fewshot.maml.closed import prototype_start

BATCH, EPISODES, PEER, TURNS = 32, 512, 128, 5
"""Episodes at once; episodes a turn, of ours and of a peer."""
LABELS, TRUTH = np.repeat(np.arange(5), 5), np.repeat(np.arange(5), 15)
Run = tuple[Callable[[], object], int]


def data() -> tuple[np.ndarray, np.ndarray]:
    """Support (512, 25, 384) and queries (512, 75, 384) around five means an episode."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(EPISODES, 5, 384))
    noise = [rng.normal(size=(EPISODES, len(labels), 384)) for labels in (LABELS, TRUTH)]
    return means[:, LABELS] + noise[0], means[:, TRUTH] + noise[1]


def batched(fit: Callable[[np.ndarray], Any], support: np.ndarray, query: np.ndarray) -> Run:
    """Fit and score all episodes, a batch at a time."""
    parts = [slice(i, i + BATCH) for i in range(0, EPISODES, BATCH)]
    return lambda: [fit(support[part]).scores(query[part]) for part in parts], EPISODES


def looped(one: Callable[[int], object]) -> Run:
    """One episode after the other."""
    return lambda: [one(i) for i in range(PEER)], PEER


def rates(runs: dict[str, Run]) -> dict[str, int]:
    """Episodes per CPU second of each: the median of five turns."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(TURNS):
        for name, (run, n) in runs.items():
            begun = time.process_time()
            run()
            seconds[name].append((time.process_time() - begun) / n)
    return {name: round(1 / statistics.median(found)) for name, found in seconds.items()}


def compared(runs: dict[str, Run], *ours: str) -> dict[str, Any]:
    """The rates, and how many times each peer's each of ours is."""
    found = rates(runs)
    peers = {name: rate for name, rate in found.items() if name not in ours}
    times = {mine: {name: round(found[mine] / rate, 1) for name, rate in peers.items()} for mine in ours}
    return {"episodes per CPU second": found, "times": times}


def prototypes(support: np.ndarray, query: np.ndarray) -> dict[str, Any]:
    """Prototypes at a fixed temperature, as the peers have them; and whether the answers agree."""
    s, q = support.astype(np.float32), query.astype(np.float32)
    runs = {"ours": batched(lambda part: fit_prototypes(part, LABELS, temperature=1.0), s, q)}
    tensors, y = (torch.from_numpy(s), torch.from_numpy(q)), torch.from_numpy(LABELS)
    parts, heat = [slice(i, i + BATCH) for i in range(0, EPISODES, BATCH)], torch.ones(())

    def on_tensors() -> list[Any]:
        with torch.no_grad():
            return [prototype_start(tensors[0][p], y, heat).scores(tensors[1][p]) for p in parts]

    runs["ours, on tensors"] = (on_tensors, EPISODES)
    peers = {
        name: make(*tensors, y) for name, make in (("learn2learn", by_learn2learn), ("easyfsl", by_easyfsl))
    }
    mine = fit_prototypes(s, LABELS, temperature=1.0).scores(q).argmax(-1)
    found: dict[str, Any] = {"same answers": {}}
    for name, one in peers.items():
        if one is None:
            found[name] = "not installed"
            continue
        runs[name] = looped(one)
        same = [bool((one(i).numpy().argmax(1) == mine[i]).all()) for i in range(PEER)]
        found["same answers"][name] = all(same)
    agree = torch.cat(on_tensors()).argmax(-1).numpy() == mine
    found["same answers"]["ours, on tensors"] = bool(agree.all())
    return {**compared(runs, "ours", "ours, on tensors"), **found}


def by_learn2learn(x: torch.Tensor, q: torch.Tensor, y: torch.Tensor) -> Callable[[int], Any] | None:
    """Scores of an episode by its `PrototypicalClassifier`."""
    with quiet():
        try:
            from learn2learn.nn import PrototypicalClassifier
        except ImportError:
            return None
    return lambda i: PrototypicalClassifier(x[i], y)(q[i])


def by_easyfsl(x: torch.Tensor, q: torch.Tensor, y: torch.Tensor) -> Callable[[int], Any] | None:
    """Scores of an episode by its `PrototypicalNetworks` on features."""
    try:
        from easyfsl.methods import PrototypicalNetworks
    except ImportError:
        return None
    method = PrototypicalNetworks(torch.nn.Identity())

    def one(i: int) -> Any:
        method.process_support_set(x[i], y)
        return method(q[i]).detach()

    return one


def ridge(support: np.ndarray, query: np.ndarray) -> dict[str, Any]:
    """Ridge at a fixed penalty, and with the penalty (ours: and temperature) by leave-one-out."""
    one_hot, penalties = np.eye(5)[LABELS], np.logspace(-1, 1, 5)
    fixed = {
        "ours": batched(lambda part: fit_ridge(part, LABELS, penalty=1.0, temperature=16.0), support, query),
        "RidgeClassifier": looped(
            lambda i: RidgeClassifier().fit(support[i], LABELS).decision_function(query[i])
        ),
        "Ridge": looped(lambda i: Ridge().fit(support[i], one_hot).predict(query[i])),
    }
    chosen = {
        "ours": batched(lambda part: fit_ridge(part, LABELS), support, query),
        "RidgeClassifierCV": looped(
            lambda i: RidgeClassifierCV(penalties).fit(support[i], LABELS).decision_function(query[i])
        ),
    }
    return {"fixed penalty": compared(fixed, "ours"), "leave-one-out": compared(chosen, "ours")}


def sampler() -> dict[str, Any]:
    """Episodes drawn from 100 classes of 60 cached feature rows, features included."""
    y = np.repeat(np.arange(100), 60)
    x = np.random.default_rng(0).normal(size=(len(y), 384)).astype(np.float32)
    ours = EpisodeSampler(y, 5, 5, 15)

    def draw() -> object:
        drawn = ours.draw(EPISODES)
        return [(x[drawn.support[i : i + 32]], x[drawn.query[i : i + 32]]) for i in range(0, EPISODES, 32)]

    runs: dict[str, Run] = {"ours": (draw, EPISODES)}
    with quiet():
        try:
            import learn2learn as l2l
            from learn2learn.data import transforms
        except ImportError:
            return {**compared(runs, "ours"), "learn2learn": "not installed"}
    rows = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    dataset = l2l.data.MetaDataset(rows)
    steps = [
        transforms.NWays(dataset, 5),
        transforms.KShots(dataset, 20),
        transforms.LoadData(dataset),
        transforms.RemapLabels(dataset),
    ]
    tasks = l2l.data.TaskDataset(dataset, task_transforms=steps)
    runs["learn2learn"] = looped(lambda i: tasks.sample())
    return compared(runs, "ours")


def quiet() -> contextlib.AbstractContextManager[Any]:
    """Without gym's notice."""
    stack = contextlib.ExitStack()
    stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
    stack.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore")
    return stack


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/fewshot-speed.json")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    support, query = data()
    sets = batched_sets(support, query)
    found = {
        "prototypes": prototypes(support, query),
        "ridge": ridge(support, query),
        "sampler": sampler(),
        "full conformal sets of 75 queries": rates({"ours": sets})["ours"],
    }
    asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


def batched_sets(support: np.ndarray, query: np.ndarray) -> Run:
    """p-values of all classes for every query."""
    return looped(lambda i: ConformalSets.of(support[i], LABELS).p_values(query[i]))


if __name__ == "__main__":
    main()
