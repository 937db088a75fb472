"""MAML of small networks, all episodes at once: torch.func differentiates one, vmap runs them together."""

from collections.abc import Collection

import torch
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from fewshot.maml.exact import refuse_batch_statistics, second_derivatives
from fewshot.maml.tasks import Inner, Tasks, query_loss, starting_rates
from foedus.errors import FewShotError

Tensor = torch.Tensor
Named = dict[str, Tensor]


class NetworkLearner:
    """MAML, first-order MAML, ANIL and Meta-SGD of a network from features (n, d) to logits (n, n_way).

    Args:
        network: Its parameters are what learns; they are changed in place by the outer loop.
        inner: The descent.
        adapts: Names of the parameters that the descent moves, such as the last layer's (ANIL); all when
            None. The others learn in the outer loop only.

    Raises:
        FewShotError: If a BatchNorm is in training mode, or a name is unknown.
    """

    def __init__(
        self, network: torch.nn.Module, inner: Inner, *, adapts: Collection[str] | None = None
    ) -> None:
        refuse_batch_statistics(network)
        self.network, self.inner = network, inner
        self._start: Named = dict(network.named_parameters())
        self._adapts = adapted_names(self._start, adapts)
        self._rates = starting_rates(inner, {name: self._start[name] for name in self._adapts})

    @property
    def parameters(self) -> Named:
        """See `Learner`."""
        return {**self._start, **self._rates}

    def descend(self, tasks: Tasks) -> float:
        """See `Learner`."""
        with second_derivatives():
            loss = query_loss(self._scores(tasks), tasks.query_labels)
            loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def scores(self, tasks: Tasks) -> Tensor:
        """See `Learner`."""
        with torch.no_grad():
            return self._scores(tasks)

    def _scores(self, tasks: Tasks) -> Tensor:
        kind = next(iter(self._start.values())).dtype

        def support_loss(moving: Named, support: Tensor) -> Tensor:
            return cross_entropy(
                functional_call(self.network, {**self._start, **moving}, support), tasks.labels
            )

        def of_one(support: Tensor, query: Tensor) -> Tensor:
            moving = {name: self._start[name] for name in self._adapts}
            for step in range(self.inner.n_steps):
                slopes = grad(support_loss)(moving, support)
                moving = {
                    name: value - self._length(name, step) * self._slope(slopes[name])
                    for name, value in moving.items()
                }
            found: Tensor = functional_call(self.network, {**self._start, **moving}, query)
            return found

        scores: Tensor = vmap(of_one)(tasks.support[0].to(kind), tasks.query[0].to(kind))
        return scores

    def _slope(self, slope: Tensor) -> Tensor:
        return slope.detach() if self.inner.first_order else slope

    def _length(self, name: str, step: int) -> Tensor | float:
        match self.inner.rates:
            case "steps":
                return self._rates["rates.steps"][step]
            case "parameters":
                return self._rates[f"rates.{name}"]
            case _:
                return self.inner.lr


def adapted_names(known: Collection[str], adapts: Collection[str] | None) -> list[str]:
    """The names that adapt, in the order known.

    Raises:
        FewShotError: If one is unknown, or none is left.
    """
    if adapts is None:
        return list(known)
    if unknown := sorted(set(adapts) - set(known)):
        raise FewShotError(
            f"'{unknown[0]}' is no parameter that learns; the network has {', '.join(list(known)[:6])}"
        )
    if not adapts:
        raise FewShotError("no parameter adapts; name at least one")
    return [name for name in known if name in adapts]
