"""How well frozen features suit a task, before anything is trained: two scores from the ridge sums.

Neither needs a row. LogME reads the eigenvalues of FᵀF, Fᵀy and yᵀy; the H-score reads the
covariance and the class means. The sums of all sites hold both, so the scores are the pooled ones.
"""

from math import log, pi

import numpy as np
from numpy.typing import NDArray

from fewshot.ridge import RidgeTotals
from foedus.errors import FewShotError

RANK = 1e-9
"""An eigenvalue below this share of the largest is zero: sums travel on a grid, not in full precision."""
STEPS = 100
CLOSE = 1e-8
FLOOR = 1e-12
"""Least residual, and least length of the weights, for each example: a class told without error has none."""


def log_evidence(totals: RidgeTotals) -> float:
    """LogME: mean over classes of the highest log evidence per example (You et al. 2021, algorithm 1).

    Each class's indicator y is regressed on F = [x, 1] with prior w ~ N(0, I/α) and noise 1/β, and
    α, β are those of the highest evidence. Higher is better; below 0 or above has no meaning of its own.

    Raises:
        FewShotError: If the sums hold no example.
    """
    n = _require_examples(totals)
    values, vectors = np.linalg.eigh(totals.gram)
    real = values > RANK * values[-1]
    spectrum = values[real]
    seen = np.flatnonzero(totals.class_count)
    directions = vectors[:, real].T @ totals.xty[:, seen]
    squares = totals.class_count[seen].astype(np.float64)  # y is 0 or 1, so yᵀy counts the class
    evidence = [
        _highest(spectrum, z, square, n=n, dim=len(values))
        for z, square in zip(directions.T, squares, strict=True)
    ]
    return float(np.mean(evidence) / n)


def h_score(totals: RidgeTotals) -> float:
    """H-score: trace(cov(x)⁺ cov(E[x|y])), between 0 and n_classes - 1 (Bao et al. 2019, definition 2).

    With fewer examples than features it reaches n_classes - 1 whatever the features are.

    Raises:
        FewShotError: If the sums hold no example.
    """
    n = _require_examples(totals)
    seen = np.flatnonzero(totals.class_count)
    count = totals.class_count[seen]
    between = (totals.xty[:-1, seen] / count - totals.mean[:, None]) * np.sqrt(count / n)
    values, vectors = np.linalg.eigh(totals.scatter() / n)
    real = values > RANK * max(values[-1], FLOOR)
    projected = vectors[:, real].T @ between
    return float((projected**2 / values[real, None]).sum())


def _highest(
    spectrum: NDArray[np.float64], z: NDArray[np.float64], square: float, *, n: int, dim: int
) -> float:
    """The highest log evidence of one target, by MacKay's fixed point on α and β.

    Args:
        spectrum: (r,), the eigenvalues of FᵀF above zero.
        z: (r,), Fᵀy along their vectors.
        square: yᵀy.
        n: Examples.
        dim: Columns of F.
    """
    alpha = beta = 1.0
    outside = max(square - float((z**2 / spectrum).sum()), 0.0)  # of y, what no weight can reach
    for _ in range(STEPS):
        weights, residual = _fit(spectrum, z, outside, alpha=alpha, beta=beta)
        gamma = float((beta * spectrum / (alpha + beta * spectrum)).sum())
        ratio = alpha / beta
        alpha = gamma / max(float(weights @ weights), FLOOR * n)
        beta = max(n - gamma, FLOOR * n) / max(residual, FLOOR * n)
        if abs(alpha / beta - ratio) <= CLOSE * ratio:
            break
    weights, residual = _fit(spectrum, z, outside, alpha=alpha, beta=beta)
    # Directions that F does not have add log α to both the prior and the posterior, and cancel.
    posterior = float(np.log(alpha + beta * spectrum).sum()) + (dim - len(spectrum)) * log(alpha)
    fit = beta * residual + alpha * float(weights @ weights)
    return (n * log(beta / (2 * pi)) + dim * log(alpha) - posterior - fit) / 2


def _fit(
    spectrum: NDArray[np.float64], z: NDArray[np.float64], outside: float, *, alpha: float, beta: float
) -> tuple[NDArray[np.float64], float]:
    """The posterior mean along the eigenvectors, and its squared residual."""
    shrunk = alpha / (alpha + beta * spectrum)
    return (1 - shrunk) * z / spectrum, outside + float((z**2 / spectrum * shrunk**2).sum())


def _require_examples(totals: RidgeTotals) -> int:
    if totals.n == 0:
        raise FewShotError("the ridge sums hold no example; ask sites that have the study's classes")
    return totals.n
