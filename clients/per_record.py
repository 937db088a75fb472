"""Clipped sums of gradients through a tuned backbone, with Opacus (Yousefpour et al. 2021). Imports torch."""

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clients.finetune import loss_of, standardise
from foedus.backbones import Standardiser
from foedus.backbones.tunable import Kept, Tunable, tensors_of
from foedus.errors import BackboneError
from foedus.gradient import unit_weight
from foedus.head import LinearHead

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from opacus import GradSampleModule

NUMBERS = 2**27
"""Numbers of per-record gradients held at once; half a GiB in float32."""
RECORDS = 64
"""Most records at once."""
ROUNDING = 1e-3
"""Share of the clip given up: in float32 the others' gradients change in their last digits with who is beside them."""


class _Whole(torch.nn.Module):
    """From what was kept to class scores; the head reads [x, w], so that its bias is the last column."""

    def __init__(self, tunable: Tunable, head: LinearHead, standardiser: Standardiser) -> None:
        super().__init__()
        self.network = tunable.network
        self._above = tunable.path.above
        self._standardise = standardise(standardiser, tunable.device)
        self.w = unit_weight(head.weight.shape[1])
        self.head: torch.nn.Linear = torch.nn.Linear(head.weight.shape[1] + 1, len(head.bias), bias=False)
        column = head.bias[:, None] / np.float32(self.w)
        together = np.hstack([head.weight, column]).astype(np.float32)
        self.head.weight = torch.nn.Parameter(torch.tensor(together, device=tunable.device))

    def forward(self, *kept: torch.Tensor) -> torch.Tensor:
        """(n, n_classes) scores."""
        x = self._standardise(self._above(kept))
        scores: torch.Tensor = self.head(torch.cat([x, torch.full_like(x[:, :1], self.w)], dim=1))
        return scores


def clipped_sum(
    tunable: Tunable,
    kept: Kept,
    labels: NDArray[np.int64],
    owner: NDArray[np.int64],
    *,
    head: LinearHead,
    standardiser: Standardiser,
    clip_norm: float,
) -> NDArray[np.float64]:
    """Sum over units of the gradient of the summed cross-entropy, each clipped to `clip_norm` (L2).

    Args:
        tunable: The backbone, its tensors as they were sent.
        kept: What lies below its cut, of n records.
        labels: (n,), int64; or (n, n_labels), see foedus.labels.
        owner: (n,), number of the unit each record belongs to, from 0.
        head: On standardised features.
        standardiser: Between backbone and head.
        clip_norm: Above 0; what one unit can change.

    Returns:
        (n_classes * (d + 1) + size of the tuned tensors,), float64, in the order of `foedus.gradient`.

    Raises:
        BackboneError: If a BatchNorm layer is in training mode, or a gradient is not finite.
    """
    tunable.require_eval()
    whole = _Whole(tunable, head, standardiser)
    parameters = [*whole.head.parameters(), *(tunable.tensors[name] for name in sorted(tunable.tensors))]
    size = sum(p.numel() for p in parameters)
    total, at_once = np.zeros(size), max(1, min(RECORDS, NUMBERS // size))
    learning = [
        m for m in whole.eval().modules() if any(p.requires_grad for p in m.parameters(recurse=False))
    ]
    sampled = GradSampleModule(whole, loss_reduction="sum", strict=False)
    for module in learning:  # Opacus looks at layers in training mode only; none of these has another one
        module.training = True
    try:
        for rows in _by_unit(owner, at_once):
            unit = _gradients(sampled, parameters, kept, labels, rows, at_once=at_once)
            total += _clipped(unit, clip_norm)
    finally:
        sampled.to_standard_module()
        whole.eval()
        for parameter in parameters:
            parameter.grad = None
    return total


def _by_unit(owner: NDArray[np.int64], at_once: int) -> list[list[NDArray[np.int64]]]:
    """Records grouped by unit, whole units together, about `at_once` records a batch."""
    order = np.argsort(owner, kind="stable")
    units = np.split(order, np.flatnonzero(np.diff(owner[order])) + 1) if len(order) else []
    batches: list[list[NDArray[np.int64]]] = []
    filled = at_once
    for unit in units:
        if filled + len(unit) > at_once:
            batches.append([])
            filled = 0
        batches[-1].append(unit)
        filled += len(unit)
    return batches


def _gradients(
    sampled: Any,
    parameters: list[torch.nn.Parameter],
    kept: Kept,
    labels: NDArray[np.int64],
    units: list[NDArray[np.int64]],
    *,
    at_once: int,
) -> torch.Tensor:
    """(n_units, size): each unit's summed gradient; a unit of more than `at_once` records comes in pieces."""
    device = parameters[0].device
    found = torch.zeros(len(units), sum(p.numel() for p in parameters), device=device)
    owner = np.repeat(np.arange(len(units)), [len(unit) for unit in units])
    rows = np.concatenate(units)
    for begin in range(0, len(rows), at_once):
        some, whose = rows[begin : begin + at_once], owner[begin : begin + at_once]
        inputs = tensors_of(tuple(array[some] for array in kept))
        sampled.zero_grad(set_to_none=True)
        loss = loss_of(sampled(*inputs), torch.from_numpy(labels[some]).to(device), reduction="sum")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that no input wants a gradient
            loss.backward()  # type: ignore[no-untyped-call]
        flat = torch.cat([_of_each(p, len(some)).reshape(len(some), -1) for p in parameters], dim=1)
        found.index_add_(0, torch.from_numpy(whose).to(device), flat)
    return found


def _of_each(parameter: Any, n: int) -> torch.Tensor:
    gradients: torch.Tensor | None = getattr(parameter, "grad_sample", None)
    if gradients is None or len(gradients) != n:
        raise BackboneError("this network has a layer whose gradient cannot be had for each record alone.")
    return gradients.detach().float()


def _clipped(gradients: torch.Tensor, clip_norm: float) -> NDArray[np.float64]:
    """Their sum, each row's L2 norm cut to `clip_norm`."""
    rows = gradients.double()
    norms = rows.norm(dim=1, keepdim=True)
    if not bool(torch.isfinite(norms).all()):
        raise BackboneError("a record's gradient is not finite, so no clipped sum of it is bounded.")
    return np.asarray((rows * (clip_norm * (1 - ROUNDING) / norms.clamp(min=clip_norm))).sum(0).cpu().numpy())
