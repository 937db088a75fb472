"""A backbone that learns: what lies below the cut runs once and is cached, what lies above runs in every epoch.

Imports torch, timm or transformers, and PEFT for lora.
"""

import copy
import hashlib
import json
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from foedus.backbones import images, texts
from foedus.backbones.adapters import add_lora, lora_tensors
from foedus.backbones.frozen import LAYERS, freeze, on_device
from foedus.backbones.networks import Tapped
from foedus.backbones.pixels import to_square
from foedus.backbones.registry import describe
from foedus.backbones.sources import parse_source, parse_tap, stay_offline
from foedus.backbones.spec import BackboneSpec
from foedus.backbones.stacks import Stack, TextStack, agrees, image_stack, text_stack
from foedus.errors import BackboneError
from foedus.statistic import Arrays
from foedus.study import Study

Tensor = torch.Tensor
Kept = tuple[NDArray[Any], ...]
"""What is cached of some examples: arrays with one row an example."""
REVISION = 1
"""Raise it when the same backbone and cut begin to keep other numbers: old caches then miss."""


class Path(Protocol):
    """A network on its way from inputs to features, cut in two."""

    cut: int
    """Blocks below the cut; 0 where the cut is at the input itself."""

    def layout(self) -> list[tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shape and type of what is kept of one example."""
        ...

    def below(self, inputs: Sequence[Any]) -> Kept:
        """What is kept of some inputs; without gradients."""
        ...

    def above(self, kept: tuple[Tensor, ...]) -> Tensor:
        """(n, dim), float32 features of what was kept; differentiable."""
        ...


class ImagePath:
    """An image network; keeps pixels (uint8) or the map between two blocks (float16)."""

    def __init__(
        self, spec: BackboneSpec, tapped: Tapped, stack: Stack | None, *, cut: int, device: str
    ) -> None:
        self.spec, self.tapped, self.stack, self.cut, self.device = spec, tapped, stack, cut, device
        reading: Any = spec.preprocessing
        self.side, self.interpolation = int(reading["image_size"]), str(reading["interpolation"])
        self.mean, self.std = (
            torch.tensor(reading[key], device=device).view(1, 3, 1, 1) for key in ("mean", "std")
        )

    def layout(self) -> list[tuple[tuple[int, ...], np.dtype[Any]]]:
        """See `Path`."""
        if self.cut == 0:
            return [((self.side, self.side, 3), np.dtype(np.uint8))]
        blank = np.zeros((self.side, self.side, 3), np.uint8)
        return [(self.below([blank])[0].shape[1:], np.dtype(np.float16))]

    def below(self, inputs: Sequence[Any]) -> Kept:
        """See `Path`."""
        squares = np.stack([to_square(image, self.side, self.interpolation) for image in inputs])
        if self.cut == 0:
            return (squares,)
        stack = self._stack()
        with torch.inference_mode():
            x = stack.stem(self.normalised(torch.from_numpy(squares)))
            for block in stack.blocks[: self.cut]:
                x = block(x)
        return (x.float().cpu().numpy().astype(np.float16),)

    def above(self, kept: tuple[Tensor, ...]) -> Tensor:
        """See `Path`."""
        if self.cut == 0:
            features: Tensor = self.tapped(self.normalised(kept[0]))
            return features.float()
        x = kept[0].to(self.device).float()
        for block in self._stack().blocks[self.cut :]:
            x = block(x)
        return self._stack().end(x).float()

    def normalised(self, squares: Tensor) -> Tensor:
        """(n, 3, side, side), float32 in channels-last order, from (n, side, side, 3) uint8."""
        x = squares.to(self.device).permute(0, 3, 1, 2).float()
        return (x / 255 - self.mean) / self.std

    def _stack(self) -> Stack:
        if self.stack is None:
            raise BackboneError(f"'{self.spec.source}' cannot be cut; it is tuned as a whole.")
        return self.stack


class TextPath:
    """A text encoder; keeps token ids (int32) or the states between two blocks (float16), and lengths."""

    def __init__(
        self,
        spec: BackboneSpec,
        encoder: Any,
        tokenizer: Any,
        *,
        stack: TextStack | None,
        cut: int,
        device: str,
    ) -> None:
        self.spec, self.cut, self.device, self.tokenizer = spec, cut, device, tokenizer
        self.tokens = int(spec.preprocessing["max_tokens"])  # type: ignore[arg-type]
        self.lower = stack.first(cut) if stack is not None and cut else None
        self.upper = stack.rest(cut) if stack is not None and cut else encoder
        self.width = int(encoder.config.hidden_size)

    def layout(self) -> list[tuple[tuple[int, ...], np.dtype[Any]]]:
        """See `Path`."""
        length = ((), np.dtype(np.int16))
        if self.cut == 0:
            return [((self.tokens,), np.dtype(np.int32)), length]
        return [((self.tokens, self.width), np.dtype(np.float16)), length]

    def below(self, inputs: Sequence[Any]) -> Kept:
        """See `Path`."""
        found = self.tokenizer(
            list(inputs), truncation=True, max_length=self.tokens, padding=True, return_tensors="np"
        )
        ids, lengths = found["input_ids"], found["attention_mask"].sum(axis=1)
        if self.lower is None:
            return _padded(ids.astype(np.int32), self.tokens), lengths.astype(np.int16)
        with torch.inference_mode():
            mask = torch.from_numpy(found["attention_mask"]).to(self.device)
            states = self.lower(input_ids=torch.from_numpy(ids).to(self.device), attention_mask=mask)
        kept = states.last_hidden_state.float().cpu().numpy().astype(np.float16)
        return _padded(kept, self.tokens), lengths.astype(np.int16)

    def above(self, kept: tuple[Tensor, ...]) -> Tensor:
        """See `Path`."""
        lengths = kept[1].to(self.device).long()
        longest = max(1, int(lengths.max()))
        x = kept[0][:, :longest].to(self.device)
        mask = (torch.arange(longest, device=self.device)[None] < lengths[:, None]).long()
        given = {"input_ids": x.long()} if self.cut == 0 else {"inputs_embeds": x.float()}
        states = self.upper(attention_mask=mask, **given).last_hidden_state.float()
        weight = mask.unsqueeze(-1).float()
        mean: Tensor = (states * weight).sum(1) / weight.sum(1).clamp(min=1)
        return mean


class Tunable:
    """A study's backbone with tensors that learn.

    Attributes:
        spec: The backbone, as pre-trained.
        path: From inputs to features.
        network: The whole network (for lora: PEFT's model around it), in eval mode throughout.
        tensors: What learns, by the name it is saved under, in the order it travels.
        digest: sha256 (hex) of what decides the numbers that are kept below the cut.
    """

    def __init__(self, study: Study, *, device: str = "cpu") -> None:
        stay_offline()
        section, tuning = study.backbone, study.tuning
        self.study, self.device = study, device
        source = parse_source(section.source)
        is_image = describe(section, None).modality == "image"
        if is_image and source.kind == "hf":
            raise BackboneError(
                f"'{section.source}' has two towers and is used frozen only; set tune = \"head\"."
            )
        if is_image:
            self.spec, whole = images.open_whole(section, source)
            tapped = Tapped(whole, parse_tap(self.spec.tap))
            stack: Any = image_stack(whole, parse_tap(self.spec.tap))
        else:
            opened = texts.open_texts(section, source, device="cpu", batch_size=32)
            self.spec, whole, tokenizer = opened.spec, opened.model, opened.tokenizer
            stack = text_stack(whole)
        if tuning.augment != "none" and not is_image:
            raise BackboneError(f'tuning.augment is for images; "{section.source}" reads text: remove it.')
        freeze(whole)
        blocks: list[torch.nn.Module] | None = None if stack is None else stack.blocks
        above = self._blocks_above(blocks)
        self.network = whole
        if section.tune == "lora":
            region = whole if blocks is None else torch.nn.ModuleList(blocks[-above:])
            self.network = add_lora(whole, region, tuning, seed=study.study.seed, source=section.source)
        on_device(whole, device)
        cut = 0 if blocks is None or tuning.augment != "none" else len(blocks) - above
        if is_image:
            whole.to(memory_format=torch.channels_last)
            make: Any = lambda at: ImagePath(self.spec, tapped, stack, cut=at, device=device)  # noqa: E731
        else:
            make = lambda at: TextPath(self.spec, whole, tokenizer, stack=stack, cut=at, device=device)  # noqa: E731
        self.path: Path = _trusted(make, cut, is_image=is_image)
        self.tensors = self._learning(blocks, above)
        self._initial = self.current()
        if tuning.checkpointing:
            _checkpoint(blocks[self.path.cut :] if blocks is not None else [])
        self.digest = hashlib.sha256(
            json.dumps([REVISION, self.spec.digest, self.path.cut]).encode()
        ).hexdigest()

    def _blocks_above(self, blocks: list[torch.nn.Module] | None) -> int:
        """How many of the last blocks may learn."""
        section, wanted = self.study.backbone, self.study.tuning.blocks
        if blocks is None:
            if section.tune == "last-blocks" or wanted is not None:
                raise BackboneError(
                    f"the blocks of '{section.source}' at tap \"{self.spec.tap}\" are not known, so its last ones "
                    'cannot be told apart; set tune = "lora" or "full" without tuning.blocks, or another tap.'
                )
            return 0
        if wanted is not None and wanted > len(blocks):
            raise BackboneError(
                f"tuning.blocks is {wanted}, but '{section.source}' has {len(blocks)} up to its tap; lower it."
            )
        return wanted or (1 if section.tune == "last-blocks" else len(blocks))

    def _learning(self, blocks: list[torch.nn.Module] | None, above: int) -> dict[str, torch.nn.Parameter]:
        """The tensors that learn; those that have no effect on the features are left out."""
        if self.study.backbone.tune == "lora":
            candidates = lora_tensors(self.network)
        else:
            frozen = self._below(blocks, above) if self.study.backbone.tune == "last-blocks" else set()
            if self.study.door.private:  # Opacus has no gradient of a record's own for layers with statistics
                frozen |= _owned(self.network, (torch.nn.modules.batchnorm._BatchNorm,))
            candidates = {name: p for name, p in self.network.named_parameters() if id(p) not in frozen}
        for parameter in candidates.values():
            parameter.requires_grad_(True)
        self.path.above(tensors_of(self.blank())).square().sum().backward()  # type: ignore[no-untyped-call]
        for parameter in candidates.values():
            parameter.requires_grad_(parameter.grad is not None)
        found = {name: p for name, p in candidates.items() if p.grad is not None}
        for parameter in found.values():
            parameter.grad = None
        return found

    def _below(self, blocks: list[torch.nn.Module] | None, above: int) -> set[int]:
        """Ids of the parameters that come, in the network's own order, before the blocks that learn."""
        first = {id(p) for p in (blocks or [])[-above].parameters()}
        found: set[int] = set()
        for parameter in self.network.parameters():
            if id(parameter) in first:
                break
            found.add(id(parameter))
        return found

    def depths(self) -> dict[str, int]:
        """How far below the last block each tensor is: 0 for it and what comes after it, 1 for the one before."""
        numbers = [_block_of(name) for name in self.tensors]
        last = max((n for n in numbers if n is not None), default=0)
        found, seen = {}, False
        for name, number in zip(self.tensors, numbers, strict=True):
            seen = seen or number is not None
            found[name] = last - number if number is not None else 0 if seen else last + 1
        return found

    def norms(self) -> frozenset[str]:
        """Names of the tensors that learn in normalisation layers."""
        kinds = (torch.nn.modules.batchnorm._BatchNorm, torch.nn.LayerNorm, torch.nn.GroupNorm)
        owned = _owned(self.network, kinds)
        return frozenset(name for name, p in self.tensors.items() if id(p) in owned)

    def blank(self) -> Kept:
        """What is kept of two empty inputs."""
        side = self.spec.preprocessing.get("image_size")
        picture = np.zeros((8, 8, 3), np.uint8)
        picture[2:5, 3:6] = 200
        return self.path.below([picture, picture.transpose(1, 0, 2)] if side else ["a test", "of two"])

    def initial(self) -> Arrays:
        """What learns, as pre-trained; float32."""
        return dict(self._initial)

    def current(self) -> Arrays:
        """What learns, as it is now; float32, copied."""
        return {name: p.detach().cpu().numpy().astype(np.float32).copy() for name, p in self.tensors.items()}

    def load(self, arrays: Arrays) -> None:
        """Set what learns; as pre-trained when empty.

        Raises:
            BackboneError: If a tensor is missing, left over, of another shape, or not finite.
        """
        arrays = arrays or self._initial
        if set(arrays) != set(self.tensors):
            wrong = sorted(set(arrays) ^ set(self.tensors))
            raise BackboneError(f"tuned tensors missing or left over: {', '.join(wrong[:4])}.")
        for name, parameter in self.tensors.items():
            value = np.asarray(arrays[name], np.float32)
            if value.shape != tuple(parameter.shape) or not np.isfinite(value).all():
                raise BackboneError(
                    f"the tuned tensor '{name}' has shape {list(value.shape)} or values that are not finite; "
                    f"{list(parameter.shape)} was expected."
                )
            parameter.data.copy_(torch.from_numpy(np.array(value)))

    def require_eval(self) -> None:
        """Refuse a network with a layer that would depend on the batch.

        Raises:
            BackboneError: Naming the layer.
        """
        for name, module in self.network.named_modules():
            if module.training and isinstance(module, LAYERS) and "lora_dropout" not in name:
                raise BackboneError(
                    f"the layer '{name}' is in training mode; a tuned backbone keeps its statistics: call eval()."
                )

    def autocast(self) -> torch.autocast:
        """The study's precision: half on a GPU unless it says otherwise."""
        kind = torch.device(self.device).type
        precision = self.study.tuning.precision
        half = precision == "bfloat16" or (precision == "auto" and kind == "cuda")
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=half)

    def embed(self, kept: Kept, *, batch_size: int = 64) -> NDArray[np.float32]:
        """(n, dim), float32: the features with the tensors as they are."""
        self.require_eval()
        n = len(kept[0])
        found = np.empty((n, self.spec.dim), np.float32)
        with torch.inference_mode(), self.autocast():
            for begin in range(0, n, batch_size):
                part = tuple(np.asarray(array[begin : begin + batch_size]) for array in kept)
                found[begin : begin + batch_size] = self.path.above(tensors_of(part)).cpu().numpy()
        return found


def _owned(network: torch.nn.Module, kinds: tuple[type[torch.nn.Module], ...]) -> set[int]:
    """Ids of the parameters that belong to layers of some kinds."""
    found = (m for m in network.modules() if isinstance(m, kinds))
    return {id(p) for module in found for p in module.parameters(recurse=False)}


def tensors_of(kept: Kept) -> tuple[Tensor, ...]:
    """What was kept, as torch reads it."""
    return tuple(torch.from_numpy(np.array(part)) for part in kept)


def _block_of(name: str) -> int | None:
    """Index of the block that a tensor belongs to, from its name; None for the stem and the end."""
    parts = name.split(".")
    for place, one in enumerate(parts[:-1]):
        if one in ("blocks", "layer", "layers", "stages") and parts[place + 1].isdigit():
            return int(parts[place + 1])
        if one.startswith("layer") and one[5:].isdigit():
            return int(one[5:]) - 1
    return None


def _padded(array: NDArray[Any], length: int) -> NDArray[Any]:
    wide = np.zeros((array.shape[0], length, *array.shape[2:]), array.dtype)
    wide[:, : array.shape[1]] = array
    return wide


def _trusted(make: Any, cut: int, *, is_image: bool) -> Path:
    """The path with that cut if it gives what the whole network gives, else the one without a cut."""
    whole: Path = make(0)
    if cut == 0:
        return whole
    cut_path: Path = make(cut)
    rng = np.random.default_rng(0)
    inputs: list[Any] = ["of two", "a test that is longer"]
    if is_image:
        inputs = [rng.integers(0, 256, (40, 30, 3), dtype=np.uint8) for _ in range(2)]
    with torch.inference_mode():
        features = [
            path.above(tuple(torch.from_numpy(part) for part in path.below(inputs)))
            for path in (cut_path, whole)
        ]
    return cut_path if agrees(features[0], features[1]) else whole


def _checkpoint(blocks: list[torch.nn.Module]) -> None:
    """Have each block's activations computed again in the backward pass."""
    for block in blocks:
        plain = copy.copy(block.forward)

        def forward(*args: Any, _plain: Any = plain, **rest: Any) -> Any:
            return torch.utils.checkpoint.checkpoint(_plain, *args, use_reentrant=False, **rest)

        block.forward = forward
