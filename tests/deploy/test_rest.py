"""The protocol over HTTP and JSON: the same answers, limits and refusals as over gRPC."""

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.bundle import Bundle
from deploy.json_calls import infer_request
from deploy.serve import Service, Settings
from deploy.service import Limits
from deploy.tensors import read_inputs
from foedus.errors import ServiceError

Made = Any
TOKEN = "a-token-of-some-length"
LIMITS = Limits(request_bytes=2**16, records=8, seconds=10.0, in_flight=8, drain_s=2.0)
ROWS = {
    "id": "r1",
    "inputs": [
        {"name": "a", "datatype": "FP64", "shape": [2], "data": [2.0, -2.0]},
        {"name": "b", "datatype": "FP64", "shape": [2, 1], "data": [[-2.0], [None]]},
        {"name": "colour", "datatype": "BYTES", "shape": [2], "data": ["red", "green"]},
    ],
}


@pytest.fixture(scope="module")
def service(made: Made, released: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text(f"{TOKEN}\n")
    tokens.chmod(0o600)
    found = Service(
        Settings(released.path, made.keys, address="127.0.0.1:0", http_port=0, tokens=tokens, limits=LIMITS)
    )
    found.start()
    yield found
    found.stop()


def ask(
    service: Service, path: str, body: Any = None, *, bearer: str = TOKEN, **headers: str
) -> tuple[int, Any]:
    """Status and JSON (of a refusal: its sentence) of an answer."""
    assert service.rest is not None
    content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    sent = {"authorization": f"Bearer {bearer}", **{k.replace("_", "-"): v for k, v in headers.items()}}
    url = f"http://127.0.0.1:{service.rest.port}{path}"
    answer = httpx.request(
        "GET" if content is None else "POST", url, content=content, headers=sent, timeout=20
    )
    found = answer.json() if answer.content else None
    return answer.status_code, found["error"] if answer.is_error and found else found


def test_it_answers_as_grpc_does(service: Service) -> None:
    assert ask(service, "/v2/health/live", bearer="none") == (200, None)
    assert ask(service, "/v2/health/ready") == (200, None)
    assert (
        ask(service, "/v2/models/toy/ready") == ask(service, "/v2/models/toy/versions/1/ready") == (200, None)
    )
    assert ask(service, "/v2/models/toy/versions/7/ready")[0] == 400
    assert ask(service, "/v2")[1]["name"] == "foedus"
    about = ask(service, "/v2/models/toy")[1]
    assert about["versions"] == ["1"]
    assert about["inputs"][2] == {"name": "colour", "datatype": "BYTES", "shape": [-1]}
    status, found = ask(service, "/v2/models/toy/infer", ROWS)
    assert status == 200
    assert (found["model_name"], found["model_version"], found["id"]) == ("toy", "1", "r1")
    assert found["parameters"] == {"audited": True}
    outputs = {output["name"]: output for output in found["outputs"]}
    assert outputs["probabilities"]["shape"] == [2, 2]
    client = triton.InferenceServerClient(f"127.0.0.1:{service.port}")
    inputs = []
    for name, kind, values in (
        ("a", "FP64", np.array([2.0, -2.0])),
        ("b", "FP64", np.array([-2.0, np.nan])),
        ("colour", "BYTES", np.array([b"red", b"green"], object)),
    ):
        tensor = triton.InferInput(name, [2], kind)
        tensor.set_data_from_numpy(values)
        inputs.append(tensor)
    same = client.infer("toy", inputs, headers={"authorization": f"Bearer {TOKEN}"})
    assert outputs["label"]["data"] == [label.decode() for label in same.as_numpy("label")]
    assert outputs["probabilities"]["data"] == same.as_numpy("probabilities").ravel().tolist()
    wanted = ask(service, "/v2/models/toy/versions/1/infer", {**ROWS, "outputs": [{"name": "label"}]})[1]
    assert [output["name"] for output in wanted["outputs"]] == ["label"]


def test_tensors_come_as_bytes_after_the_json(service: Service) -> None:
    text = b"\x03\x00\x00\x00red"
    raw = [np.array([1.5]).tobytes(), np.array([0.5]).tobytes(), text]
    named = zip(("a", "b", "colour"), ("FP64", "FP64", "BYTES"), raw, strict=True)
    head = {
        "inputs": [
            {"name": n, "datatype": d, "shape": [1], "parameters": {"binary_data_size": len(r)}}
            for n, d, r in named
        ],
        "parameters": {"binary_data_output": True},
    }
    content = json.dumps(head).encode()
    length = {"inference_header_content_length": str(len(content))}
    status, found = ask(service, "/v2/models/toy/infer", content + b"".join(raw), **length)
    assert (status, found["outputs"][0]["data"]) == (200, ["yes"])
    assert ask(service, "/v2/models/toy/infer", content, **length)[0] == 400
    assert ask(service, "/v2/models/toy/infer", content, inference_header_content_length="x")[0] == 400


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        (b"no json", 400, "not an inference request"),
        ({"inputs": [{"name": "a"}]}, 400, "inputs.0.datatype"),
        ({"inputs": [{**ROWS["inputs"][0], "data": ["x", "y"]}]}, 400, "does not hold FP64"),  # type: ignore[dict-item]
        ({"inputs": [{**ROWS["inputs"][0], "shape": [-1]}]}, 400, "shape"),  # type: ignore[dict-item]
        ({"inputs": [{**ROWS["inputs"][0], "shape": [2**70]}]}, 400, "does not hold"),  # type: ignore[dict-item]
        ({"inputs": [{**ROWS["inputs"][0], "datatype": "FP16"}]}, 400, "does not hold FP16"),  # type: ignore[dict-item]
        ({"inputs": [{**ROWS["inputs"][0], "data": [[1.0], 2.0]}]}, 400, "does not hold FP64"),  # type: ignore[dict-item]
        ({"inputs": [{**ROWS["inputs"][0], "data": None}]}, 400, "does not hold FP64"),  # type: ignore[dict-item]
        (
            {"inputs": [{**ROWS["inputs"][0], "data": None, "parameters": {"binary_data_size": -3}}]},
            400,
            "cut off",
        ),  # type: ignore[dict-item]
        ({"inputs": [], "outputs": [{"name": "x"}]}, 400, "there is no output 'x'"),
        ({"inputs": [{"name": "a", "datatype": "FP64", "shape": [9], "data": [0] * 9}]}, 400, "at most 8"),
        (b"[" * 2**15, 400, "not an inference request"),
        (b"x" * 2**17, 429, "larger than 65536 bytes"),
    ],
)
def test_what_is_wrong_ends_with_a_status(service: Service, change: Any, status: int, said: str) -> None:
    found = ask(service, "/v2/models/toy/infer", change)
    assert found[0] == status
    assert said in found[1]
    assert ask(service, "/v2/models/toy/infer", ROWS)[0] == 200


NAMES = st.sampled_from(["a", "b", "colour", "other"])
KINDS = st.sampled_from(["FP64", "FP32", "BYTES", "INT64", "UINT8", "BOOL", "FP16", "none"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=8,
)
TENSORS = st.fixed_dictionaries(
    {"name": NAMES, "datatype": KINDS, "shape": st.lists(st.integers(-2, 9) | st.integers(), max_size=5)},
    optional={
        "data": st.lists(VALUES, max_size=4) | VALUES,
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-4, 40) | VALUES}),
    },
)


@given(
    st.fixed_dictionaries(
        {"inputs": st.lists(TENSORS, max_size=4)}, optional={"id": VALUES, "outputs": VALUES}
    ),
    st.binary(max_size=64),
)
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_sent_is_a_request_or_refused(body: Any, more: bytes) -> None:
    content = json.dumps(body).encode()
    with suppress(ServiceError):
        request = infer_request("toy", "", content + more, str(len(content)))
        read_inputs(request, max_records=8)


def test_it_asks_for_the_token_and_knows_its_models(service: Service) -> None:
    assert ask(service, "/v2/models/toy/infer", ROWS, bearer="wrong")[0] == 401
    assert ask(service, "/v2/health/ready", bearer="wrong")[0] == 401
    status, said = ask(service, "/v2/models/other/infer", ROWS)
    assert (status, "there is no model 'other'" in said) == (404, True)
    assert ask(service, "/v2/models/other")[0] == 404


def test_many_at_once_and_a_stop_that_waits(made: Made, released: Bundle) -> None:
    service = Service(Settings(released.path, made.keys, address="127.0.0.1:0", http_port=0, limits=LIMITS))
    service.start()
    found: list[int] = []

    def one() -> None:
        found.append(ask(service, "/v2/models/toy/infer", ROWS)[0])

    threads = [threading.Thread(target=one) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) <= {200, 429}
    assert 200 in found
    assert service.rest is not None
    with pytest.raises(ServiceError, match="cannot be listened on"):
        Service(Settings(released.path, made.keys, address="127.0.0.1:0", http_port=service.rest.port))
    service.stop()
    with pytest.raises(httpx.ConnectError):
        ask(service, "/v2/health/live")


def test_a_triton_http_client(made: Made, released: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("geventhttpclient", reason="tritonclient[http] is not installed")
    import tritonclient.http as http

    service = Service(Settings(released.path, made.keys, address="127.0.0.1:0", http_port=0))
    service.start()
    try:
        assert service.rest is not None
        client = http.InferenceServerClient(f"127.0.0.1:{service.rest.port}")
        assert [client.is_server_live(), client.is_server_ready(), client.is_model_ready("toy")] == [True] * 3
        assert not client.is_model_ready("other")
        assert client.get_model_metadata("toy")["versions"] == ["1"]
        for binary in (True, False):
            inputs = []
            for name, kind, values in (
                ("a", "FP64", np.array([2.0, -2.0])),
                ("b", "FP64", np.array([-2.0, 2.0])),
                ("colour", "BYTES", np.array([b"red", b"green"], object)),
            ):
                tensor = http.InferInput(name, [2], kind)
                tensor.set_data_from_numpy(values, binary_data=binary)
                inputs.append(tensor)
            answer = client.infer("toy", inputs, request_id="r")
            assert answer.as_numpy("label").tolist() == ["yes", "no"]
            assert answer.as_numpy("probabilities").shape == (2, 2)
        client.close()
    finally:
        service.stop()
