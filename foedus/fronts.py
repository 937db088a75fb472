"""From what a user has to a backbone's features, as torch modules: pixels, tokens or columns go in. Imports torch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray

from foedus.backbones import Embedder, Standardiser, column_names, encode
from foedus.backbones.pixels import to_square
from foedus.backbones.spec import BackboneSpec
from foedus.columns import TableSection

if TYPE_CHECKING:
    import pandas as pd

GRAINS = (2, 5, 16, 64)
"""Sides of the random images, pixels: stretched, they are anything from a gradient to noise."""
WORDS = 24
"""Most tokens of a random text."""

Records = Any
"""images: uint8 arrays (H, W, 3) of any size; text: str; table: a DataFrame of the study's columns."""
Feeds = dict[str, NDArray[Any]]
"""Name of an input of the whole model to its array."""


class Front(Protocol):
    """What comes before the standardiser: a torch module from the model's inputs to features."""

    axes: dict[str, tuple[str, ...]]
    """Input to the names of its leading dimensions that may have any length."""

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """(n, dim), float32."""
        ...

    def feeds(self, records: Records) -> Feeds:
        """The arrays that go in for some records."""
        ...

    def samples(self, n: int, rng: np.random.Generator) -> Records:
        """Random records."""
        ...


class ImageFront(torch.nn.Module):
    """pixels (n, side, side, 3), uint8 RGB, to features; scaled as foedus.backbones.pixels.to_batch does."""

    axes: dict[str, tuple[str, ...]] = {"pixels": ("n",)}
    factor: torch.Tensor
    shift: torch.Tensor

    def __init__(self, spec: BackboneSpec, network: torch.nn.Module) -> None:
        super().__init__()
        reading: Any = spec.preprocessing
        mean, std = np.asarray(reading["mean"], np.float32), np.asarray(reading["std"], np.float32)
        self.side, self.interpolation = int(reading["image_size"]), str(reading["interpolation"])
        self.network = network
        self.register_buffer("factor", torch.from_numpy(1 / (255 * std)))
        self.register_buffer("shift", torch.from_numpy(mean / std))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """See the class."""
        batch = pixels.float() * self.factor - self.shift
        return cast(torch.Tensor, self.network(batch.permute(0, 3, 1, 2)))

    def feeds(self, records: Records) -> Feeds:
        """See `Front`."""
        return {"pixels": np.stack([to_square(image, self.side, self.interpolation) for image in records])}

    def samples(self, n: int, rng: np.random.Generator) -> Records:
        """See `Front`."""
        sides = [GRAINS[index % len(GRAINS)] for index in range(n)]
        return [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for side in sides]


class ImageTower(torch.nn.Module):
    """Pixels as the network reads them, to what CLIP or SigLIP projects them on, rows of length one."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return unit_rows(self.model.get_image_features(pixel_values=pixels).pooler_output.float())


class TextFront(torch.nn.Module):
    """input_ids and attention_mask (n, tokens), int64, to the mean over the tokens that are there."""

    axes: dict[str, tuple[str, ...]] = {"input_ids": ("n", "tokens"), "attention_mask": ("n", "tokens")}

    def __init__(self, spec: BackboneSpec, network: torch.nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.limit: Any = spec.preprocessing["max_tokens"]
        self.network = network
        self.tokenizer = tokenizer

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """See the class."""
        states = self.network(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).float()
        return cast(torch.Tensor, (states * mask).sum(1) / mask.sum(1).clamp(min=1))

    def feeds(self, records: Records) -> Feeds:
        """See `Front`."""
        cut = self.tokenizer(
            list(records), truncation=True, max_length=self.limit, padding=True, return_tensors="np"
        )
        return {name: cut[name].astype(np.int64) for name in self.axes}

    def samples(self, n: int, rng: np.random.Generator) -> Records:
        """See `Front`."""
        lengths = rng.integers(1, WORDS, n)
        return [self.tokenizer.decode(rng.integers(0, self.tokenizer.vocab_size, k)) for k in lengths]


class TableFront(torch.nn.Module):
    """columns (n, dim), float32 as foedus.backbones.encode gives them, NaN where a number is missing."""

    axes: dict[str, tuple[str, ...]] = {"columns": ("n",)}

    def __init__(self, table: TableSection, standardiser: Standardiser) -> None:
        super().__init__()
        self.table, self.standardiser = table, standardiser

    def forward(self, columns: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return columns

    def feeds(self, records: Records) -> Feeds:
        """See `Front`."""
        return {"columns": encode(records, self.table)}

    def samples(self, n: int, rng: np.random.Generator) -> "pd.DataFrame":
        """See `Front`; one cell in ten is missing."""
        import pandas as pd

        place = {name: index for index, name in enumerate(column_names(self.table))}
        drawn: dict[str, Any] = {}
        for column in self.table.columns:
            if column.kind == "category":
                drawn[column.name] = rng.choice([*column.categories, "?"], n).astype(object)
            else:
                at = place[column.name]
                drawn[column.name] = rng.normal(self.standardiser.mean[at], self.standardiser.scale[at], n)
        frame = pd.DataFrame(drawn)
        return frame.mask(rng.random(frame.shape) < 0.1)


def unit_rows(rows: torch.Tensor) -> torch.Tensor:
    """Every row at length one; a row of zeros stays."""
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / torch.where(lengths > 0, lengths, 1.0)


def front(embedder: Embedder, standardiser: Standardiser) -> Front:
    """The front of a backbone.

    Args:
        embedder: The backbone, on the CPU.
        standardiser: Of its features; random rows of a table are drawn around it.
    """
    opened: Any = embedder
    match embedder.spec.modality:
        case "image":
            is_pair = hasattr(opened.model, "get_image_features")
            return ImageFront(embedder.spec, ImageTower(opened.model) if is_pair else opened.model)
        case "text":
            return TextFront(embedder.spec, opened.model, opened.tokenizer)
    return TableFront(opened.table, standardiser)


def take(records: Records, rows: Sequence[int]) -> Records:
    """Some of the records, in the order of `rows`."""
    return records.iloc[rows] if hasattr(records, "iloc") else [records[row] for row in rows]
