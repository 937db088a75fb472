"""Episodes: which examples are support and which are query, drawn for all episodes at once."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foedus.errors import FewShotError


@dataclass(frozen=True)
class Episodes:
    """Row numbers of many episodes. Class c of an episode has rows c·k to (c+1)·k - 1.

    Attributes:
        classes: (n_episodes, n_way), the labels drawn, in the order 0..n_way-1 of the episode.
        support: (n_episodes, n_way * n_shot), rows of the embeddings.
        query: (n_episodes, n_way * n_query), rows of the embeddings, none of them in support.
    """

    classes: NDArray[np.generic]
    support: NDArray[np.int64]
    query: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.support)


@dataclass(frozen=True)
class EpisodeSampler:
    """Draws episodes without replacement within each.

    Args:
        y: (n,), labels of any kind.
        n_way: Classes in an episode.
        n_shot: Support examples of each class.
        n_query: Query examples of each class.
        random_state: Seed. `draw` starts from it each time, so that methods which share a
            sampler meet the same episodes and can be compared pairwise.
        classes: Labels to draw from; all when None.
        site: Name for messages.
    """

    y: ArrayLike
    n_way: int = 5
    n_shot: int = 5
    n_query: int = 15
    random_state: int = 0
    classes: ArrayLike | None = None
    site: str | None = None

    def draw(self, n_episodes: int) -> Episodes:
        """`n_episodes` episodes, the same ones at every call.

        Raises:
            FewShotError: If too few classes have enough examples.
        """
        pool, order, starts, counts = self._pool()
        rng = np.random.default_rng(self.random_state)
        chosen = np.argsort(rng.random((n_episodes, len(pool))), axis=1)[:, : self.n_way]
        picks = _subsets(rng, counts[chosen].ravel(), size=self.n_shot + self.n_query)
        rows = order[starts[chosen].reshape(-1, 1) + picks].reshape(n_episodes, self.n_way, -1)
        support = rows[:, :, : self.n_shot].reshape(n_episodes, -1)
        query = rows[:, :, self.n_shot :].reshape(n_episodes, -1)
        return Episodes(pool[chosen], support, query)

    def _pool(
        self,
    ) -> tuple[NDArray[np.generic], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Classes that can be drawn, rows sorted by class, and where each class starts and its size."""
        for name, value, least in (
            ("n_way", self.n_way, 2),
            ("n_shot", self.n_shot, 1),
            ("n_query", self.n_query, 1),
        ):
            if value < least:
                raise FewShotError(f"{name} is {value}, expected at least {least}")
        labels = np.asarray(self.y)
        order = np.argsort(labels, kind="stable").astype(np.int64)
        pool, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
        need = self.n_shot + self.n_query
        usable = counts >= need
        if self.classes is not None:
            usable &= np.isin(pool, np.asarray(self.classes))
        if usable.sum() < self.n_way:
            where = "the data have" if self.site is None else f"site '{self.site}' has"
            found = int(usable.sum())
            raise FewShotError(
                f"n_way is {self.n_way} but {where} {found} class{'' if found == 1 else 'es'} "
                f"with at least {need} examples; lower n_way or add examples"
            )
        return pool[usable], order, starts[usable].astype(np.int64), counts[usable].astype(np.int64)


def _subsets(rng: np.random.Generator, counts: NDArray[np.int64], *, size: int) -> NDArray[np.int64]:
    """(len(counts), size): in each row a random ordered subset of 0..count-1.

    Floyd's algorithm on all rows at once: its cost does not depend on how many examples a class has.
    """
    uniform = rng.random((size, len(counts)))
    chosen = np.empty((len(counts), size), np.int64)
    for i in range(size):
        last = counts - size + i
        drawn = (uniform[i] * (last + 1)).astype(np.int64)
        taken = (chosen[:, :i] == drawn[:, None]).any(axis=1)
        chosen[:, i] = np.where(taken, last, drawn)
    shuffled = np.argsort(rng.random((len(counts), size)), axis=1)
    return np.take_along_axis(chosen, shuffled, axis=1)
