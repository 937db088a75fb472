"""The linear head: what a study trains on top of a frozen backbone's features."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from foedus.statistic import Arrays


@dataclass(frozen=True)
class LinearHead:
    """Scores = features @ weight.T + bias.

    Attributes:
        weight: (n_classes, d), float32.
        bias: (n_classes,), float32.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    @classmethod
    def zeros(cls, n_classes: int, dim: int) -> "LinearHead":
        """The head that knows nothing: uniform probabilities."""
        return cls(np.zeros((n_classes, dim), np.float32), np.zeros(n_classes, np.float32))

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "LinearHead":
        """A head from arrays named "weight" and "bias"."""
        return cls(arrays["weight"].astype(np.float32), arrays["bias"].astype(np.float32))

    def arrays(self) -> Arrays:
        """The head as named arrays, in the order they travel."""
        return {"weight": self.weight, "bias": self.bias}

    def scores(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, n_classes), float32, unnormalised."""
        return np.asarray(features @ self.weight.T + self.bias, np.float32)

    def log_probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """(n, n_classes), float64, rows log-sum to 0."""
        return np.asarray(log_softmax(self.scores(features).astype(np.float64), axis=1))

    def probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """(n, n_classes), float64, rows sum to 1."""
        return np.asarray(softmax(self.scores(features).astype(np.float64), axis=1))

    def scaled(self, temperature: float) -> "LinearHead":
        """The head with every score multiplied by `temperature`."""
        factor = np.float32(temperature)
        return LinearHead(self.weight * factor, self.bias * factor)

    def of_label(self, label: int) -> "LinearHead":
        """One label of several as two classes, no and yes: the softmax of [0, s] is the sigmoid of s."""
        weight, bias = np.zeros_like(self.weight[:2]), np.zeros_like(self.bias[:2])
        weight[1], bias[1] = self.weight[label], self.bias[label]
        return LinearHead(weight, bias)

    def unstandardised(self, mean: NDArray[np.float64], scale: NDArray[np.float64]) -> "LinearHead":
        """The same function of raw features, given that this head reads (x - mean) / scale."""
        weight = self.weight.astype(np.float64) / scale
        bias = self.bias.astype(np.float64) - weight @ mean
        return LinearHead(weight.astype(np.float32), bias.astype(np.float32))
