"""A tuned backbone with a linear head, as a module from what is kept below the cut to logits. Imports torch."""

import numpy as np
import torch
from numpy.typing import NDArray

from foedus.backbones.tunable import Tunable
from foedus.errors import FewShotError

Tensor = torch.Tensor


class BackboneClassifier(torch.nn.Module):
    """What lies above the cut, then a linear head; LoRA's or the last blocks' tensors learn, and the head's.

    Args:
        tunable: The backbone; its tensors are changed in place.
        n_way: Classes of an episode.
        mean: (dim,), subtracted from the features; 0 when None.
        scale: (dim,), they are divided by it; 1 when None.
        seed: Of the head's start.

    With `fewshot.maml.modules.ModuleLearner`, `adapts=HEAD` moves the head alone on a support set (ANIL), and
    the tensors of the backbone learn in the outer loop.
    """

    def __init__(
        self,
        tunable: Tunable,
        n_way: int,
        *,
        mean: NDArray[np.floating] | None = None,
        scale: NDArray[np.floating] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        dim = tunable.spec.dim
        for name, given in (("mean", mean), ("scale", scale)):
            if given is not None and given.shape != (dim,):
                raise FewShotError(f"{name} has shape {given.shape}, expected ({dim},)")
        self.network, self._path = tunable.network, tunable.path
        generator = torch.Generator().manual_seed(seed)
        start = (2 * torch.rand((n_way, dim), generator=generator) - 1) / dim**0.5
        self.weight = torch.nn.Parameter(start.to(tunable.device))
        self.bias = torch.nn.Parameter(torch.zeros(n_way, device=tunable.device))
        self.mean = self._constant(np.zeros(dim) if mean is None else mean)
        self.scale = self._constant(np.ones(dim) if scale is None else scale)

    def forward(self, *kept: Tensor) -> Tensor:
        """(n, n_way), float32 logits of what was kept."""
        features = (self._path.above(kept) - self.mean) / self.scale
        return torch.nn.functional.linear(features, self.weight, self.bias)

    def _constant(self, values: NDArray[np.floating]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.weight.device)


HEAD = ("weight", "bias")
"""Names of the head's parameters."""
