"""Image backbones: opened, and run over batches. Imports torch and timm."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from foedus.backbones import bundled, lite0, networks
from foedus.backbones.frozen import freeze, on_device, require_frozen
from foedus.backbones.pixels import FILTERS, to_batch
from foedus.backbones.sources import Source, local, parse_tap, refuse_keys
from foedus.backbones.spec import BackboneSpec, make_spec
from foedus.backbones.weights import Stamp, sha256_of, stamp
from foedus.errors import BackboneError
from foedus.study import BackboneSection

if TYPE_CHECKING:
    from foedus.backbones.spec import Inputs


CPU_PIXELS = 16 * 64 * 64
"""Pixels of a batch on a CPU: its activations then fit the cache, twice as fast at 224 px as 32 images."""


class ImageEmbedder:
    """A frozen image network.

    Args:
        spec: What it is.
        model: The network up to its tap.
        device: Where it runs.
        batch_size: Most images at once; on a CPU large images come in smaller batches.
    """

    def __init__(self, spec: BackboneSpec, model: torch.nn.Module, *, device: str, batch_size: int) -> None:
        self.spec = spec
        self.model = on_device(model, device)
        self.device = device
        side: Any = spec.preprocessing["image_size"]
        self.batch_size = min(batch_size, max(1, CPU_PIXELS // side**2)) if device == "cpu" else batch_size

    def embed(self, inputs: "Inputs") -> NDArray[np.float32]:
        """(n, dim), float32; see `Embedder`."""
        require_frozen(self.model)
        features = np.empty((len(inputs), self.spec.dim), np.float32)
        for begin in range(0, len(inputs), self.batch_size):
            rows = range(begin, min(begin + self.batch_size, len(inputs)))
            batch = self.batch([inputs[row] for row in rows])
            with torch.inference_mode():
                features[rows.start : rows.stop] = self.model(batch.to(self.device)).float().cpu().numpy()
        return features

    def batch(self, images: Sequence[object]) -> torch.Tensor:
        """(n, 3, side, side), float32: what the network reads."""
        reading: Any = self.spec.preprocessing
        return torch.from_numpy(
            to_batch(
                images,
                reading["image_size"],
                reading["interpolation"],
                mean=reading["mean"],
                std=reading["std"],
            )
        )


def describe(section: BackboneSection, source: Source) -> BackboneSpec:
    """The spec of a timm: or file: backbone; builds the network once per process and file.

    Raises:
        BackboneError: If it is unknown, not on this machine, or does not fit the settings.
    """
    return _described(section, source, stamp(_weights(source)))


def open_images(section: BackboneSection, source: Source, *, device: str, batch_size: int) -> ImageEmbedder:
    """The embedder of a bundled:, timm: or file: backbone.

    Raises:
        BackboneError: As `describe`, and if a bundled file is not the pinned one.
    """
    spec, whole = open_whole(section, source)
    return ImageEmbedder(spec, _ready(whole, spec.tap), device=device, batch_size=batch_size)


def open_whole(section: BackboneSection, source: Source) -> tuple[BackboneSpec, torch.nn.Module]:
    """The spec, and timm's whole network under its own names.

    Raises:
        BackboneError: As `open_images`.
    """
    if source.kind != "bundled":
        return _given(section, source, stamp(_weights(source)))
    spec, found = bundled.describe(section, source.name), bundled.find(source.name)
    return spec, lite0.build(found.file(found.weights), sha256=found.weights_sha256)


@lru_cache(maxsize=16)
def _described(section: BackboneSection, source: Source, stamped: Stamp) -> BackboneSpec:
    return _given(section, source, stamped)[0]


def _given(section: BackboneSection, source: Source, stamped: Stamp) -> tuple[BackboneSpec, torch.nn.Module]:
    refuse_keys(section, "max_tokens", modality="images")
    path = local(stamped[0][0])
    name = source.architecture or source.name
    whole = networks.from_file(path, name) if source.kind == "file" else networks.from_hub_file(name, path)
    card = networks.card(whole)
    side = _side(section, card, name)
    tap = str(parse_tap(section.tap or "head"))
    model = _ready(whole, tap)
    with torch.inference_mode():
        dim = model(torch.zeros(1, 3, side, side)).shape[1]
    interpolation = card.get("interpolation", "bicubic")
    spec = make_spec(
        section.source,
        "image",
        architecture=name.partition(".")[0],
        dim=dim,
        tap=tap,
        preprocessing={
            "image_size": side,
            "resize": "stretch",
            "interpolation": interpolation if interpolation in FILTERS else "bicubic",
            "mean": [float(value) for value in card["mean"]],
            "std": [float(value) for value in card["std"]],
        },
        weights_sha256=sha256_of(stamped),
    )
    return spec, whole


def _weights(source: Source) -> Path:
    return local(source.name) if source.kind == "file" else networks.hub_weights(source.name)


def _side(section: BackboneSection, card: dict[str, Any], name: str) -> int:
    channels, height, width = card["input_size"]
    if channels != 3 or height != width:
        raise BackboneError(f"'{name}' reads {channels}x{height}x{width}; choose one that reads RGB squares.")
    if section.image_size not in (None, height) and card.get("fixed_input_size"):
        raise BackboneError(
            f"backbone.image_size is {section.image_size}, but '{name}' only reads {height} px; remove it."
        )
    return section.image_size or int(height)


def _ready(whole: torch.nn.Module, tap: str) -> networks.Tapped:
    model = networks.Tapped(whole, parse_tap(tap))
    freeze(model)
    return model.to(memory_format=torch.channels_last)
