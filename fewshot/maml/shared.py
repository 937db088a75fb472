"""One site's part in learning a start together: episodes whose classes keep their rows of the head. Imports torch.

FedMeta      one mean meta-gradient, which travels (Chen et al. 2018, algorithm 1)
Per-FedAvg   several steps of it here (Fallah et al. 2020, algorithm 1)
ANIL         the same where the head alone adapts (Raghu et al. 2020)
Reptile      steps towards where plain descent on each episode ends (Nichol et al. 2018, algorithm 2)

Every class keeps its row in all episodes: with classes in shuffled places the best start is the same for each,
and knows nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fewshot.episodes import EpisodeSampler
from fewshot.maml.closed import Head, StepLengths, adapted_scores
from fewshot.maml.tasks import Inner, Tasks, query_loss, take_tasks

Tensor = torch.Tensor


class SharedLearner(Protocol):
    """A start that all episodes share. Both methods add to every parameter's `grad`."""

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Leaves that move."""
        ...

    def descend(self, tasks: Tasks) -> float:
        """The meta-gradient; returns the mean query loss after the inner descent."""
        ...

    def approach(self, tasks: Tasks) -> float:
        """Start minus where descent on support and query together ends (Reptile); returns their mean loss there."""
        ...


@dataclass(frozen=True)
class Outer:
    """A site's steps in one round.

    Attributes:
        steps: How many.
        episodes: Of each step; their gradients are averaged.
        reptile: Approach where descent ends, instead of following the meta-gradient.
        rates: Learning rate and weight decay of each parameter.
    """

    steps: int
    episodes: int
    reptile: bool
    rates: Mapping[str, tuple[float, float]]


class SharedHead:
    """A linear head over all classes of a study, on fixed features; an episode uses the rows of its classes.

    Args:
        weight: (n_classes, d).
        bias: (n_classes,).
        inner: The descent on a support set; its rates are fixed.
        dtype: Of all that is computed.
    """

    def __init__(
        self,
        weight: NDArray[np.floating],
        bias: NDArray[np.floating],
        inner: Inner,
        *,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self.inner, self.dtype = inner, dtype
        self.weight, self.bias = (torch.tensor(v, dtype=dtype, requires_grad=True) for v in (weight, bias))

    @property
    def parameters(self) -> dict[str, Tensor]:
        """See `SharedLearner`: "weight" and "bias"."""
        return {"weight": self.weight, "bias": self.bias}

    def descend(self, tasks: Tasks) -> float:
        """See `SharedLearner`; exact second order, in the span of the support set."""
        loss = query_loss(self._scores(tasks), tasks.query_labels)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def approach(self, tasks: Tasks) -> float:
        """See `SharedLearner`."""
        rows = torch.cat([tasks.support[0], tasks.query[0]], dim=1).to(self.dtype)
        labels = torch.cat([tasks.labels, tasks.query_labels])
        aim = torch.nn.functional.one_hot(labels, _classes(tasks).shape[1]).to(self.dtype)
        with torch.no_grad():
            start = self._start(tasks)
            weight, bias = start.weight.clone(), start.bias.clone()
            for _ in range(self.inner.n_steps):
                pull = (aim - Head(weight, bias).scores(rows).softmax(-1)) / len(labels)
                weight += self.inner.lr * pull.mT @ rows
                bias += self.inner.lr * pull.sum(1)
            self._add(self.weight, start.weight - weight, tasks)
            self._add(self.bias, start.bias - bias, tasks)
            return float(query_loss(Head(weight, bias).scores(rows), labels))

    def _start(self, tasks: Tasks) -> Head:
        classes = _classes(tasks)
        return Head(self.weight[classes], self.bias[classes])

    def _scores(self, tasks: Tasks) -> Tensor:
        one = torch.ones((), dtype=self.dtype)
        return adapted_scores(
            self._start(tasks),
            tasks.support[0].to(self.dtype),
            tasks.labels,
            query=tasks.query[0].to(self.dtype),
            lengths=StepLengths(one.new_full((self.inner.n_steps,), self.inner.lr), one, one),
            first_order=self.inner.first_order,
        )

    def _add(self, parameter: Tensor, change: Tensor, tasks: Tasks) -> None:
        """Add the mean over episodes of each class's change to the parameter's gradient."""
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        flat = change.reshape(-1, *change.shape[2:]) / len(tasks)
        parameter.grad.index_add_(0, _classes(tasks).reshape(-1), flat)


def learn_start(
    learner: SharedLearner, data: Sequence[NDArray[Any]], sampler: EpisodeSampler, outer: Outer
) -> float:
    """Move the learner's start by a round's steps at one site.

    Args:
        learner: Changed in place.
        data: Rows for all labels of the sampler, as in `take_tasks`.
        sampler: Its labels are whole numbers, rows of the shared head; its seed decides the episodes.
        outer: The steps.

    Returns:
        The mean of the steps' losses, nats.

    Raises:
        FewShotError: If the examples do not allow the episodes.
    """
    losses = []
    for step in range(outer.steps):
        seed = int(np.random.SeedSequence([sampler.random_state, step]).generate_state(1)[0])
        tasks = take_tasks(data, replace(sampler, random_state=seed), n_episodes=outer.episodes)
        for parameter in learner.parameters.values():
            parameter.grad = None
        losses.append(learner.approach(tasks) if outer.reptile else learner.descend(tasks))
        with torch.no_grad():
            for name, parameter in learner.parameters.items():
                rate, decay = outer.rates[name]
                if parameter.grad is not None:
                    parameter -= rate * (parameter.grad + decay * parameter)
    return float(np.mean(losses))


def _classes(tasks: Tasks) -> Tensor:
    """(E, n_way): rows of the shared head.

    Raises:
        ValueError: If the sampler's labels are no whole numbers.
    """
    if tasks.classes is None:
        raise ValueError("the episodes' classes are names; label examples by rows of the shared head")
    return tasks.classes
