"""Local training where the backbone learns too: gradient descent through the part above the cut. Imports torch."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, dropout, linear

from clients.training import Descent
from foedus.backbones import Standardiser
from foedus.backbones.tunable import Kept, Tunable, tensors_of
from foedus.errors import BackboneError
from foedus.head import LinearHead
from foedus.model import BACKBONE, Model
from foedus.statistic import Arrays
from foedus.study import TuningSection

Tensor = torch.Tensor
Learns = Literal["all", "head", "backbone"]
SHIFT = 8
"""Augmentation moves an image by up to 1/8 of its side."""


@dataclass(frozen=True)
class Lesson:
    """What one site trains on in one round.

    Attributes:
        tunable: The backbone.
        kept: What lies below its cut, of n examples.
        labels: (n,), int64; or (n, n_labels), see foedus.labels.
        standardiser: Between backbone and head.
        descent: Epochs, batch size, the head's rate.
        tuning: How the backbone learns.
        correction: Added to every gradient, by the names of `Model.weights` (SCAFFOLD); plain SGD then.
        centre: Of the proximal term; where training starts when None.
    """

    tunable: Tunable
    kept: Kept
    labels: NDArray[np.int64]
    standardiser: Standardiser
    descent: Descent
    tuning: TuningSection
    correction: Arrays = field(default_factory=dict)
    centre: Model | None = None


def finetune(
    lesson: Lesson, start: Model, *, rng: np.random.Generator, learns: Learns = "all"
) -> tuple[Model, float]:
    """Minimise the mean cross-entropy over head and backbone, from `start`.

    The head descends plainly at its own rate, as it does alone; the backbone by AdamW or SGD.

    Args:
        lesson: Data, network and settings.
        start: Head and tensors before the first step.
        rng: Draws the order of the examples and what is dropped.
        learns: What moves; the rest stays as it is.

    Returns:
        The model after the last step, and the mean loss over all steps.

    Raises:
        BackboneError: If the memory does not hold a single example, or the loss is not finite.
    """
    lesson.tunable.load(start.backbone)
    lesson.tunable.require_eval()
    course = _Course(lesson, start, learns)
    losses = []
    with torch.random.fork_rng(), _dropping(lesson.tunable, lesson.tuning):
        torch.manual_seed(int(rng.integers(2**31)))
        for _ in range(lesson.descent.epochs):
            order = rng.permutation(len(lesson.labels))
            for begin in range(0, len(order), lesson.descent.batch_size):
                losses.append(course.step(order[begin : begin + lesson.descent.batch_size], rng))
    if not np.isfinite(losses).all():
        raise BackboneError("the training loss is not finite; lower tuning.lr or federation.lr.")
    return Model(course.head(), lesson.tunable.current(), start.control), float(np.mean(losses))


class _Course:
    """The steps of one round."""

    def __init__(self, lesson: Lesson, start: Model, learns: Learns) -> None:
        self.lesson, device = lesson, lesson.tunable.device
        self.weight, self.bias = (
            torch.tensor(value, device=device, requires_grad=True)
            for value in (start.head.weight, start.head.bias)
        )
        self.standardise = standardise(lesson.standardiser, device)
        head = {"weight": self.weight, "bias": self.bias}
        tuned = {BACKBONE + name: p for name, p in lesson.tunable.tensors.items()}
        self.learning: dict[str, Tensor] = {
            **(head if learns != "backbone" else {}),
            **(tuned if learns != "head" else {}),
        }
        centre = (lesson.centre or start).weights() if lesson.descent.proximal_mu else {}
        self.centre = {name: torch.tensor(centre[name], device=device) for name in self.learning if centre}
        self.correction = {
            name: torch.tensor(lesson.correction[name], device=device)
            for name in self.learning
            if name in lesson.correction
        }
        self.optimizers = self._optimizers()
        self.micro = lesson.tuning.micro_batch or lesson.descent.batch_size
        above: Any = lesson.tunable.path.above
        self.above = torch.compile(above) if lesson.tuning.compile else above

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        """Plain descent for the head, the study's choice for the backbone; each array with its own rate."""
        tuning, depths = self.lesson.tuning, self.lesson.tunable.depths()
        groups: dict[str, list[dict[str, Any]]] = {"sgd": [], "adamw": []}
        for name, tensor in self.learning.items():
            rate, decay = rates(name, tensor.ndim, self.lesson.descent, tuning, depths)
            kind = tuning.optimizer if name.startswith(BACKBONE) else "sgd"
            groups[kind].append({"params": [tensor], "lr": rate, "weight_decay": decay})
        known = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
        return [known[kind](found, fused=True) for kind, found in groups.items() if found]

    def step(self, rows: NDArray[np.int64], rng: np.random.Generator) -> float:
        """One step on a batch, its examples a few at a time; half as many where the memory is too small."""
        while True:
            try:
                loss = self._gradients(rows, rng)
                break
            except torch.OutOfMemoryError:
                if self.micro == 1:
                    raise BackboneError(
                        "the device's memory does not hold one example; lower backbone.image_size or "
                        "max_tokens, set tuning.checkpointing = true, or tune less."
                    ) from None
                self.micro = max(1, min(self.micro, len(rows)) // 2)
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
        mu = self.lesson.descent.proximal_mu
        for name, tensor in self.learning.items():
            if tensor.grad is None:
                continue
            if mu:
                tensor.grad.add_(tensor.detach() - self.centre[name], alpha=mu)
            if name in self.correction:
                tensor.grad.add_(self.correction[name])
        if not self.lesson.correction:
            tuned = [t for name, t in self.learning.items() if name.startswith(BACKBONE)]
            torch.nn.utils.clip_grad_norm_(tuned, self.lesson.tuning.max_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def _gradients(self, rows: NDArray[np.int64], rng: np.random.Generator) -> float:
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        total, tuning = 0.0, self.lesson.tuning
        for begin in range(0, len(rows), self.micro):
            some = rows[begin : begin + self.micro]
            kept = tuple(array[some] for array in self.lesson.kept)
            if tuning.augment != "none":
                kept = (augmented(kept[0], flip=tuning.augment == "crop-flip", rng=rng),)
            labels = torch.from_numpy(self.lesson.labels[some]).to(self.weight.device)
            loss = self._loss(tensors_of(kept), labels) * (len(some) / len(rows))
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    def _loss(self, kept: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        tuning = self.lesson.tuning
        with self.lesson.tunable.autocast():
            features = self.above(kept)
        standard = dropout(self.standardise(features.float()), tuning.dropout, training=True)
        scores = linear(standard, self.weight, self.bias)
        return loss_of(scores, labels, smoothing=tuning.label_smoothing)

    def head(self) -> LinearHead:
        """The head as it is now."""
        return LinearHead(*(t.detach().cpu().numpy().copy() for t in (self.weight, self.bias)))


def loss_of(
    scores: Tensor, labels: Tensor, *, smoothing: float = 0.0, reduction: Literal["mean", "sum"] = "mean"
) -> Tensor:
    """Cross-entropy over records, as `foedus.labels.residuals` has it: of all labels of a record together."""
    if labels.ndim == 1:
        return cross_entropy(scores, labels, label_smoothing=smoothing, reduction=reduction)
    wanted = labels.to(scores.dtype) * (1 - smoothing) + smoothing / 2
    total = binary_cross_entropy_with_logits(scores, wanted, reduction="sum")
    return total if reduction == "sum" else total / len(labels)


def rates(
    name: str, ndim: int, descent: Descent, tuning: TuningSection, depths: dict[str, int]
) -> tuple[float, float]:
    """Learning rate and weight decay of an array, by its name in `Model.weights`."""
    if not name.startswith(BACKBONE):
        return descent.lr, descent.weight_decay if name == "weight" else 0.0
    rate = tuning.lr * tuning.layer_decay ** depths[name.removeprefix(BACKBONE)]
    return rate, tuning.weight_decay if ndim > 1 else 0.0


def standardise(standardiser: Standardiser, device: str) -> Any:
    """`Standardiser.apply` for tensors, differentiable; (n, dim) to (n, dim)."""
    mean = torch.tensor(standardiser.mean, dtype=torch.float32, device=device)
    scale = torch.tensor(standardiser.scale, dtype=torch.float32, device=device)
    centre = standardiser.centre

    def apply(features: Tensor) -> Tensor:
        standard = (features - mean) / scale
        if centre is None:
            return standard
        middle = torch.tensor(centre, dtype=torch.float32, device=device)
        return _unit(_unit(standard) - middle)

    return apply


def _unit(rows: Tensor) -> Tensor:
    return rows.div(rows.norm(dim=1, keepdim=True).clamp(min=1e-12))


def augmented(pixels: NDArray[Any], *, flip: bool, rng: np.random.Generator) -> NDArray[Any]:
    """(n, side, side, 3): each image shifted by up to 1/8 of its side over its mirrored edge, some mirrored."""
    side = pixels.shape[1]
    reach = side // SHIFT
    wide = np.pad(pixels, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="reflect")
    found = np.empty_like(pixels)
    for row, (down, right) in enumerate(rng.integers(0, 2 * reach + 1, (len(pixels), 2))):
        found[row] = wide[row, down : down + side, right : right + side]
    if flip:
        mirrored = rng.random(len(pixels)) < 0.5
        found[mirrored] = found[mirrored, :, ::-1]
    return found


@contextmanager
def _dropping(tunable: Tunable, tuning: TuningSection) -> Iterator[None]:
    """LoRA's dropout is on inside; everything else stays in eval mode."""
    named = tunable.network.named_modules() if tuning.dropout else []
    modules = [module for name, module in named if "lora_dropout" in name]
    for module in modules:
        module.train()
    try:
        yield
    finally:
        for module in modules:
            module.eval()
