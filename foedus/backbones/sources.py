"""The grammar of [backbone]: source and tap. No torch here."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from foedus.config import nearest
from foedus.errors import BackboneError
from foedus.study import BackboneSection

Kind = Literal["bundled", "timm", "hf", "file", "tabular"]
FORMS = ("bundled:NAME", "timm:NAME", "hf:NAME-or-folder", "file:WEIGHTS#ARCHITECTURE", "tabular")

ALLOW_HUB = "FOEDUS_ALLOW_HUB"
"""Set to 1 to let timm: and hf: names download; without it nothing is ever fetched."""


@dataclass(frozen=True)
class Source:
    """A parsed `backbone.source`; `architecture` is only set for file:."""

    kind: Kind
    name: str
    architecture: str = ""


def parse_source(text: str) -> Source:
    """`text` taken apart.

    Raises:
        BackboneError: If it is of no known form.
    """
    if text == "tabular":
        return Source("tabular", "tabular")
    kind, colon, name = text.partition(":")
    if not colon or not name or kind not in get_args(Kind) or kind == "tabular":
        raise BackboneError(f"backbone.source '{text}' is not known; {_hint(text)}.")
    if kind != "file":
        return Source(kind, name)  # type: ignore[arg-type]
    path, _, architecture = name.rpartition("#")
    if not path or not architecture:
        raise BackboneError(
            f"backbone.source '{text}' does not name the network; write file:WEIGHTS#ARCHITECTURE, "
            "such as file:/models/vit.safetensors#vit_tiny_patch16_224."
        )
    return Source("file", path, architecture)


def _hint(text: str) -> str:
    kind, colon, _ = text.partition(":")
    hint = nearest(kind if colon else text, list(get_args(Kind)))
    return hint if hint.startswith("did") else f"valid here: {', '.join(FORMS)}"


@dataclass(frozen=True)
class Tap:
    """Where an image network is read: after block `block` on a grid, or at its pooled end."""

    block: int | None = None
    rows: int = 1
    columns: int = 1

    @property
    def cells(self) -> int:
        """Cells of the grid."""
        return self.rows * self.columns

    def __str__(self) -> str:
        return "head" if self.block is None else f"blocks.{self.block}@{self.rows}x{self.columns}"


def parse_tap(text: str) -> Tap:
    """`text` taken apart: "head", "blocks.N@RxC", or "blocks.N" for a grid of 1x1.

    Raises:
        BackboneError: If it is neither.
    """
    if text == "head":
        return Tap()
    match = re.fullmatch(r"blocks\.(\d{1,3})(?:@([1-9]\d?)x([1-9]\d?))?", text)
    if match is None:
        raise BackboneError(
            f'backbone.tap "{text}" cannot be read; write "head", or "blocks.N@RxC" such as "blocks.4@2x2".'
        )
    return Tap(int(match[1]), int(match[2] or 1), int(match[3] or 1))


def refuse_keys(section: BackboneSection, *keys: str, modality: str) -> None:
    """Refuse settings that mean nothing to this kind of backbone, instead of ignoring them."""
    given = [f"backbone.{key}" for key in keys if getattr(section, key) is not None]
    if given:
        raise BackboneError(
            f"{' and '.join(given)} cannot be used with '{section.source}', which reads {modality}; "
            "remove it."
        )


def hub_allowed() -> bool:
    """Whether the user opted in to downloads."""
    return os.environ.get(ALLOW_HUB) == "1"


def stay_offline() -> None:
    """Keep the Hugging Face libraries off the network, unless the user opted in. Before importing them."""
    if not hub_allowed():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


def local(name: str) -> Path:
    """`name` as a path; ~ is the home folder.

    Raises:
        BackboneError: If it is the home folder of someone this machine does not know.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise BackboneError(f"'{name}' is in a home folder that is not here; write it out.") from None
