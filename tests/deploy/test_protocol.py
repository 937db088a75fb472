"""The messages are those of the protocol, as a client library of others has them; and tensors keep their values."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from deploy import protocol
from deploy.tensors import DTYPES, read_inputs, write_output
from foedus.errors import ServiceError


def fields(descriptor: Any) -> dict[str, tuple[int, int, bool]]:
    return {f.name: (f.number, f.type, f.is_repeated) for f in descriptor.fields}


@pytest.mark.parametrize("method", protocol.METHODS)
@pytest.mark.parametrize("end", ["Request", "Response"])
def test_every_field_is_where_triton_has_it(method: str, end: str) -> None:
    ours = protocol.message(method + end).DESCRIPTOR
    theirs = getattr(service_pb2, method + end).DESCRIPTOR
    pairs = [(ours, theirs)]
    pairs += [(nested, theirs.nested_types_by_name[nested.name]) for nested in ours.nested_types]
    for mine, other in pairs:
        assert fields(mine).items() <= fields(other).items()


def test_the_descriptor_is_the_proto_files() -> None:
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert f"inference.{service.name}" == protocol.SERVICE
    assert set(protocol.METHODS) <= set(service.methods_by_name)


@given(st.sampled_from(sorted(DTYPES)), st.integers(1, 3), st.integers(1, 4), st.integers(0, 2**32))
def test_a_tensor_survives_the_way_out_and_in(kind: str, n: int, m: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 2, (n, m)).astype(DTYPES[kind])
    response = protocol.message("ModelInferResponse")()
    write_output(response, "x", kind, values)
    request = protocol.message("ModelInferRequest")()
    request.inputs.add(name="x", datatype=kind, shape=[n, m])
    request.raw_input_contents.append(response.raw_output_contents[0])
    found = read_inputs(request, max_records=8)["x"]
    assert (found.values == values).all()
    request.raw_input_contents[0] += b"\0"
    with pytest.raises(ServiceError, match="bytes for shape"):
        read_inputs(request, max_records=8)
