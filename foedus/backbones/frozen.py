"""A frozen network: nothing in it learns, and no BatchNorm or Dropout is in training mode."""

import torch

from foedus.errors import BackboneError

LAYERS = (torch.nn.modules.batchnorm._BatchNorm, torch.nn.modules.dropout._DropoutNd)


def freeze(model: torch.nn.Module) -> torch.nn.Module:
    """`model`, in eval mode and without gradients."""
    return model.eval().requires_grad_(False)


def require_frozen(model: torch.nn.Module) -> None:
    """Refuse a network whose features would depend on the batch, on chance, or on training.

    Raises:
        BackboneError: Naming the first part that is not frozen.
    """
    if _is_frozen(model):
        return
    for name, module in model.named_modules():
        if module.training:
            kind = "layer" if isinstance(module, LAYERS) else "part"
            raise BackboneError(
                f"the backbone's {kind} '{name or 'model'}' ({type(module).__name__}) is in training mode; "
                "a frozen backbone is in eval mode throughout, so call eval() on it."
            )
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            raise BackboneError(f"the backbone's parameter '{name}' asks for a gradient; freeze it.")


def _is_frozen(model: torch.nn.Module) -> bool:
    """As `require_frozen` looks for, without names: those take a quarter of a small network's forward pass."""
    parts = [model]
    while parts:
        part = parts.pop()
        if part.training or any(p is not None and p.requires_grad for p in part._parameters.values()):
            return False
        parts += [below for below in part._modules.values() if below is not None]
    return True


def on_device(model: torch.nn.Module, device: str) -> torch.nn.Module:
    """`model` on `device`.

    Raises:
        BackboneError: If this machine has no such device.
    """
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise BackboneError(f"device '{device}' cannot be used ({reason}); set device = \"cpu\".") from error
