"""How well a head adapts, over many episodes: on arrays (`evaluate`) and across sites (`EpisodeSums`)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin, clone

from fewshot.calibration import Floats, Integers
from fewshot.episode_sums import EpisodeResult, EpisodeSums
from fewshot.episodes import EpisodeSampler
from fewshot.heads import ClosedFormHead
from fewshot.scoring import Scored, run_episodes, score_episodes
from foedus.errors import FewShotError

__all__ = ["EpisodeReport", "EpisodeResult", "EpisodeSums", "evaluate"]


@dataclass(frozen=True)
class EpisodeReport:
    """What a method reached over many episodes.

    Attributes:
        mean: Mean accuracy of the episodes, 0..1.
        ci95: Half width of its 95 % interval (normal, over episodes).
        accuracies: (n_episodes,), in the order of `EpisodeSampler.draw`: subtract two methods'
            accuracies for a paired comparison.
        nll: Mean negative log-likelihood of a query, nats.
        ece: Expected calibration error over 15 bins, all queries together.
        nlls: (n_episodes,), the mean NLL of each.
    """

    mean: float
    ci95: float
    accuracies: Floats
    nll: float
    ece: float
    nlls: Floats


def evaluate(
    estimator: ClassifierMixin,
    embeddings: NDArray[np.floating],
    y: ArrayLike,
    sampler: EpisodeSampler,
    *,
    n_episodes: int = 600,
) -> EpisodeReport:
    """The report of a scikit-learn classifier with `predict_proba`, fitted anew in each episode.

    Our closed-form heads are fitted for many episodes at once; any other estimator in a loop.

    Args:
        estimator: Cloned, never changed.
        embeddings: (n, d), already whitened when that is wanted.
        y: (n,), the labels the sampler was made with.
        sampler: Its seed decides the episodes.
        n_episodes: At least 2, for the interval.

    Raises:
        FewShotError: If the examples do not allow the episodes.
    """
    if n_episodes < 2:
        raise FewShotError(f"n_episodes is {n_episodes}, expected at least 2 for an interval")
    if len(np.asarray(y)) != len(np.asarray(sampler.y)) or len(embeddings) != len(np.asarray(y)):
        raise FewShotError(
            f"there are {len(embeddings)} embeddings, {len(np.asarray(y))} labels and a sampler over "
            f"{len(np.asarray(sampler.y))}; give all three for the same examples"
        )
    if isinstance(estimator, ClosedFormHead):
        scored = run_episodes(
            estimator.fit_episodes, estimator.prepare(embeddings), sampler, n_episodes=n_episodes
        )
    else:
        scored = _run_loop(estimator, embeddings, sampler, n_episodes=n_episodes)
    return report(scored)


def report(scored: Scored) -> EpisodeReport:
    """What was counted, as a report."""
    return EpisodeReport(
        mean=float(scored.accuracy.mean()),
        ci95=half_width(scored.accuracy),
        accuracies=scored.accuracy,
        nll=float(scored.nll.mean()),
        ece=scored.bins.error(),
        nlls=scored.nll,
    )


def half_width(values: Floats) -> float:
    """Half the 95 % interval on the mean of (n_episodes,) values, normal."""
    return float(1.96 * values.std(ddof=1) / np.sqrt(len(values)))


def _run_loop(
    estimator: ClassifierMixin, embeddings: NDArray[np.floating], sampler: EpisodeSampler, *, n_episodes: int
) -> Scored:
    """Score any estimator, one episode after the other."""
    labels = sampler.support_labels

    def batch(support: Integers, query: Integers) -> Floats:
        probabilities = [
            clone(estimator).fit(embeddings[s], labels).predict_proba(embeddings[q])
            for s, q in zip(support, query, strict=True)
        ]
        return np.asarray(np.log(np.maximum(np.stack(probabilities), 1e-300)))

    return score_episodes(batch, sampler, n_episodes=n_episodes, dim=embeddings.shape[1])
