"""A head without any example: classes as far away as the texts that name them (Radford et al. 2021)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from foedus.backbones.moments import Standardiser, unit_rows
from foedus.errors import BackboneError
from foedus.head import LinearHead

if TYPE_CHECKING:
    from foedus.backbones.spec import Inputs


TEMPERATURE = 4.0
"""For text backbones: on features of MiniLM's length, about 3, as sure as it is right about newswire topics."""


class TextReader(Protocol):
    """Whatever puts texts beside a backbone's features."""

    def embed(self, inputs: "Inputs") -> NDArray[np.float32]:
        """(n, dim), float32."""
        ...


def zero_shot_head(embedder: TextReader, texts: Sequence[str], *, temperature: float) -> LinearHead:
    """The head of raw features whose scores are temperature times the cosine to each text, times |x|.

    Args:
        embedder: Of text, or the text tower beside an image tower.
        texts: One for each class, in the study's order.
        temperature: Factor on the scores; it decides how sure the head is, not which class wins.

    Raises:
        BackboneError: If a text has no direction, because nothing in it is read.
    """
    rows = embedder.embed(list(texts)).astype(np.float64)
    if not (np.isfinite(rows).all() and np.linalg.norm(rows, axis=1).all()):
        raise BackboneError("a class text gives no features; write study.class_texts in words.")
    weight = (temperature * unit_rows(rows)).astype(np.float32)
    return LinearHead(weight, np.zeros(len(weight), np.float32))


def on_standardised(head: LinearHead, standardiser: Standardiser) -> LinearHead:
    """The same function of standardised features, given that `head` reads raw ones: x = scale z + mean."""
    weight = head.weight.astype(np.float64)
    bias = head.bias + weight @ standardiser.mean
    return LinearHead((weight * standardiser.scale).astype(np.float32), bias.astype(np.float32))
