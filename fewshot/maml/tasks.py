"""What meta-learning is made of: episodes as tensors, the inner descent's settings, a learner. Imports torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fewshot.episodes import EpisodeSampler
from foedus.errors import FewShotError

Tensor = torch.Tensor
Inputs = tuple[Tensor, ...]
Rates = Literal["fixed", "steps", "parameters"]


@dataclass(frozen=True)
class Tasks:
    """Episodes that share their labels.

    Attributes:
        support: Tensors (E, s, ...): one for a feature matrix, or what a backbone keeps.
        labels: (s,), int64, classes 0..n_way-1.
        query: Tensors (E, q, ...).
        query_labels: (q,), int64.
        classes: (E, n_way), int64, what the sampler calls the classes of each episode, where those are whole
            numbers: rows of a head that all episodes share. Else None.
    """

    support: Inputs
    labels: Tensor
    query: Inputs
    query_labels: Tensor
    classes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.support[0])


@dataclass(frozen=True)
class Inner:
    """The descent on a support set.

    Attributes:
        n_steps: Gradient steps on the mean cross-entropy.
        lr: Their length; where learning of it starts, unless `rates` is "fixed".
        first_order: Leave the second derivatives out (first-order MAML).
        rates: What learns of the length: nothing (MAML), one number a step, or one a parameter
            (Meta-SGD: Li et al. 2017).
    """

    n_steps: int = 5
    lr: float = 0.1
    first_order: bool = False
    rates: Rates = "fixed"

    def __post_init__(self) -> None:
        if self.n_steps < 1:
            raise FewShotError(f"n_steps is {self.n_steps}, expected at least 1")
        if self.rates not in ("fixed", "steps", "parameters"):
            raise FewShotError(f"rates is '{self.rates}', expected 'fixed', 'steps' or 'parameters'")


class Learner(Protocol):
    """Something whose start (and rates) the outer loop learns."""

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Leaves that the outer loop moves."""
        ...

    def descend(self, tasks: Tasks) -> float:
        """Mean query loss after the inner descent; its gradient is added to every parameter's `grad`."""
        ...

    def scores(self, tasks: Tasks) -> Tensor:
        """(E, q, n_way), query logits after the inner descent, detached."""
        ...


def take_tasks(data: Sequence[NDArray[Any]], sampler: EpisodeSampler, *, n_episodes: int) -> Tasks:
    """The sampler's first episodes of some data.

    Args:
        data: Arrays with a row for each label of the sampler: (a feature matrix,), or what
            `foedus.backbones.tunable` keeps below the cut.
        sampler: Its seed decides the episodes.
        n_episodes: How many.

    Raises:
        FewShotError: If rows and labels differ in number, or the examples do not allow the episodes.
    """
    n = len(np.asarray(sampler.y))
    if not data or any(len(part) != n for part in data):
        lengths = ", ".join(str(len(part)) for part in data) or "no"
        raise FewShotError(
            f"the data have {lengths} rows and the sampler {n} labels; give both for all examples"
        )
    episodes = sampler.draw(n_episodes)
    return Tasks(
        tuple(torch.from_numpy(np.asarray(part)[episodes.support]) for part in data),
        torch.from_numpy(sampler.support_labels),
        tuple(torch.from_numpy(np.asarray(part)[episodes.query]) for part in data),
        torch.from_numpy(sampler.query_labels),
        torch.from_numpy(episodes.classes) if episodes.classes.dtype.kind == "i" else None,
    )


def query_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of scores (E, q, n_way) against shared labels (q,)."""
    flat = scores.reshape(-1, scores.shape[-1])
    return torch.nn.functional.cross_entropy(flat, labels.repeat(len(scores)))


def starting_rates(inner: Inner, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leaves of the step lengths, by the name they are learnt under; empty when they are fixed."""
    some = next(iter(parameters.values()))
    if inner.rates == "steps":
        return {"rates.steps": some.new_full((inner.n_steps,), inner.lr).requires_grad_()}
    if inner.rates == "parameters":
        return {
            f"rates.{name}": torch.full_like(value, inner.lr).requires_grad_()
            for name, value in parameters.items()
        }
    return {}
