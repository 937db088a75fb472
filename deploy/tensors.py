"""Tensors of the protocol as arrays and lists of bytes, and back. Everything a client may send is checked."""

import struct
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foedus.errors import ServiceError

DTYPES: dict[str, Any] = {
    "BOOL": np.bool_, "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip
FIELDS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
MAX_DIMENSIONS = 4


@dataclass(frozen=True)
class Tensor:
    """One input.

    Attributes:
        datatype: As the protocol names it.
        shape: No dimension is negative.
        values: An array of that shape; for BYTES a flat list.
    """

    datatype: str
    shape: tuple[int, ...]
    values: NDArray[Any] | list[bytes]


def read_inputs(request: Any, *, max_records: int) -> dict[str, Tensor]:
    """The inputs of a ModelInferRequest by name.

    Raises:
        ServiceError: If one is there twice, or its type, shape and contents do not fit.
    """
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise ServiceError(f"there are {len(request.inputs)} inputs and {len(raw)} raw contents")
    found: dict[str, Tensor] = {}
    for place, tensor in enumerate(request.inputs):
        if tensor.name in found:
            raise ServiceError(f"input '{tensor.name[:40]}' is there twice")
        found[tensor.name] = _read(tensor, raw[place] if raw else None, max_records=max_records)
    return found


def _read(tensor: Any, raw: bytes | None, *, max_records: int) -> Tensor:
    where, kind, shape = f"input '{tensor.name[:40]}'", tensor.datatype, tuple(tensor.shape)
    if kind not in DTYPES and kind != "BYTES":
        raise ServiceError(f"{where} has datatype '{kind[:20]}'; known: BYTES, {', '.join(DTYPES)}")
    if not 1 <= len(shape) <= MAX_DIMENSIONS or min(shape) < 1:
        raise ServiceError(f"{where} has shape {list(shape)[:8]}, expected 1 to 4 dimensions of 1 or more")
    if shape[0] > max_records:
        raise ServiceError(f"{where} has {shape[0]} records; at most {max_records} go in one request")
    n = prod(shape)
    if raw is not None and tensor.HasField("contents"):
        raise ServiceError(f"{where} has contents and raw contents; send one")
    if kind == "BYTES":
        values = _split(raw, n, where) if raw is not None else list(tensor.contents.bytes_contents)
        if len(values) != n:
            raise ServiceError(f"{where} holds {len(values)} values for shape {list(shape)}")
        return Tensor(kind, shape, values)
    return Tensor(kind, shape, _numbers(tensor, raw, n, where).reshape(shape))


def _numbers(tensor: Any, raw: bytes | None, n: int, where: str) -> NDArray[Any]:
    dtype = np.dtype(DTYPES[tensor.datatype])
    if raw is not None:
        if len(raw) != n * dtype.itemsize:
            raise ServiceError(
                f"{where} holds {len(raw)} bytes for shape {list(tensor.shape)} of {tensor.datatype}"
            )
        return np.frombuffer(raw, dtype.newbyteorder("<")).astype(dtype)
    if tensor.datatype not in FIELDS:
        raise ServiceError(f"{where} is {tensor.datatype}, which goes only as raw contents")
    contents = getattr(tensor.contents, FIELDS[tensor.datatype])
    if len(contents) != n:
        raise ServiceError(f"{where} holds {len(contents)} values for shape {list(tensor.shape)}")
    values = np.array(contents)
    if dtype.kind in "iu" and (values.min() < np.iinfo(dtype).min or values.max() > np.iinfo(dtype).max):
        raise ServiceError(f"{where} holds values that are no {tensor.datatype}")
    return values.astype(dtype)


def _split(raw: bytes, n: int, where: str) -> list[bytes]:
    """Values of a BYTES tensor: each a little-endian uint32 length and as many bytes."""
    found, at = list[bytes](), 0
    while at < len(raw) and len(found) <= n:
        end = at + 4
        length = struct.unpack_from("<I", raw, at)[0] if end <= len(raw) else -1
        if length < 0 or end + length > len(raw):
            raise ServiceError(f"{where} is cut off")
        found.append(raw[end : end + length])
        at = end + length
    return found


def read_output(tensor: Any, raw: bytes) -> list[Any]:
    """The flat values of an output that `write_output` added; BYTES as text."""
    if tensor.datatype == "BYTES":
        return [value.decode() for value in _split(raw, prod(tensor.shape), tensor.name)]
    found: list[Any] = np.frombuffer(raw, np.dtype(DTYPES[tensor.datatype])).tolist()
    return found


def write_output(response: Any, name: str, datatype: str, values: NDArray[Any] | list[str]) -> None:
    """Add an output to a ModelInferResponse, as raw contents; BYTES is a flat list of texts."""
    tensor = response.outputs.add(name=name, datatype=datatype)
    if isinstance(values, list):
        encoded = [text.encode() for text in values]
        tensor.shape.append(len(values))
        response.raw_output_contents.append(b"".join(struct.pack("<I", len(b)) + b for b in encoded))
        return
    tensor.shape.extend(values.shape)
    response.raw_output_contents.append(np.ascontiguousarray(values, DTYPES[datatype]).tobytes())
