"""Rounds against hand-written oracles: SCAFFOLD's algorithm 1 and Ditto's, over whole tabular studies."""

import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clients.rounds import DITTO_STREAM
from clients.workplace import open_workplace
from foedus import files, simulation
from foedus.examples import Examples
from foedus.runs import RunFolder
from server.app import Outcome

SITES, SEED, ROUNDS, EPOCHS, BATCH = ("a", "b", "c"), 5, 3, 2, 16
N_TRAIN, LR, DECAY, LAMBDA = 40, 0.2, 0.01, 0.7
STUDY = f"""
[study]
name = "oracle"
classes = ["x", "y", "z"]
seed = {SEED}
[backbone]
source = "tabular"
personal = "{{personal}}"
[federation]
strategy = "{{strategy}}"
start = "zero"
rounds = {ROUNDS}
local_epochs = {EPOCHS}
batch_size = {BATCH}
lr = {LR}
weight_decay = {DECAY}
ditto_lambda = {LAMBDA}
min_sites = 3
[door]
mode = "open"
[[table.columns]]
name = "p"
kind = "number"
[[table.columns]]
name = "q"
kind = "number"
"""
Matrix = np.ndarray
"""(n_classes, d + 1), float64: weights, and the bias in the last column."""


def _write(folder: Path, *, personal: str, strategy: str) -> None:
    """Three skewed sites with 40 training examples each."""
    (folder / "study.toml").write_text(STUDY.format(personal=personal, strategy=strategy))
    for number, name in enumerate(SITES):
        rng = np.random.default_rng(number)
        n = N_TRAIN + 20
        y = rng.choice(3, n, p=np.roll([0.7, 0.2, 0.1], number))
        p, q = rng.normal(size=(2, n)) + np.stack([np.cos(2 * y + number), np.sin(2 * y)])
        split = np.repeat(["train", "validation", "test"], [N_TRAIN, 10, 10])
        site = folder / "sites" / name
        site.mkdir(parents=True)
        frame = pd.DataFrame({"p": p, "q": q, "label": np.array(["x", "y", "z"])[y], "split": split})
        frame.to_csv(site / "data.csv", index=False)
        (site / "site.toml").write_text(
            f'[site]\nname = "{name}"\n[data]\nkind = "table"\npath = "data.csv"\nlabel = "label"\n'
            '[split]\ncolumn = "split"\n[policy]\ndoors = ["open"]\nrelease_site_metrics = true\n'
        )


def _run(folder: Path, **choices: str) -> tuple[RunFolder, Outcome, dict[str, Examples]]:
    """The run, its outcome, and each site's standardised training examples."""
    _write(folder, **choices)
    run, outcome = simulation.simulate(
        folder / "study.toml", folder / "sites", runs=folder / "runs", reference=False
    )
    federation = outcome.federation
    places = [open_workplace(folder / "sites" / name, federation.study.to_json()) for name in SITES]
    return run, outcome, {p.name: p.examples("train", standardiser=federation.standardiser) for p in places}


def _descend(
    start: Matrix, examples: Examples, *streams: int, site: str, extra: object
) -> tuple[Matrix, int]:
    """Plain SGD with `extra(model)` added to each gradient; the model after it and the number of steps."""
    x = np.column_stack([examples.features, np.ones(len(examples))]).astype(np.float64)
    rng = np.random.default_rng([SEED, zlib.crc32(site.encode()), *streams])
    model, steps = start.copy(), 0
    for _ in range(EPOCHS):
        order = rng.permutation(len(x))
        for rows in (order[i : i + BATCH] for i in range(0, len(x), BATCH)):
            scores = x[rows] @ model.T
            p = np.exp(scores - scores.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            gradient = (p - np.eye(3)[examples.labels[rows]]).T @ x[rows] / len(rows)
            gradient[:, :-1] += DECAY * model[:, :-1]
            model = model - LR * (gradient + extra(model))  # type: ignore[operator]
            steps += 1
    return model, steps


def _matrix(weight: np.ndarray, bias: np.ndarray) -> Matrix:
    return np.column_stack([weight, bias]).astype(np.float64)


def test_scaffold_is_algorithm_1_option_ii_of_karimireddy_et_al(tmp_path: Path) -> None:
    _, outcome, data = _run(tmp_path, personal="none", strategy="scaffold")
    dim = next(iter(data.values())).features.shape[1]
    x, c = np.zeros((3, dim + 1)), np.zeros((3, dim + 1))
    own = {site: np.zeros_like(c) for site in SITES}
    for number in range(1, ROUNDS + 1):
        moves, changes = [], []
        for site in SITES:
            correction = c - own[site]
            y, steps = _descend(x, data[site], number, site=site, extra=lambda _, add=correction: add)
            fresh = own[site] - c + (x - y) / (steps * LR)
            moves.append(y - x)
            changes.append(fresh - own[site])
            own[site] = fresh
        x, c = x + np.mean(moves, axis=0), c + np.mean(changes, axis=0)
    found = outcome.training.model
    np.testing.assert_allclose(_matrix(found.head.weight, found.head.bias), x, atol=1e-5)
    np.testing.assert_allclose(_matrix(found.control["weight"], found.control["bias"]), c, atol=1e-5)
    assert np.abs(c).max() > 0.01
    np.testing.assert_allclose(np.mean(list(own.values()), axis=0), c, atol=1e-12)


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox"])
def test_dittos_own_model_descends_towards_the_shared_model_of_each_round(
    tmp_path: Path, strategy: str
) -> None:
    run, outcome, data = _run(tmp_path, personal="ditto", strategy=strategy)
    mu = outcome.federation.study.federation.proximal_mu if strategy == "fedprox" else 0.0
    shared = np.zeros((3, next(iter(data.values())).features.shape[1] + 1))
    own = dict.fromkeys(SITES, shared)
    for number in range(1, ROUNDS + 1):
        came, trained = shared, []
        for site in SITES:
            trained.append(
                _descend(came, data[site], number, site=site, extra=lambda w, x=came: mu * (w - x))[0]
            )
            own[site], _ = _descend(
                own[site],
                data[site],
                DITTO_STREAM,
                number,
                site=site,
                extra=lambda v, x=came: LAMBDA * (v - x),
            )
        shared = np.mean(trained, axis=0)
    head = outcome.training.model.head
    np.testing.assert_allclose(_matrix(head.weight, head.bias), shared, atol=1e-5)
    for site in SITES:
        kept = files.read_arrays(
            tmp_path / "sites" / site / ".foedus/reports" / run.run_id / "personal.safetensors"
        )
        np.testing.assert_allclose(_matrix(kept["weight"], kept["bias"]), own[site], atol=1e-5)
        assert np.abs(own[site] - shared).max() > 0.01
