"""Episodes: which examples are support and which are query, drawn for all episodes at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foedus.errors import FewShotError


@dataclass(frozen=True)
class Episodes:
    """Row numbers of many episodes, class by class: `EpisodeSampler.support_labels` says which row is whose.

    Attributes:
        classes: (n_episodes, n_way), the labels drawn, in the order 0..n_way-1 of the episode.
        support: (n_episodes, n_way * n_shot), rows of the embeddings; with unequal shots their sum.
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
        n_shot: Support examples of each class; or one number for each of the n_way classes of an
            episode, which fall to classes at random: `(1, 1, 3, 5, 10)` is an unbalanced episode.
        n_query: Query examples of each class.
        random_state: Seed. `draw` starts from it each time, so that methods which share a
            sampler meet the same episodes and can be compared pairwise.
        classes: Labels to draw from; all when None.
        site: Name for messages.
        held_out: (n,), true where a row may be a query only, and false where it may be support only: the
            rows of other sites, patients or years. Any row may be either when None.
    """

    y: ArrayLike
    n_way: int = 5
    n_shot: int | Sequence[int] = 5
    n_query: int = 15
    random_state: int = 0
    classes: ArrayLike | None = None
    site: str | None = None
    held_out: ArrayLike | None = None

    @property
    def shots(self) -> NDArray[np.int64]:
        """(n_way,), support examples of each class of an episode."""
        given = np.atleast_1d(np.asarray(self.n_shot, np.int64))
        return np.full(self.n_way, given[0]) if given.size == 1 else given

    @property
    def support_labels(self) -> NDArray[np.int64]:
        """(n_support,), 0..n_way-1: labels of an episode's support rows, the same in every episode."""
        return np.repeat(np.arange(self.n_way), self.shots)

    @property
    def query_labels(self) -> NDArray[np.int64]:
        """(n_query * n_way,), 0..n_way-1: labels of an episode's query rows."""
        return np.repeat(np.arange(self.n_way), self.n_query)

    def draw(self, n_episodes: int) -> Episodes:
        """`n_episodes` episodes, the same ones at every call.

        Raises:
            FewShotError: If too few classes have enough examples.
        """
        shots, most = self._checked_shots(), int(self.shots.max())
        held = None if self.held_out is None else np.asarray(self.held_out, bool)
        parts = [(None, most + self.n_query)] if held is None else [(~held, most), (held, self.n_query)]
        blocks = [_Block.of(np.asarray(self.y), rows) for rows, _ in parts]
        pool = self._pool(blocks, [need for _, need in parts])
        rng = np.random.default_rng(self.random_state)
        chosen = np.argsort(rng.random((n_episodes, len(pool))), axis=1)[:, : self.n_way]
        classes = pool[chosen]
        drawn = [block.draw(rng, classes, size=need) for block, (_, need) in zip(blocks, parts, strict=True)]
        rows = np.concatenate(drawn, axis=2)
        support = rows[:, :, :most][:, np.arange(most) < shots[:, None]]
        query = rows[:, :, most:].reshape(n_episodes, -1)
        return Episodes(classes, support, query)

    def _checked_shots(self) -> NDArray[np.int64]:
        for name, value, least in (
            ("n_way", self.n_way, 2),
            ("n_shot", int(self.shots.min()), 1),
            ("n_query", self.n_query, 1),
        ):
            if value < least:
                raise FewShotError(f"{name} is {value}, expected at least {least}")
        if len(self.shots) != self.n_way:
            raise FewShotError(
                f"n_shot has {len(self.shots)} numbers but n_way is {self.n_way}; give one for each class"
            )
        return self.shots

    def _pool(self, blocks: "list[_Block]", needs: list[int]) -> NDArray[np.generic]:
        """Classes with enough rows in every block."""
        enough = [block.classes[block.counts >= need] for block, need in zip(blocks, needs, strict=True)]
        pool = enough[0][np.isin(enough[0], enough[-1])]
        if self.classes is not None:
            pool = pool[np.isin(pool, np.asarray(self.classes))]
        if len(pool) < self.n_way:
            where = "the data have" if self.site is None else f"site '{self.site}' has"
            plural = "" if len(pool) == 1 else "es"
            raise FewShotError(
                f"n_way is {self.n_way} but {where} {len(pool)} class{plural} "
                f"with at least {' and '.join(map(str, needs))} examples; lower n_way or add examples"
            )
        return pool


@dataclass(frozen=True)
class _Block:
    """Rows that can be drawn, sorted by class."""

    classes: NDArray[np.generic]
    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, labels: NDArray[np.generic], rows: NDArray[np.bool_] | None) -> "_Block":
        """The rows marked, all when None."""
        among = np.arange(len(labels)) if rows is None else np.flatnonzero(rows)
        order = among[np.argsort(labels[among], kind="stable")]
        classes, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
        return cls(classes, order, starts.astype(np.int64), counts.astype(np.int64))

    def draw(self, rng: np.random.Generator, classes: NDArray[np.generic], *, size: int) -> NDArray[np.int64]:
        """(n_episodes, n_way, size): random rows of each class drawn ((n_episodes, n_way)), none twice."""
        at = np.searchsorted(self.classes, classes)
        picks = _subsets(rng, self.counts[at].ravel(), size=size)
        return np.asarray(self.order[self.starts[at][..., None] + picks.reshape(*at.shape, size)])


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
