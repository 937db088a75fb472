"""Digits as a frozen backbone might give them, and a release that adds Gaussian noise."""

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.datasets import load_digits

from foedus.attacks.release import Release, Vector
from foedus.examples import Examples

DIM = 384


def _gaussian(deviation: float, *, seed: int) -> Release:
    rng = np.random.default_rng(seed)

    def release(total: Vector) -> Vector:
        return total + rng.normal(0.0, deviation, total.shape)

    return release


@pytest.fixture(scope="session")
def gaussian() -> Callable[..., Release]:
    """Makes a release from a standard deviation and a seed."""
    return _gaussian


@pytest.fixture(scope="session")
def digits() -> Examples:
    """300 records, 30 a class: a fixed random projection of the pixels, centred, of unit length."""
    pixels, labels = load_digits(return_X_y=True)
    features = (pixels - pixels.mean(axis=0)) @ np.random.default_rng(7).normal(size=(64, DIM))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:30] for c in range(10)])
    return Examples(features[rows].astype(np.float32), labels[rows].astype(np.int64))
