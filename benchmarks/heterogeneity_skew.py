"""Pictures by skewed label, for benchmarks/heterogeneity.py: accuracy after each round, from zero or from a ridge."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from heterogeneity_sites import Images, write_images
from heterogeneity_studies import differences, enlisted, grid, whole
from numpy.typing import NDArray

from clients.workplace import open_workplace
from foedus.cli.demo import summarise
from foedus.evaluation import Evaluation
from foedus.model import Model
from foedus.rewriting import with_values
from server.federation import Federation
from server.rounds import train_once
from server.start import begin
from server.strategies import make_strategy

ROUNDS, LRS = 40, (0.1, 0.3, 1.0)
STUDY = """
[study]
name = "skew"
classes = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
seed = {seed}
[backbone]
source = "bundled:efficientnet-lite0"
image_size = 64
[federation]
rounds = {rounds}
batch_size = 32
[door]
mode = "open"
"""
METHODS = {
    "ridge start, FedAvg": ("fedavg", "ridge"),
    "FedAvg": ("fedavg", "zero"),
    "SCAFFOLD": ("scaffold", "zero"),
}
"""All from zero but the first."""
EPOCHS = (1, 5)
"""Local epochs in a round."""
WITHIN = (0.0, 0.005)
"""How far below the ridge start's accuracy after its first round counts as having reached it."""


def skewed(images: Images, *, seed: int) -> dict[str, Any]:
    """Every method, local epoch count and round on one division; a personal head with the first."""
    with tempfile.TemporaryDirectory() as scratch:
        sites = write_images(Path(scratch), images, seed=seed)
        study = STUDY.format(seed=seed, rounds=ROUNDS)
        found: dict[str, Any] = {}
        for epochs in EPOCHS:
            text = with_values(study, {"federation.local_epochs": epochs})
            found[str(epochs)] = {
                name: best_curve(text, sites, grid(strategy, start, lrs=LRS))
                for name, (strategy, start) in METHODS.items()
            }
        settings = found["1"]["ridge start, FedAvg"]["settings"]
        personal = whole(with_values(study, settings | {"backbone.personal": "head"}), sites).results
        open_workplace.cache_clear()
    return {"epochs": found, "personal": personal}


def best_curve(study: str, sites: Path, among: list[dict[str, Any]]) -> dict[str, Any]:
    """Test accuracy after each number of rounds, with the settings that validation prefers for that number."""
    curves = [(values, curve(with_values(study, values), sites)) for values in among]
    best = [min(curves, key=lambda one: one[1][n]["validation_loss"]) for n in range(ROUNDS + 1)]
    return {
        "settings": best[-1][0],
        "lr": [values["federation.lr"] for values, _ in best],
        "accuracy": [line[n]["accuracy"] for n, (_, line) in enumerate(best)],
        "validation_loss": [line[n]["validation_loss"] for n, (_, line) in enumerate(best)],
    }


def curve(study: str, sites: Path) -> list[dict[str, float]]:
    """After round 0, 1, ...: lowest validation loss so far, and the test accuracy of that model."""
    federation = enlisted(study, sites)
    training, strategy = begin(federation), make_strategy(federation.study.federation)
    model, lines = training.model, [_tested(federation, training.model)]
    for number in range(1, ROUNDS + 1):
        model, _, _ = train_once(federation, strategy, model, number)
        better = _validated(federation, model) < lines[-1]["validation_loss"]
        lines.append(_tested(federation, model) if better else lines[-1])
    return lines


def _validated(federation: Federation, model: Model) -> float:
    [[found]] = federation.ask(Evaluation([model.head]), split="validation")
    return float(found.metrics["log_loss"] or 0.0)


def _tested(federation: Federation, model: Model) -> dict[str, float]:
    [[found]] = federation.ask(Evaluation([model.head]), split="test")
    return {
        "validation_loss": _validated(federation, model),
        "accuracy": float(found.metrics["accuracy"] or 0.0),
    }


def reached(accuracy: NDArray[np.float64], goal: NDArray[np.float64]) -> list[int | None]:
    """The first round of each seed whose accuracy is no less than its goal; None if no round's is.

    Args:
        accuracy: (seeds, rounds + 1).
        goal: (seeds,).
    """
    found = accuracy >= goal[:, None]
    return [int(row.argmax()) if row.any() else None for row in found]


def summary(repeats: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and sd of each method's curve; local, federated and personal of the first."""
    found: dict[str, Any] = {}
    for epochs in repeats[0]["epochs"]:
        for name in METHODS:
            rows = [r["epochs"][epochs][name] for r in repeats]
            accuracy = np.array([row["accuracy"] for row in rows])
            ridge = np.array([r["epochs"][epochs]["ridge start, FedAvg"]["accuracy"] for r in repeats])
            found.setdefault(epochs, {})[name] = {
                "accuracy": accuracy.mean(axis=0).tolist(),
                "sd": accuracy.std(axis=0, ddof=1).tolist() if len(rows) > 1 else None,
                "by_seed": accuracy.tolist(),
                "rounds_to_ridge": {str(gap): reached(accuracy, ridge[:, 1] - gap) for gap in WITHIN},
                "settings": [row["settings"] for row in rows],
                "lr_by_rounds": [row["lr"] for row in rows],
            }
    personal = [r["personal"] for r in repeats]
    models = summarise([{"results": r, "audit": None} for r in personal])["models"]
    return {"epochs": found, "personal": models, "head_minus_local": differences(personal)}
