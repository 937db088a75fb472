"""Rounds on a frozen backbone: Foedus' cache against the plain quickstart way, in one run.

    python benchmarks/rounds.py [--images 2000] [--size 64] [--rounds 10]

The plain way is what Flower's quickstart does: every round each client runs the whole frozen
network over its images again, then takes a gradient step per batch on a linear head.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torchvision import transforms

from clients.app import app as client_app
from clients.training import Descent, train
from foedus.backbones import open_backbone
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.study import BackboneSection

BATCH = 32
CLASSES = 10


def plain(images: list[np.ndarray], labels: np.ndarray, size: int, rounds: int) -> float:
    """CPU seconds of `rounds` rounds as in Flower's PyTorch quickstart with a frozen timm model.

    Every batch of every round goes through the whole network; a torch optimizer trains the head.
    Two rounds are measured, after a warm-up, and scaled.
    """
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0).eval()
    network.requires_grad_(False)
    resize = transforms.Compose(
        [transforms.ToPILImage(), transforms.Resize((size, size)), transforms.ToTensor()]
    )
    normalise = transforms.Normalize([0.5] * 3, [0.5] * 3)
    head = torch.nn.Linear(network.num_features, CLASSES)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.05)
    measured = min(rounds, 2)

    def one_round(limit: int) -> None:
        for begin in range(0, limit, BATCH):
            batch = torch.stack([normalise(resize(image)) for image in images[begin : begin + BATCH]])
            loss = torch.nn.functional.cross_entropy(
                head(network(batch)), torch.as_tensor(labels[begin : begin + BATCH])
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    one_round(2 * BATCH)
    begun = time.process_time()
    for _ in range(measured):
        one_round(len(images))
    return (time.process_time() - begun) / measured * rounds


def cached(images: list[np.ndarray], labels: np.ndarray, size: int, rounds: int) -> tuple[float, float]:
    """CPU seconds of one pass of the trunk and `rounds` rounds on its features; the pass alone."""
    section = BackboneSection(source="bundled:efficientnet-lite0", image_size=size)
    embedder = open_backbone(section, None)
    embedder.embed(images[:BATCH])
    begun = time.process_time()
    features = embedder.embed(images).astype(np.float16).astype(np.float32)
    one_pass = time.process_time() - begun
    head = LinearHead.zeros(CLASSES, embedder.spec.dim)
    for number in range(rounds):
        head, _ = train(
            head, Examples(features, labels), Descent(1, BATCH, 0.05), rng=np.random.default_rng(number)
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


def plain_loop(n_sites: int) -> float:
    """Milliseconds of the same round with no machinery at all: numpy heads in one process, averaged."""
    rng = np.random.default_rng(0)
    data = [Examples(rng.normal(size=(7, 2)).astype(np.float32), np.arange(7) % 2) for _ in range(n_sites)]
    head = LinearHead.zeros(2, 2)
    times = []
    for number in range(10):
        begun = time.perf_counter()
        own = [
            train(head, examples, Descent(1, 64, 0.05), rng=np.random.default_rng(number))[0]
            for examples in data
        ]
        head = LinearHead(
            np.mean([h.weight for h in own], axis=0, dtype=np.float32),
            np.mean([h.bias for h in own], axis=0, dtype=np.float32),
        )
        times.append(time.perf_counter() - begun)
    return 1000 * float(np.median(times))


def pfl_round(n_sites: int) -> float | None:
    """Milliseconds of the same round in Apple's pfl simulator (PyTorch), or None if it is not installed."""
    if importlib.util.find_spec("pfl") is None:
        return None
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
    from pfl.metrics import Metrics
    from pfl.model.pytorch import PyTorchModel

    class Linear(torch.nn.Linear):
        def loss(self, x: torch.Tensor, y: torch.Tensor, eval: bool = False) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(self(x), y)

        def metrics(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
            return {}

    class Clock(TrainingProcessCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.ends: list[float] = [time.perf_counter()]

        def after_central_iteration(self, metrics: Any, model: Any, *, central_iteration: int) -> Any:
            self.ends.append(time.perf_counter())
            return False, Metrics()

    data = {
        i: Dataset(raw_data=[torch.randn(7, 2), torch.as_tensor(np.arange(7) % 2)]) for i in range(n_sites)
    }
    users = FederatedDataset(lambda i: data[i], get_user_sampler("random", list(data)))
    network = Linear(2, 2)
    model = PyTorchModel(
        network,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(network.parameters(), 1.0),
    )
    clock = Clock()
    with contextlib.redirect_stdout(io.StringIO()):
        FederatedAveraging().run(
            algorithm_params=NNAlgorithmParams(
                central_num_iterations=10,
                evaluation_frequency=1000,
                train_cohort_size=n_sites,
                val_cohort_size=0,
            ),
            backend=SimulatedBackend(training_data=users, val_data=None),
            model=model,
            model_train_params=NNTrainHyperParams(
                local_num_epochs=1, local_learning_rate=0.05, local_batch_size=64
            ),
            model_eval_params=NNEvalHyperParams(local_batch_size=64),
            callbacks=[clock],
        )
    return 1000 * float(np.median(np.diff(clock.ends)))


def main() -> None:
    """Measure and print JSON."""
    logging.getLogger("flwr").setLevel(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=10)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (28, 28, 3), np.uint8) for _ in range(asked.images)]
    labels = rng.integers(0, CLASSES, asked.images)
    naive = plain(images, labels, asked.size, asked.rounds)
    ours, one_pass = cached(images, labels, asked.size, asked.rounds)
    result = {
        "images": asked.images,
        "size": asked.size,
        "rounds": asked.rounds,
        "plain_cpu_s": round(naive, 2),
        "cached_cpu_s": round(ours, 2),
        "speedup": round(naive / ours, 1),
        "study_over_one_pass": round(ours / one_pass, 2),
        "empty_round_ms": {n: round(empty_round(n), 1) for n in (4, 100)},
        "plain_loop_ms": {n: round(plain_loop(n), 2) for n in (4, 100)},
        "pfl_round_ms": {n: found if (found := pfl_round(n)) is None else round(found, 1) for n in (4, 100)},
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
