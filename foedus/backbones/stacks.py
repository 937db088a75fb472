"""Networks as a stem, blocks and an end, so that they can be cut between two blocks. Imports torch and timm.

A cut is trusted only after it gave the features of the uncut network (`agrees`): families change
between versions, and a network of an unknown family is tuned as a whole instead.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer

from foedus.backbones.sources import Tap

Tensor = torch.Tensor
TOLERANCE = 1e-2
"""Largest difference of a feature between a cut network and the whole, over the largest feature: what half
precision at the cut may cost. A cut in the wrong place is off by far more."""


@dataclass(frozen=True)
class Stack:
    """A network taken apart.

    Attributes:
        stem: From the network's input to what the first block reads.
        blocks: Run one after another.
        end: From what the last block gives to the features, (n, dim).
    """

    stem: Callable[[Tensor], Tensor]
    blocks: list[torch.nn.Module]
    end: Callable[[Tensor], Tensor]


def image_stack(whole: torch.nn.Module, tap: Tap) -> Stack | None:
    """The blocks of a timm network up to its tap; None if its family is not known here."""
    parts, known = dict(whole.named_children()), _Known(whole)
    blocks = parts.get("blocks", parts.get("stages"))
    last = None if tap.block is None else tap.block + 1
    if {"conv_stem", "bn1"} <= set(parts) and isinstance(blocks, torch.nn.Sequential):
        return Stack(known.efficientnet_stem, list(blocks)[:last], _grid(tap) or known.efficientnet_end)
    if type(whole) is VisionTransformer:
        return Stack(known.vit_stem, list(known.net.blocks)[:last], known.vit_grid(tap) or known.vit_end)
    if tap.block is not None:
        return None
    if {"conv1", "bn1", "act1", "maxpool", "layer1", "layer4"} <= set(parts):
        layers = [parts[f"layer{i}"] for i in (1, 2, 3, 4)]
        return Stack(known.resnet_stem, layers, known.pooled)
    if {"stem", "norm_pre", "head"} <= set(parts) and isinstance(blocks, torch.nn.Sequential):
        return Stack(known.net.stem, list(blocks), lambda x: known.pooled(known.net.norm_pre(x)))
    return None


class _Known:
    """The pieces of the known families; each mirrors timm's own forward."""

    def __init__(self, whole: torch.nn.Module) -> None:
        self.net: Any = whole

    def pooled(self, x: Tensor) -> Tensor:
        found: Tensor = self.net.forward_head(x, pre_logits=True)
        return found.flatten(1)

    def efficientnet_stem(self, x: Tensor) -> Tensor:
        found: Tensor = self.net.bn1(self.net.conv_stem(x))
        return found

    def efficientnet_end(self, x: Tensor) -> Tensor:
        if hasattr(self.net, "bn2"):  # MobileNetV3 has its last convolution behind the pooling
            x = self.net.bn2(self.net.conv_head(x))
        return self.pooled(x)

    def vit_stem(self, x: Tensor) -> Tensor:
        net = self.net
        found: Tensor = net.norm_pre(net.patch_drop(net._pos_embed(net.patch_embed(x))))
        return found

    def vit_end(self, x: Tensor) -> Tensor:
        return self.pooled(self.net.norm(x))

    def vit_grid(self, tap: Tap) -> Callable[[Tensor], Tensor] | None:
        pool = _grid(tap)
        if pool is None:
            return None

        def end(x: Tensor) -> Tensor:
            tokens = x[:, self.net.num_prefix_tokens :]
            side = round(tokens.shape[1] ** 0.5)
            return pool(tokens.transpose(1, 2).reshape(len(x), -1, side, side))

        return end

    def resnet_stem(self, x: Tensor) -> Tensor:
        net = self.net
        found: Tensor = net.maxpool(net.act1(net.bn1(net.conv1(x))))
        return found


def _grid(tap: Tap) -> Callable[[Tensor], Tensor] | None:
    if tap.block is None:
        return None

    def pool(x: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, (tap.rows, tap.columns)).flatten(1)

    return pool


LAYER_LISTS = ("encoder.layer", "encoder.layers", "transformer.layer", "layers")
"""Where text encoders keep their blocks."""


@dataclass(frozen=True)
class TextStack:
    """A text encoder's blocks, and how to run only some of them.

    Attributes:
        model: The whole encoder.
        path: Name of the list of blocks in it.
    """

    model: Any
    path: str

    @property
    def blocks(self) -> list[torch.nn.Module]:
        """In the order they run."""
        return list(self.model.get_submodule(self.path))

    def first(self, n: int) -> Any:
        """The encoder with its first n blocks only: token ids to hidden states."""
        return _replaced(self.model, {self.path: torch.nn.ModuleList(self.blocks[:n])})

    def rest(self, n: int) -> Any:
        """The encoder without embeddings and its first n blocks: reads `inputs_embeds`."""
        parts = {self.path: torch.nn.ModuleList(self.blocks[n:]), "embeddings": _PassOn()}
        return _replaced(self.model, parts)


def text_stack(model: torch.nn.Module) -> TextStack | None:
    """The blocks of a transformers encoder; None if they are not where encoders keep them."""
    if "embeddings" not in dict(model.named_children()):
        return None
    names = {name for name, part in model.named_modules() if isinstance(part, torch.nn.ModuleList)}
    paths = [path for path in LAYER_LISTS if path in names]
    return TextStack(model, paths[0]) if paths else None


class _PassOn(torch.nn.Module):
    """In place of embeddings: gives the hidden states it is given."""

    def forward(self, *args: Any, inputs_embeds: Tensor | None = None, **rest: Any) -> Tensor:
        if inputs_embeds is None:
            raise ValueError("inputs_embeds are needed")
        return inputs_embeds


def _replaced(model: torch.nn.Module, parts: dict[str, torch.nn.Module]) -> torch.nn.Module:
    """`model` with other parts at those names; everything else, weights too, is shared with it."""
    found = _shallow(model)
    for path, part in parts.items():
        *parents, last = path.split(".")
        at = found
        for name in parents:
            at._modules[name] = _shallow(at.get_submodule(name))
            at = at.get_submodule(name)
        at._modules[last] = part
    return found


def _shallow(module: torch.nn.Module) -> torch.nn.Module:
    found = copy.copy(module)
    found.__dict__["_modules"] = dict(module._modules)
    return found


def agrees(found: Tensor, expected: Tensor) -> bool:
    """Whether a cut network gives the whole network's features."""
    if found.shape != expected.shape:
        return False
    return bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max().clamp(min=1e-6))
