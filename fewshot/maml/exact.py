"""What stands in the way of an exact meta-gradient, and saying so. Imports torch.

Attention: torch's fused kernels have no second derivative; the plain one (SDPBackend.MATH) has, and is
used here. BatchNorm in training mode makes every example depend on its batch, so an episode is no longer
a function of its support set alone. Some activations (hardsigmoid) have no second derivative at all.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from foedus.errors import FewShotError

_NO_DERIVATIVE = re.compile(r"derivative for '?(?:aten::)?([\w:]+)'? is not implemented")


def refuse_batch_statistics(network: torch.nn.Module) -> None:
    """Refuse a network whose features depend on the other examples of the batch.

    Raises:
        FewShotError: Naming the layer.
    """
    for name, layer in network.named_modules():
        if layer.training and isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            raise FewShotError(
                f"the BatchNorm layer '{name}' is in training mode, so an example's features would depend on its "
                "batch; call eval() on the network."
            )


@contextmanager
def second_derivatives() -> Iterator[None]:
    """Attention by the kernel that can be differentiated twice; an operation that cannot is named.

    Raises:
        FewShotError: If an operation has no second derivative.
    """
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    except RuntimeError as error:
        found = _NO_DERIVATIVE.search(str(error))
        if found is None:
            raise
        operation = found.group(1)
        cure = (
            'load the backbone with attn_implementation="eager"'
            if "attention" in operation
            else "replace the layer that uses it"
        )
        raise FewShotError(
            f"torch has no second derivative of {operation.removesuffix('_backward')}, which the network uses; "
            f"set first_order = True, or {cure}."
        ) from None
