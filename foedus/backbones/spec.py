"""What identifies a frozen backbone, and what an opened one can do. No torch here."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

    Inputs = Sequence[Any] | pd.DataFrame

Modality = Literal["image", "text", "table"]
Setting = str | int | float | list[float] | list[str]

REVISION = 1
"""Raise it when the same weights and settings begin to give other features: old caches then miss."""


@dataclass(frozen=True)
class BackboneSpec:
    """A frozen extractor: two sites with the same digest compute the same features.

    Attributes:
        source: The name the study uses; not part of the digest, since folders differ between sites.
        modality: What it reads.
        architecture: The network the weights belong to; "columns" for a table.
        dim: Length of a feature vector.
        tap: Where the network is read: "blocks.4@2x2", "head", "mean" (text), "columns" (table).
        preprocessing: How an input is brought to the network.
        weights_sha256: sha256 (hex) of the weight file; of the list of files' hashes if there are
            several; empty for a table.
        digest: sha256 (hex) of everything above but `source`.
    """

    source: str
    modality: Modality
    architecture: str
    dim: int
    tap: str
    preprocessing: dict[str, Setting]
    weights_sha256: str
    digest: str


def make_spec(
    source: str,
    modality: Modality,
    *,
    architecture: str,
    dim: int,
    tap: str,
    preprocessing: dict[str, Setting],
    weights_sha256: str,
    declaration: Any = None,
) -> BackboneSpec:
    """The spec, with its digest.

    Args:
        declaration: What else decides the features, as JSON: a table's columns.
    """
    identity = {
        "revision": REVISION,
        "modality": modality,
        "architecture": architecture,
        "dim": dim,
        "tap": tap,
        "preprocessing": preprocessing,
        "weights": weights_sha256,
        "declaration": declaration,
    }
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return BackboneSpec(source, modality, architecture, dim, tap, preprocessing, weights_sha256, digest)


class Embedder(Protocol):
    """An opened backbone."""

    @property
    def spec(self) -> BackboneSpec:
        """What it is."""
        ...

    def embed(self, inputs: "Inputs") -> NDArray[np.float32]:
        """Features of each input, (n, dim), float32.

        Args:
            inputs: image: uint8 arrays (H, W) or (H, W, 3) of any size; text: str; table: a
                DataFrame of the study's columns (number: float64, NaN where missing; category:
                str, None where missing).

        Raises:
            BackboneError: If an input is not of that kind, or the network is not frozen.
        """
        ...


@dataclass(frozen=True)
class Listed:
    """One line of `foedus backbones list`.

    Attributes:
        name: As it stands in a study.
        modality: What it reads.
        dim: Features with the default tap; None where the weights decide.
        licence: Of the weights.
        size_bytes: Of the weight file; None where there is none of ours.
        installed: Whether it opens on this machine now.
        note: Default tap, or what it needs.
    """

    name: str
    modality: Modality
    dim: int | None
    licence: str
    size_bytes: int | None
    installed: bool
    note: str
