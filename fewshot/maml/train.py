"""Meta-training: episodes of base classes, an outer optimiser, episodes of other classes to know when to stop."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fewshot.episodes import EpisodeSampler
from fewshot.maml.tasks import Learner, query_loss, take_tasks
from foedus.errors import FewShotError

log = logging.getLogger(__name__)
Tensor = torch.Tensor


@dataclass(frozen=True)
class Outer:
    """The outer loop.

    Attributes:
        steps: Most outer steps.
        lr: Their length.
        optimizer: "adam" or "sgd".
        meta_batch: Episodes of a step.
        validate_every: Steps between two validations.
        validation_episodes: The same ones every time.
        patience: Validations without a lower loss before it stops.
    """

    steps: int = 500
    lr: float = 1e-3
    optimizer: Literal["adam", "sgd"] = "adam"
    meta_batch: int = 16
    validate_every: int = 25
    validation_episodes: int = 100
    patience: int = 5

    def __post_init__(self) -> None:
        for name in ("steps", "meta_batch", "validate_every", "validation_episodes", "patience"):
            if getattr(self, name) < 1:
                raise FewShotError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.optimizer not in ("adam", "sgd"):
            raise FewShotError(f"optimizer is '{self.optimizer}', expected 'adam' or 'sgd'")


@dataclass(frozen=True)
class Validation:
    """After so many outer steps: mean query loss (nats) and accuracy (0..1) on the validation episodes."""

    step: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Course:
    """How meta-training went; the learner holds what was best.

    Attributes:
        validations: Before the first step, then every `validate_every` steps.
        best: The one with the lowest loss; step 0 if training did not help.
        losses: Mean query loss of each outer step.
    """

    validations: list[Validation]
    best: Validation
    losses: list[float]


def meta_train(
    learner: Learner,
    data: Sequence[NDArray[Any]],
    train: EpisodeSampler,
    *,
    validation: EpisodeSampler,
    outer: Outer | None = None,
) -> Course:
    """Learn the learner's start (and rates) from episodes; same seeds, same result.

    Args:
        learner: Ends with what was best in validation.
        data: Rows for all labels of the samplers, as in `take_tasks`.
        train: Its seed, and the number of the step, decide each step's episodes.
        validation: Draws from other classes than `train`, so that what is measured is learning a class anew.
        outer: The outer loop's settings.

    Raises:
        FewShotError: If the examples do not allow the episodes, classes are shared, or a loss is not finite.
    """
    outer = outer or Outer()
    _refuse_shared(train, validation)
    checks = take_tasks(data, validation, n_episodes=outer.validation_episodes)
    kinds = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    optimizer = kinds[outer.optimizer](list(learner.parameters.values()), lr=outer.lr)

    def validate(step: int) -> Validation:
        scores = learner.scores(checks)
        loss = float(query_loss(scores, checks.query_labels))
        right = (scores.argmax(-1) == checks.query_labels).double().mean()
        log.info("outer step %d: validation loss %.4f, accuracy %.4f", step, loss, right)
        return Validation(step, loss, float(right))

    validations, losses = [validate(0)], []
    best, kept = validations[0], _copy(learner)
    for step in range(1, outer.steps + 1):
        seed = int(np.random.SeedSequence([train.random_state, step]).generate_state(1)[0])
        tasks = take_tasks(data, replace(train, random_state=seed), n_episodes=outer.meta_batch)
        optimizer.zero_grad()
        losses.append(learner.descend(tasks))
        if not np.isfinite(losses[-1]):
            raise FewShotError(
                f"the loss of outer step {step} is not finite; lower the inner or the outer lr"
            )
        optimizer.step()
        if step % outer.validate_every == 0 or step == outer.steps:
            validations.append(validate(step))
            if validations[-1].loss < best.loss:
                best, kept = validations[-1], _copy(learner)
            elif step - best.step >= outer.patience * outer.validate_every:
                break
    with torch.no_grad():
        for name, parameter in learner.parameters.items():
            parameter.copy_(kept[name])
    return Course(validations, best, losses)


def _copy(learner: Learner) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in learner.parameters.items()}


def _refuse_shared(train: EpisodeSampler, validation: EpisodeSampler) -> None:
    """Refuse to validate on a class that is trained on."""
    ours, theirs = (np.asarray(s.y if s.classes is None else s.classes) for s in (train, validation))
    if shared := np.intersect1d(ours, theirs).tolist():
        raise FewShotError(
            f"{len(shared)} class{'' if len(shared) == 1 else 'es'} of the validation episodes occur in training "
            "too; give each sampler classes of its own"
        )
