"""Requests and responses of the protocol as JSON: tensors as nested lists, or as bytes after the JSON (Triton)."""

from typing import Any

from pydantic import BaseModel, ValidationError

from deploy import protocol
from deploy.tensors import FIELDS, read_output
from foedus.errors import ServiceError

HEADER_LENGTH = "inference-header-content-length"
"""HTTP header: bytes of the JSON, where tensors come after it."""


class _Input(BaseModel):
    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | None = None
    parameters: dict[str, Any] = {}


class _Output(BaseModel):
    name: str


class _Body(BaseModel):
    id: str = ""
    inputs: list[_Input]
    outputs: list[_Output] = []


def infer_request(model: str, version: str, body: bytes, header_length: str) -> Any:
    """A ModelInferRequest from JSON, and the bytes after it.

    Raises:
        ServiceError: If it is none.
    """
    if header_length and not (header_length.isdecimal() and int(header_length) <= len(body)):
        raise ServiceError(f"{HEADER_LENGTH} is no length within the request")
    end = int(header_length) if header_length else len(body)
    try:
        asked = _Body.model_validate_json(body[:end])
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])[:80]
        raise ServiceError(f"the request is not an inference request: {where or 'it is not JSON'}") from None
    request = protocol.message("ModelInferRequest")(model_name=model, model_version=version, id=asked.id)
    for output in asked.outputs:
        request.outputs.add(name=output.name)
    for tensor in asked.inputs:
        end = _add_input(request, tensor, body, end)
    return request


def _add_input(request: Any, tensor: _Input, body: bytes, at: int) -> int:
    """Add one input; returns where the bytes of the next begin."""
    size = tensor.parameters.get("binary_data_size")
    try:
        added = request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if tensor.data is None:
            end = at + int(size)  # type: ignore[arg-type]
            if not at <= end <= len(body):
                raise ServiceError(f"input '{tensor.name[:40]}' is cut off")
            request.raw_input_contents.append(body[at:end])
            return end
        getattr(added.contents, FIELDS[tensor.datatype]).extend(_flat(tensor.data, tensor.datatype))
    except (TypeError, ValueError, KeyError, AttributeError):
        raise ServiceError(
            f"input '{tensor.name[:40]}' does not hold {tensor.datatype[:20]} values"
        ) from None
    return at


def _flat(values: list[Any], datatype: str) -> list[Any]:
    """The values of nested lists in order; null is a missing number, and text is UTF-8."""
    while any(isinstance(value, list) for value in values):
        if not all(isinstance(value, list) for value in values):
            raise TypeError("lists and values side by side")
        values = [value for part in values for value in part]
    if datatype == "BYTES":
        return [value.encode() for value in values]
    return [float("nan") if value is None else value for value in values]


def metadata(response: Any) -> dict[str, Any]:
    """Of a server or a model."""
    found: dict[str, Any] = {"name": response.name}
    if hasattr(response, "extensions"):
        return {**found, "version": response.version, "extensions": list(response.extensions)}
    for side in ("inputs", "outputs"):
        found[side] = [
            {"name": t.name, "datatype": t.datatype, "shape": list(t.shape)} for t in getattr(response, side)
        ]
    return {**found, "versions": list(response.versions), "platform": response.platform}


def answer(response: Any) -> dict[str, Any]:
    """A ModelInferResponse; every output is a flat list."""
    outputs = [
        {"name": t.name, "datatype": t.datatype, "shape": list(t.shape), "data": read_output(t, raw)}
        for t, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    ]
    said = {
        key: getattr(value, value.WhichOneof("parameter_choice"))
        for key, value in response.parameters.items()
    }
    about = {"model_name": response.model_name, "model_version": response.model_version, "id": response.id}
    return {**about, "parameters": said, "outputs": outputs}
