"""Image backbones with a text tower beside them: CLIP and SigLIP folders. Imports torch and transformers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from foedus.backbones import texts
from foedus.backbones.frozen import freeze, on_device, require_frozen
from foedus.backbones.moments import unit_rows
from foedus.backbones.pixels import to_batch
from foedus.backbones.sources import Source, refuse_keys
from foedus.backbones.spec import BackboneSpec, make_spec
from foedus.backbones.weights import sha256_of, stamp
from foedus.errors import BackboneError
from foedus.study import BackboneSection

if TYPE_CHECKING:
    from foedus.backbones.spec import Inputs

MODEL_TYPES = ("clip", "siglip")
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
"""Where a folder says how its images are read; the second holds it under "image_processor"."""
RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""By Pillow's numbers, which is how processors write them."""


def fits(source: Source) -> bool:
    """Whether an hf: folder holds an image and a text tower.

    Raises:
        BackboneError: If it is not on this machine.
    """
    return _read(texts.find_folder(source.name) / "config.json").get("model_type") in MODEL_TYPES


def describe(section: BackboneSection, source: Source) -> BackboneSpec:
    """The spec of the image tower.

    Raises:
        BackboneError: If the folder is not on this machine, or lacks something.
    """
    refuse_keys(section, "tap", "image_size", "max_tokens", modality="images at a size of its own")
    folder = texts.find_folder(source.name)
    config = texts.read_config(folder, source.name)
    processor = _processor(folder, source.name)
    clip = config.model_type == "clip"
    return make_spec(
        section.source,
        "image",
        architecture=str(config.model_type),
        dim=int(config.projection_dim if clip else config.vision_config.hidden_size),
        tap="projection",
        preprocessing={
            "image_size": int(config.vision_config.image_size),
            "resize": "stretch",
            "interpolation": RESAMPLING[int(processor.get("resample", 3))],
            "mean": [float(value) for value in processor["image_mean"]],
            "std": [float(value) for value in processor["image_std"]],
        },
        weights_sha256=sha256_of(stamp(*texts.weight_files(folder, source.name))),
    )


def open_clip(section: BackboneSection, source: Source, *, device: str, batch_size: int) -> "ClipEmbedder":
    """The image tower.

    Raises:
        BackboneError: As `describe`, and if the weights do not fit the network.
    """
    spec = describe(section, source)
    return ClipEmbedder(spec, texts.find_folder(source.name), device=device, batch_size=batch_size)


class ClipEmbedder:
    """A frozen image tower; features have length one, so that a product with a text's is their cosine."""

    def __init__(self, spec: BackboneSpec, folder: Path, *, device: str, batch_size: int) -> None:
        self.spec = spec
        self.device = device
        self.batch_size = batch_size
        self.tokenizer, model = texts.load(folder)
        self.model: Any = on_device(freeze(model), device)

    def embed(self, inputs: "Inputs") -> NDArray[np.float32]:
        """(n, dim), float32; see `Embedder`."""
        reading: Any = self.spec.preprocessing

        def features(rows: range) -> Any:
            batch = to_batch(
                [inputs[row] for row in rows],
                reading["image_size"],
                reading["interpolation"],
                mean=reading["mean"],
                std=reading["std"],
            )
            return self.model.get_image_features(pixel_values=torch.from_numpy(batch).to(self.device))

        return self._run(len(inputs), features)

    def embed_texts(self, inputs: "Inputs") -> NDArray[np.float32]:
        """(n, dim), float32, rows of length one: what the text tower, padded as it was trained, says."""
        limit = int(self.model.config.text_config.max_position_embeddings)

        def features(rows: range) -> Any:
            tokens = self.tokenizer(
                [inputs[row] for row in rows],
                truncation=True,
                max_length=limit,
                padding="max_length",
                return_tensors="pt",
            ).to(self.device)
            return self.model.get_text_features(**tokens)

        return self._run(len(inputs), features)

    def _run(self, n: int, features: Callable[[range], Any]) -> NDArray[np.float32]:
        require_frozen(self.model)
        found = np.empty((n, self.spec.dim), np.float32)
        for begin in range(0, n, self.batch_size):
            rows = range(begin, min(begin + self.batch_size, n))
            with torch.inference_mode():
                pooled = features(rows).pooler_output.float().cpu().numpy()
            found[rows.start : rows.stop] = unit_rows(pooled.astype(np.float64))
        return found


class LabelEmbedder:
    """The text tower, as `foedus.backbones.zero_shot` reads one."""

    def __init__(self, clip: ClipEmbedder) -> None:
        self.clip = clip

    @property
    def temperature(self) -> float:
        """What the network was trained to multiply cosines by."""
        return float(self.clip.model.logit_scale.detach().exp())

    def embed(self, inputs: "Inputs") -> NDArray[np.float32]:
        """(n, dim), float32."""
        return self.clip.embed_texts(inputs)


def _processor(folder: Path, name: str) -> dict[str, Any]:
    for file in PROCESSORS:
        found = _read(folder / file)
        reading: dict[str, Any] = found.get("image_processor", found)
        if "image_mean" in reading and "image_std" in reading:
            return reading
    raise BackboneError(
        f"'hf:{name}' does not say how its images are read; save its processor there too (save_pretrained)."
    )


def _read(path: Path) -> dict[str, Any]:
    """A JSON file's object; empty where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
