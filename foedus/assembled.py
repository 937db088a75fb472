"""A finished run's whole model as one torch module: what a user has goes in, probabilities come out.

Resizing an image and cutting a text into tokens stay outside; everything after is inside, so that
nobody who serves the model can get it wrong. Imports torch.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foedus import files
from foedus.backbones import Embedder, Standardiser
from foedus.backbones.saving import open_saved
from foedus.errors import BackboneError, RunError
from foedus.fronts import Front, Records, front, unit_rows
from foedus.head import LinearHead
from foedus.runs import HEAD_FILE, RunFolder
from foedus.study import Study

CARD_FILE = Path("model/backbone.json")


class Whole(torch.nn.Module):
    """A front, the standardiser and the head: inputs to probabilities and scores, (n, n_classes), float32.

    Probabilities sum to 1 or, where a record may have several labels, are one for each by itself.
    """

    mean: torch.Tensor
    rest: torch.Tensor
    scale: torch.Tensor
    centre: torch.Tensor | None
    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(
        self, front: Front, standardiser: Standardiser, head: LinearHead, *, several: bool = False
    ) -> None:
        super().__init__()
        self.several = several
        self.front = front
        rest = standardiser.mean - standardiser.mean.astype(np.float32)  # a year has more digits than float32
        for name, value in (("mean", standardiser.mean), ("rest", rest), ("scale", standardiser.scale)):
            self.register_buffer(name, _float32(value))
        self.register_buffer("centre", None if standardiser.centre is None else _float32(standardiser.centre))
        self.register_buffer("weight", _float32(head.weight))
        self.register_buffer("bias", _float32(head.bias))

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See the class."""
        x = (self.front(*inputs) - self.mean - self.rest) / self.scale
        x = torch.where(torch.isnan(x), 0.0, x)
        if self.centre is not None:
            x = unit_rows(unit_rows(x) - self.centre)
        scores = torch.nn.functional.linear(x, self.weight, self.bias)
        return torch.sigmoid(scores) if self.several else torch.softmax(scores, dim=1), scores


def _float32(values: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))


@dataclass(frozen=True)
class Assembled:
    """A run's whole model.

    Attributes:
        study: Of the run.
        card: backbone.json: source, digest, preprocessing, classes, head_sha256.
        embedder: The backbone as the sites ran it.
        standardiser: Of the features.
        head: On standardised features.
        module: All three as one module, in eval mode on the CPU.
    """

    study: Study
    card: dict[str, Any]
    embedder: Embedder
    standardiser: Standardiser
    head: LinearHead
    module: Whole

    @property
    def front(self) -> Front:
        """The module's first part, which knows its inputs."""
        return self.module.front

    def scores(self, records: Records) -> NDArray[np.float32]:
        """(n, n_classes), float32: as the sites compute them, not by `module`."""
        return self.head.scores(self.standardiser.apply(self.embedder.embed(records)))


def assemble(run: RunFolder) -> Assembled:
    """The whole model of a finished run, after checking that its parts are the ones it was trained with.

    Raises:
        RunError: If the run is not finished; its head or tuned tensors are missing, altered or of another
            shape; or its features are aligned at each site.
        BackboneError: If the backbone is not on this machine, or is another one.
    """
    if (status := run.state()["status"]) != "finished":
        raise RunError(f"run '{run.run_id}' is {status}; foedus resume finishes it, then it has a model.")
    study, card = run.study(), dict(files.read_json(run.path / CARD_FILE))
    embedder = network(run)
    if card.get("digest") != embedder.spec.digest:
        raise BackboneError(
            f"'{study.backbone.source}' on this machine is not the backbone that run '{run.run_id}' was trained "
            f"with ({CARD_FILE} has digest {str(card.get('digest'))[:12]}, here is {embedder.spec.digest[:12]}); "
            "bring the weights it was trained with."
        )
    arrays = files.read_arrays(run.path / HEAD_FILE, sha256=str(card.get("head_sha256")))
    head, standardiser = LinearHead.from_arrays(arrays), Standardiser.from_arrays(arrays)
    if head.weight.shape != (study.n_classes, embedder.spec.dim):
        raise RunError(
            f"{run.path / HEAD_FILE} holds a head of shape {head.weight.shape}, but the study has "
            f"{study.n_classes} classes and the backbone {embedder.spec.dim} features; restore the run's own."
        )
    if standardiser.colour is not None:
        raise RunError(
            f"in run '{run.run_id}' each site aligns its features by its own covariance (backbone.align), so there "
            'is no model that stands alone; train with align = "none" to have one.'
        )
    module = Whole(front(embedder, standardiser), standardiser, head, several=study.multilabel)
    return Assembled(study, card, embedder, standardiser, head, module.eval().requires_grad_(False))


def network(run: RunFolder) -> Embedder:
    """The backbone of a run as its head reads it: with what was tuned, if anything was.

    Raises:
        RunError: If the tuned tensors are missing or altered.
        BackboneError: If it is not on this machine.
    """
    return open_saved(run.study(), run.path / CARD_FILE.parent)
