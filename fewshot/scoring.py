"""Running episodes: fit on each support set, predict its queries, and count."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewshot.calibration import TEMPERATURES, Bins, Floats, Integers, calibration_bins
from fewshot.closed_form import PENALTIES, Fit
from fewshot.episodes import EpisodeSampler

HIGHEST_NLL = 1000.0
"""Where the NLL of one query is cut, so that a sum stays in its declared range."""
_BATCH_FLOATS = 2**23
"""About how many numbers a batch of episodes may hold: 64 MiB."""


@dataclass(frozen=True)
class Scored:
    """Per episode: accuracy and mean NLL; and the calibration bins of all queries."""

    accuracy: Floats
    nll: Floats
    bins: Bins


def run_episodes(
    fit: Fit, embeddings: NDArray[np.floating], sampler: EpisodeSampler, *, n_episodes: int
) -> Scored:
    """Score closed-form heads, a batch of episodes at a time (memory stays small)."""
    labels = sampler.support_labels

    def batch(support: Integers, query: Integers) -> Floats:
        heads = fit(embeddings[support].astype(np.float64), labels)
        return heads.log_probabilities(embeddings[query].astype(np.float64))

    return score_episodes(batch, sampler, n_episodes=n_episodes, dim=embeddings.shape[1])


def score_episodes(
    batch: Callable[[Integers, Integers], Floats], sampler: EpisodeSampler, *, n_episodes: int, dim: int
) -> Scored:
    """Draw the episodes and score `batch`: rows of support and query -> (E, q, n_way) log-probabilities."""
    episodes = sampler.draw(n_episodes)
    truth = sampler.query_labels
    rows = episodes.support.shape[1] + episodes.query.shape[1]
    per_row = max(dim, len(PENALTIES) * len(TEMPERATURES) * sampler.n_way)
    size = max(1, _BATCH_FLOATS // (rows * per_row))
    parts = [
        batch(episodes.support[i : i + size], episodes.query[i : i + size])
        for i in range(0, len(episodes), size)
    ]
    log_p = np.concatenate(parts)
    correct = log_p.argmax(-1) == truth
    nll = -log_p[:, np.arange(len(truth)), truth]
    bins = calibration_bins(np.exp(log_p.max(-1)).ravel(), correct.ravel())
    return Scored(correct.mean(1), np.minimum(nll, HIGHEST_NLL).mean(1), bins)
