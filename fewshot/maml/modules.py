"""MAML of any module by learn2learn, one episode after the other. Imports torch; learn2learn when a learner is made."""

import contextlib
import io
import warnings
from collections.abc import Collection
from typing import Any

import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from fewshot.maml.exact import refuse_batch_statistics, second_derivatives
from fewshot.maml.functional import adapted_names
from fewshot.maml.tasks import Inner, Inputs, Tasks
from foedus.errors import FewShotError

Tensor = torch.Tensor


def import_learn2learn() -> Any:
    """The package, without the notice that gym prints; its import takes seconds.

    Raises:
        FewShotError: If it is not installed.
    """
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import learn2learn
    except ImportError as error:
        raise FewShotError(
            f"MAML of whole modules needs learn2learn, which cannot be imported ({error.name or error}); "
            "install the extra with uv sync --extra learn2learn."
        ) from None
    return learn2learn


class _Moving(torch.nn.Module):
    """The parameters that adapt, as a module that learn2learn can clone; the rest of the network stays where it is."""

    def __init__(self, network: torch.nn.Module, moving: dict[str, torch.nn.Parameter]) -> None:
        super().__init__()
        self.__dict__["network"] = network  # not a child: learn2learn would clone all of it
        self.names = list(moving)
        for place, parameter in enumerate(moving.values()):
            self.register_parameter(f"p{place}", parameter)

    def forward(self, inputs: Inputs) -> Tensor:
        """(n, n_way) logits."""
        own: dict[str, Tensor] = {name: getattr(self, f"p{place}") for place, name in enumerate(self.names)}
        found: Tensor = functional_call(self.__dict__["network"], own, inputs)
        return found


class ModuleLearner:
    """MAML, first-order MAML, ANIL and Meta-SGD of any module from inputs to logits (n, n_way).

    Args:
        module: Its parameters with `requires_grad` are what learns; the outer loop changes them in place.
        inner: The descent.
        adapts: Names of those that the descent moves (ANIL: the head's); all that learn when None.

    Raises:
        FewShotError: If learn2learn is missing, a BatchNorm is in training mode, or a name is unknown.
    """

    def __init__(
        self, module: torch.nn.Module, inner: Inner, *, adapts: Collection[str] | None = None
    ) -> None:
        refuse_batch_statistics(module)
        algorithms = import_learn2learn().algorithms
        self.module, self.inner = module, inner
        self._start = {name: p for name, p in module.named_parameters() if p.requires_grad}
        names = adapted_names(self._start, adapts)
        moving = _Moving(module, {name: self._start[name] for name in names})
        self._rates: dict[str, Tensor] = {}
        if inner.rates == "parameters":
            self._meta = algorithms.MetaSGD(moving, lr=inner.lr, first_order=inner.first_order)
            self._rates = {f"rates.{name}": rate for name, rate in zip(names, self._meta.lrs, strict=True)}
        else:
            self._meta = algorithms.MAML(moving, lr=inner.lr, first_order=inner.first_order)
        if inner.rates == "steps":
            some = next(iter(self._start.values()))
            self._rates = {"rates.steps": some.new_full((inner.n_steps,), inner.lr).requires_grad_()}

    @property
    def parameters(self) -> dict[str, Tensor]:
        """See `Learner`."""
        return {**self._start, **self._rates}

    def descend(self, tasks: Tasks) -> float:
        """See `Learner`."""
        total = 0.0
        with second_derivatives():
            for episode in range(len(tasks)):
                loss = cross_entropy(self._of_one(tasks, episode, self.inner.first_order), tasks.query_labels)
                (loss / len(tasks)).backward()  # type: ignore[no-untyped-call]
                total += float(loss.detach())
        return total / len(tasks)

    def scores(self, tasks: Tasks) -> Tensor:
        """See `Learner`."""
        with second_derivatives():
            return torch.stack([self._of_one(tasks, i, True).detach() for i in range(len(tasks))])

    def _of_one(self, tasks: Tasks, episode: int, first_order: bool) -> Tensor:
        learner = self._meta.clone()
        support = tuple(part[episode] for part in tasks.support)
        # learn2learn's MAML.adapt prints a gradient's error and goes on, but not with allow_nograd.
        options = {} if self.inner.rates == "parameters" else {"allow_nograd": True}
        for step in range(self.inner.n_steps):
            if self.inner.rates == "steps":
                learner.lr = self._rates["rates.steps"][step]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Meta-SGD reads .grad of tensors that are no leaves
                learner.adapt(
                    cross_entropy(learner(support), tasks.labels), first_order=first_order, **options
                )
        found: Tensor = learner(tuple(part[episode] for part in tasks.query))
        return found
