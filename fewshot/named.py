"""Episodes whose ridge is shrunk towards what the classes' names say: their weights change with each episode."""

import numpy as np
from numpy.typing import NDArray

from fewshot.calibration import Floats, Integers
from fewshot.closed_form import fit_ridge
from fewshot.episodes import EpisodeSampler
from fewshot.scoring import Scored, score_episodes


def run_named_episodes(
    weight: NDArray[np.floating],
    embeddings: NDArray[np.floating],
    sampler: EpisodeSampler,
    *,
    n_episodes: int,
) -> Scored:
    """Score ridge heads that start from the classes' own weights.

    Args:
        weight: (n_classes, d), of the features as they are in `embeddings`; row c is that of label c.
        embeddings: (n, d).
        sampler: Over labels 0..n_classes-1.
        n_episodes: How many.
    """
    labels, every = sampler.support_labels, np.asarray(sampler.y)
    first = np.searchsorted(labels, np.arange(sampler.n_way))

    def batch(support: Integers, query: Integers) -> Floats:
        drawn = every[support[:, first]]
        heads = fit_ridge(embeddings[support].astype(np.float64), labels, towards=weight[drawn].astype(float))
        return heads.log_probabilities(embeddings[query].astype(np.float64))

    return score_episodes(batch, sampler, n_episodes=n_episodes, dim=embeddings.shape[1])
