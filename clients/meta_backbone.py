"""Rounds of episodes through a backbone that learns, one episode after the other by learn2learn. Imports torch."""

from collections.abc import Iterator

import torch

from clients.finetune import rates, standardise
from clients.training import Descent
from clients.workplace import Workplace
from fewshot.maml.exact import second_derivatives
from fewshot.maml.modules import ModuleLearner
from fewshot.maml.tasks import Inner, Tasks, query_loss
from foedus.backbones import Standardiser
from foedus.backbones.tunable import Tunable
from foedus.errors import BackboneError, FewShotError
from foedus.head import LinearHead
from foedus.model import BACKBONE, Model

Tensor = torch.Tensor
HEAD = ("weight", "bias")


class _Scorer(torch.nn.Module):
    """From what is kept below the cut to the logits of an episode's classes."""

    def __init__(self, tunable: Tunable, head: LinearHead, standardiser: Standardiser) -> None:
        super().__init__()
        self.network, self._above = tunable.network, tunable.path.above
        self._standardise = standardise(standardiser, tunable.device)
        self.weight, self.bias = (
            torch.nn.Parameter(torch.tensor(value, device=tunable.device))
            for value in (head.weight, head.bias)
        )
        self.classes = torch.arange(len(head.bias))

    def forward(self, *kept: Tensor) -> Tensor:
        """(n, n_way) logits."""
        features = self._standardise(self._above(kept))
        return torch.nn.functional.linear(features, self.weight, self.bias)[:, self.classes]


class SharedBackbone:
    """See `fewshot.maml.shared.SharedLearner`: a head over all classes, and the tensors of the backbone that learn.

    Args:
        site: Where we are.
        shared: The start that came.
        standardiser: Between backbone and head.
        inner: The descent on a support set.
        anil: Only the head adapts.

    Raises:
        BackboneError: If learn2learn is not installed, or the backbone cannot be differentiated so.
    """

    def __init__(
        self, site: Workplace, shared: Model, standardiser: Standardiser, inner: Inner, *, anil: bool
    ) -> None:
        self.site, self.tunable, self.inner = site, site.tunable, inner
        self.tunable.load(shared.backbone)
        self.tunable.require_eval()
        self.scorer = _Scorer(self.tunable, shared.head, standardiser)
        learnt = {id(tensor): BACKBONE + name for name, tensor in self.tunable.tensors.items()}
        names = {name: learnt.get(id(p), name) for name, p in self.scorer.named_parameters()}
        try:
            self._learner = ModuleLearner(self.scorer, inner, adapts=HEAD if anil else None)
        except FewShotError as error:
            raise BackboneError(str(error)) from None
        self._parameters = {names[name]: p for name, p in self._learner.parameters.items()}

    @property
    def parameters(self) -> dict[str, Tensor]:
        """See `SharedLearner`: by the names of `Model.weights`."""
        return self._parameters

    def rates(self) -> dict[str, tuple[float, float]]:
        """Learning rate and weight decay of each parameter, as in a round of plain descent."""
        federation, tuning, depths = self.site.study.federation, self.site.study.tuning, self.tunable.depths()
        descent = Descent(1, federation.batch_size, federation.lr, federation.weight_decay)
        return {name: rates(name, p.ndim, descent, tuning, depths) for name, p in self._parameters.items()}

    def model(self) -> Model:
        """The start as it is now."""
        weight, bias = (self._parameters[name].detach().cpu().numpy().copy() for name in HEAD)
        return Model(LinearHead(weight, bias), self.tunable.current())

    def descend(self, tasks: Tasks) -> float:
        """See `SharedLearner`."""
        losses = []
        try:
            for episode in self._each(tasks):
                losses.append(self._learner.descend(episode))
        except FewShotError as error:
            raise BackboneError(str(error)) from None
        self._average(len(tasks))
        return sum(losses) / len(losses)

    def approach(self, tasks: Tasks) -> float:
        """See `SharedLearner`."""
        losses = []
        start = {name: p.detach().clone() for name, p in self._parameters.items()}
        away = {name: torch.zeros_like(p) for name, p in start.items()}
        for episode in self._each(tasks):
            losses.append(self._walk(episode))
            with torch.no_grad():
                for name, parameter in self._parameters.items():
                    away[name] += start[name] - parameter
                    parameter.copy_(start[name])
        for name, parameter in self._parameters.items():
            parameter.grad = away[name]
        self._average(len(tasks))
        return sum(losses) / len(losses)

    def _walk(self, episode: Tasks) -> float:
        """Plain descent of the parameters themselves; the loss at its end."""
        rows = tuple(
            torch.cat(parts) for parts in zip(self._of(episode.support), self._of(episode.query), strict=True)
        )
        labels = torch.cat([episode.labels, episode.query_labels])
        parameters = list(self._parameters.values())
        with second_derivatives():
            for _ in range(self.inner.n_steps):
                slopes = torch.autograd.grad(query_loss(self.scorer(*rows)[None], labels), parameters)
                with torch.no_grad():
                    for parameter, slope in zip(parameters, slopes, strict=True):
                        parameter -= self.inner.lr * slope
            with torch.no_grad():
                return float(query_loss(self.scorer(*rows)[None], labels))

    def _each(self, tasks: Tasks) -> Iterator[Tasks]:
        """One episode after the other, on the device, with the scorer set to its classes."""
        if tasks.classes is None:
            raise ValueError("the episodes' classes are names; label examples by rows of the shared head")
        device = self.tunable.device
        for i in range(len(tasks)):
            self.scorer.classes = tasks.classes[i].to(device)
            yield Tasks(
                tuple(part[i : i + 1].to(device) for part in tasks.support),
                tasks.labels.to(device),
                tuple(part[i : i + 1].to(device) for part in tasks.query),
                tasks.query_labels.to(device),
            )

    @staticmethod
    def _of(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(part[0] for part in parts)

    def _average(self, n_episodes: int) -> None:
        """The mean over episodes; the backbone's is cut to the length the study allows."""
        for parameter in self._parameters.values():
            if parameter.grad is not None:
                parameter.grad /= n_episodes
        tuned = [p for name, p in self._parameters.items() if name.startswith(BACKBONE)]
        torch.nn.utils.clip_grad_norm_(tuned, self.site.study.tuning.max_norm)
