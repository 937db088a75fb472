"""MAML of linear heads, all episodes at once, exact second order without a graph of weights. Imports torch.

A gradient step moves the weights by a combination of support features, so T steps need only its
coefficients A, a (support, class) matrix: A += lr/s (Y - softmax(S + K A)), with S the start's scores and
K = X diag(rates) Xᵀ. The weights themselves (class, feature) are never formed: at 5-way 5-shot and 384
features that is 125 numbers instead of 1,920 a step. With more examples than features, or a rate for every
weight, the weights are stepped instead.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

from fewshot.maml.tasks import Inner, Tasks, query_loss, starting_rates
from foedus.errors import FewShotError

Tensor = torch.Tensor
Start = Literal["learnt", "prototype"]


@dataclass(frozen=True)
class Head:
    """A linear head before the first step.

    Attributes:
        weight: (n_way, d), or (E, n_way, d) where episodes start differently.
        bias: (n_way,) or (E, n_way).
    """

    weight: Tensor
    bias: Tensor

    def scores(self, features: Tensor) -> Tensor:
        """(E, n, n_way) of features (E, n, d)."""
        bias = self.bias if self.bias.ndim == 1 else self.bias[:, None]
        return features @ self.weight.mT + bias


@dataclass(frozen=True)
class StepLengths:
    """How long the steps are; the product of a step's own length and a parameter's.

    Attributes:
        steps: (n_steps,).
        weight: 1, (d,) or (n_way, d).
        bias: 1 or (n_way,).
    """

    steps: Tensor
    weight: Tensor
    bias: Tensor


def adapted_scores(
    start: Head,
    support: Tensor,
    labels: Tensor,
    *,
    query: Tensor,
    lengths: StepLengths,
    first_order: bool = False,
) -> Tensor:
    """(E, q, n_way), logits of queries after the descent; differentiable in everything given.

    Args:
        start: Where the descent begins.
        support: (E, s, d).
        labels: (s,), int64.
        query: (E, q, d).
        lengths: Of the steps.
        first_order: Treat the inner gradients as constants.
    """
    n_way = start.weight.shape[-2]
    aim = torch.nn.functional.one_hot(labels, n_way).to(support) / len(labels)
    if lengths.weight.ndim < 2 and support.shape[1] < support.shape[2]:
        return _in_span(start, support, aim, query, lengths, first_order)
    return _stepwise(start, support, aim, query, lengths, first_order)


def prototype_start(support: Tensor, labels: Tensor, temperature: Tensor) -> Head:
    """The head of -t ‖x - prototype‖² (Proto-MAML: Triantafillou et al. 2020, eq. 6), for each episode."""
    one_hot = torch.nn.functional.one_hot(labels).to(support)
    centres = (one_hot / one_hot.sum(0)).T @ support
    return Head(2 * temperature * centres, -temperature * centres.square().sum(-1))


def _in_span(
    start: Head, x: Tensor, aim: Tensor, query: Tensor, lengths: StepLengths, first_order: bool
) -> Tensor:
    with torch.no_grad() if first_order else nullcontext():
        begin = start.scores(x)
        kernel = (x * lengths.weight) @ x.mT
        pulls = [aim - begin.softmax(-1) / x.shape[1]]
        moved = lengths.steps[0] * pulls[0]
        for length in lengths.steps[1:]:
            scores = begin + kernel @ moved + lengths.bias * moved.sum(1, keepdim=True)
            pulls.append(aim - scores.softmax(-1) / x.shape[1])
            moved = moved + length * pulls[-1]
    if first_order:
        x = x.detach()
        moved = torch.einsum("t,tesc->esc", lengths.steps, torch.stack(pulls))
    reach = (query * lengths.weight) @ x.mT
    return start.scores(query) + reach @ moved + lengths.bias * moved.sum(1, keepdim=True)


def _stepwise(
    start: Head, x: Tensor, aim: Tensor, query: Tensor, lengths: StepLengths, first_order: bool
) -> Tensor:
    weight = start.weight.expand(len(x), *start.weight.shape[-2:])
    bias = start.bias.expand(len(x), start.bias.shape[-1])
    for length in lengths.steps:
        pull = aim - Head(weight, bias).scores(x).softmax(-1) / x.shape[1]
        turn, shift = pull.mT @ x, pull.sum(1)
        if first_order:
            turn, shift = turn.detach(), shift.detach()
        weight = weight + length * lengths.weight * turn
        bias = bias + length * lengths.bias * shift
    return Head(weight, bias).scores(query)


class LinearLearner:
    """MAML, first-order MAML, Meta-SGD and Proto-MAML of a linear head; ANIL with an embedding before it.

    Args:
        dim: Features that the head reads.
        n_way: Classes of an episode.
        inner: The descent.
        start: "learnt", or "prototype" (what learns is then the temperature, the rates and the embedding).
        embedding: Learns in the outer loop only (ANIL: Raghu et al. 2020); (n, features) to (n, dim).
        dtype: Of all that is computed.
        seed: Of the learnt start.

    With a fixed embedding MAML of the head is ANIL.
    """

    def __init__(
        self,
        dim: int,
        n_way: int,
        *,
        inner: Inner,
        start: Start = "learnt",
        embedding: torch.nn.Module | None = None,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> None:
        if start not in ("learnt", "prototype"):
            raise FewShotError(f"start is '{start}', expected 'learnt' or 'prototype'")
        self.inner, self.embedding, self.dtype = inner, embedding, dtype
        generator = torch.Generator().manual_seed(seed)
        weight = (2 * torch.rand((n_way, dim), generator=generator) - 1).to(dtype) / dim**0.5
        head = {"weight": weight, "bias": torch.zeros(n_way, dtype=dtype)}
        self._parameters = starting_rates(inner, head)
        if start == "learnt":
            self._parameters |= {name: value.requires_grad_() for name, value in head.items()}
        else:
            self._parameters["temperature"] = torch.tensor(10.0 / dim, dtype=dtype, requires_grad=True)
        if embedding is not None:
            self._parameters |= {f"embedding.{name}": p for name, p in embedding.named_parameters()}

    @property
    def parameters(self) -> dict[str, Tensor]:
        """See `Learner`: "weight", "bias", "temperature", "rates..." and "embedding...", as they exist."""
        return self._parameters

    def descend(self, tasks: Tasks) -> float:
        """See `Learner`."""
        loss = query_loss(self._scores(tasks), tasks.query_labels)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def scores(self, tasks: Tasks) -> Tensor:
        """See `Learner`."""
        with torch.no_grad():
            return self._scores(tasks)

    def _scores(self, tasks: Tasks) -> Tensor:
        support, query = (self._embedded(part[0].to(self.dtype)) for part in (tasks.support, tasks.query))
        return adapted_scores(
            self._start(support, tasks.labels),
            support,
            tasks.labels,
            query=query,
            lengths=self._lengths(support),
            first_order=self.inner.first_order,
        )

    def _embedded(self, features: Tensor) -> Tensor:
        if self.embedding is None:
            return features
        flat: Tensor = self.embedding(features.reshape(-1, features.shape[-1]))
        return flat.reshape(*features.shape[:2], -1)

    def _start(self, support: Tensor, labels: Tensor) -> Head:
        found = self._parameters
        if "weight" in found:
            return Head(found["weight"], found["bias"])
        return prototype_start(support, labels, found["temperature"])

    def _lengths(self, like: Tensor) -> StepLengths:
        found, one = self._parameters, like.new_ones(())
        fixed = like.new_full((self.inner.n_steps,), 1 if self.inner.rates == "parameters" else self.inner.lr)
        return StepLengths(
            found.get("rates.steps", fixed), found.get("rates.weight", one), found.get("rates.bias", one)
        )
