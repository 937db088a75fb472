"""Dividing one data set among sites that differ: label skew by a Dirichlet draw."""

import numpy as np
from numpy.typing import NDArray

Shares = NDArray[np.float64]
_TRIES = 1000


def dirichlet_counts(
    counts: list[int], n_sites: int, *, alpha: float, min_per_site: int, seed: int
) -> tuple[Shares, NDArray[np.int64]]:
    """How many examples of each class each site gets (Hsu et al. 2019, sec. 3: q ~ Dir(alpha)).

    Draws again, from the same stream, until every site holds enough.

    Args:
        counts: Examples of each class.
        n_sites: Sites to divide them among.
        alpha: Small is skewed: 0.3 leaves most sites with a few classes.
        min_per_site: Fewest examples of a site, over all classes.
        seed: Of the draw.

    Returns:
        The shares, (n_classes, n_sites), rows sum to 1, and the counts, (n_classes, n_sites), whose
        rows sum to `counts`.

    Raises:
        ValueError: If no draw in 1000 gives every site enough.
    """
    rng = np.random.default_rng(seed)
    for _ in range(_TRIES):
        shares = rng.dirichlet(np.full(n_sites, alpha), size=len(counts))
        parts = np.stack([divide(n, row) for n, row in zip(counts, shares, strict=True)])
        if parts.sum(axis=0).min() >= min_per_site:
            return shares, parts
    raise ValueError(f"no draw gives each of {n_sites} sites {min_per_site} of {sum(counts)} examples")


def divide(n: int, shares: Shares) -> NDArray[np.int64]:
    """`n` as whole numbers in proportion to `shares` ((n_sites,), summing to 1); they add up to `n`."""
    edges = np.rint(np.cumsum(shares) * n).astype(np.int64)
    edges[-1] = n
    return np.diff(edges, prepend=0)
