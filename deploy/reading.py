"""What a request holds as records that a site would have: images, texts or rows, by the sites' own code."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.tensors import Tensor
from foedus.backbones.spec import Modality
from foedus.columns import Column, TableSection
from foedus.data.cells import cell_text
from foedus.data.images import ImageArray, UnreadableImageError, decode
from foedus.data.tables import read_categories, read_numbers
from foedus.errors import ServiceError

Records = Any
"""images: uint8 arrays (H, W, 3); text: str; table: `Rows` of the study's columns."""
Input = tuple[str, str, list[int]]
"""Name, datatype and shape, -1 where any number goes."""
MAX_PIXELS = 2**25
"""Of one image: what a request may make the service decode (96 MiB)."""
MAX_TEXT = 2**20


def inputs_of(modality: Modality, table: TableSection | None) -> list[Input]:
    """What the model reads, for its metadata."""
    if modality == "image":
        return [("image", "BYTES", [-1])]
    if modality == "text":
        return [("text", "BYTES", [-1])]
    columns = table.columns if table else []
    return [(c.name, "FP64" if c.kind == "number" else "BYTES", [-1]) for c in columns]


def read_records(modality: Modality, table: TableSection | None, inputs: Mapping[str, Tensor]) -> Records:
    """The records of a request.

    Args:
        modality: Of the backbone.
        table: The study's columns, for a table.
        inputs: As they came.

    Raises:
        ServiceError: If inputs are missing or unknown, of another kind, or of different lengths.
    """
    wanted = [name for name, _, _ in inputs_of(modality, table)]
    unknown, missing = sorted(set(inputs) - set(wanted)), [name for name in wanted if name not in inputs]
    if unknown or missing:
        said = [f"no input '{name}'" for name in missing] + [f"unknown input '{n[:40]}'" for n in unknown]
        raise ServiceError(f"{'; '.join(said[:5])}; the model reads {', '.join(wanted[:20])}")
    if modality == "image":
        return _images(inputs["image"])
    if modality == "text":
        return _texts("text", inputs["text"])
    return _rows(inputs, table or TableSection(columns=[]))


def _images(tensor: Tensor) -> Records:
    if isinstance(tensor.values, list):
        return [_decoded(content, place) for place, content in enumerate(tensor.values)]
    fits = len(tensor.shape) == 3 or (len(tensor.shape) == 4 and tensor.shape[3] == 3)
    if tensor.datatype != "UINT8" or not fits:
        raise ServiceError(
            f"image is {tensor.datatype} of shape {list(tensor.shape)}; send BYTES (files) or UINT8 of shape "
            "[n, height, width] or [n, height, width, 3]"
        )
    return list(ImageArray(tensor.values))


def _decoded(content: bytes, place: int) -> Any:
    try:
        return decode(content, max_pixels=MAX_PIXELS)
    except UnreadableImageError as error:
        raise ServiceError(f"image {place}: {error}") from None


def _texts(name: str, tensor: Tensor) -> list[str]:
    if not isinstance(tensor.values, list):
        raise ServiceError(f"{name} is {tensor.datatype}; send BYTES (UTF-8)")
    if len(tensor.shape) > 2 or len(tensor.values) != tensor.shape[0]:
        raise ServiceError(f"{name} has shape {list(tensor.shape)}, expected [n]")
    if any(len(value) > MAX_TEXT for value in tensor.values):
        raise ServiceError(f"{name} has a value of more than {MAX_TEXT} bytes")
    try:
        return [value.decode() for value in tensor.values]
    except UnicodeDecodeError:
        raise ServiceError(f"{name} is not UTF-8") from None


@dataclass(frozen=True)
class Rows:
    """Rows of a table, read like a DataFrame and made sooner.

    Attributes:
        columns: Name to values, (n,): float64, or object with None where a category is missing.
    """

    columns: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.columns[name]


def _rows(inputs: Mapping[str, Tensor], table: TableSection) -> Rows:
    if len(lengths := {tensor.shape[0] for tensor in inputs.values()}) > 1:
        raise ServiceError(f"inputs have {', '.join(map(str, sorted(lengths)[:5]))} records; send one length")
    return Rows({column.name: _column(column, inputs[column.name]) for column in table.columns})


def _column(column: Column, tensor: Tensor) -> Any:
    """A column as a site reads it: numbers out of range or declared missing become missing, and so on."""
    name = f"column '{column.name}'"
    if isinstance(tensor.values, list):
        cells = [cell_text(text) for text in _texts(name, tensor)]
    elif int(np.prod(tensor.shape)) != tensor.shape[0]:
        raise ServiceError(f"{name} has shape {list(tensor.shape)}, expected [n]")
    else:
        cells = [cell_text(value) for value in tensor.values.ravel().tolist()]
    if column.kind == "number":
        return read_numbers(cells, column)[0]
    return np.array([*read_categories(cells, column)[0], None], object)[:-1]
