"""The service, asked by a client that nobody here wrote, and by some that nobody should have written."""

import datetime
import json
import shutil
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from deploy.bundle import Bundle
from deploy.releases import Releases
from deploy.serve import Service, Settings
from deploy.service import Limits
from fewshot.adapt import adapt
from foedus import files
from foedus.backbones import encode
from foedus.errors import ReleaseError, ServiceError
from foedus.examples import Examples
from foedus.releasing import release

Made = Any
SERVICE = "/inference.GRPCInferenceService/"
LIMITS = Limits(request_bytes=2**20, records=8, seconds=10.0, in_flight=8, drain_s=5.0)


def rows(a: list[float], b: list[float], colour: list[str] | None = None) -> list[Any]:
    """Inputs of the toy model."""
    found = []
    for name, values in (("a", a), ("b", b)):
        tensor = triton.InferInput(name, [len(values)], "FP64")
        tensor.set_data_from_numpy(np.array(values, np.float64))
        found.append(tensor)
    tensor = triton.InferInput("colour", [len(a)], "BYTES")
    tensor.set_data_from_numpy(np.array([c.encode() for c in colour or ["red"] * len(a)], object))
    return [*found, tensor]


def code_of(call: Callable[[], Any]) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    code: grpc.StatusCode = raised.value.code()
    return code


@pytest.fixture(scope="module")
def service(made: Made, released: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    journal = tmp_path_factory.mktemp("journal")
    found = Service(
        Settings(
            released.path.parent,
            made.keys,
            address="127.0.0.1:0",
            metrics_port=0,
            journal=journal,
            limits=LIMITS,
        )
    )
    found.start()
    yield found
    found.stop()


@pytest.fixture(scope="module")
def channel(service: Service) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{service.port}") as found:
        yield found


@pytest.fixture(scope="module")
def client(service: Service) -> Any:
    return triton.InferenceServerClient(f"127.0.0.1:{service.port}")


def test_a_triton_client_lists_checks_and_infers(client: Any, service: Service) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("toy")
    assert client.is_model_ready("toy", "1")
    assert not client.is_model_ready("toy", "7")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata().name == "foedus"
    about = client.get_model_metadata("toy", as_json=True)
    assert about["versions"] == ["1"]
    assert [(i["name"], i["datatype"], i["shape"]) for i in about["inputs"]] == [
        ("a", "FP64", ["-1"]),
        ("b", "FP64", ["-1"]),
        ("colour", "BYTES", ["-1"]),
    ]
    names = [o["name"] for o in about["outputs"]]
    assert names == ["label", "probabilities", "prediction_set", "abstain"]
    found = client.infer("toy", rows([2.0, -2.0, 0.0], [-2.0, 2.0, 0.0]), request_id="r1")
    assert found.as_numpy("label").tolist() == [b"yes", b"no", found.as_numpy("label")[2]]
    assert found.as_numpy("probabilities").shape == (3, 2)
    assert found.as_numpy("probabilities").sum(axis=1) == pytest.approx([1, 1, 1], abs=1e-6)
    assert found.as_numpy("prediction_set").tolist()[:2] == [[False, True], [True, False]]
    assert not found.as_numpy("abstain")[:2].any()
    response = found.get_response()
    assert (response.model_name, response.model_version, response.id) == ("toy", "1", "r1")
    assert response.parameters["audited"].bool_param


def test_an_answer_is_what_the_audited_head_says_of_the_same_row(client: Any, service: Service) -> None:
    import pandas as pd

    served = service.models.get("toy", "").served
    frame = pd.DataFrame({"a": [1.25], "b": [np.nan], "colour": ["blue"]})
    expected = served.head.answer(encode(frame, served.study.table))
    found = client.infer("toy", rows([1.25], [np.nan], ["blue"]))
    assert found.as_numpy("probabilities") == pytest.approx(expected.probabilities, abs=1e-6)


def test_only_the_outputs_that_were_asked_for_come_back(client: Any) -> None:
    asked = [triton.InferRequestedOutput("label")]
    found = client.infer("toy", rows([1.0], [0.0]), outputs=asked)
    assert [o.name for o in found.get_response().outputs] == ["label"]
    with pytest.raises(InferenceServerException, match="no output 'other'"):
        client.infer("toy", rows([1.0], [0.0]), outputs=[triton.InferRequestedOutput("other")])


def test_numbers_may_come_as_text_and_contents_without_raw(channel: grpc.Channel) -> None:
    request = service_pb2.ModelInferRequest(model_name="toy")
    for name, values in (("a", [b"2.0"]), ("b", [b"n/a"]), ("colour", [b"green"])):
        tensor = request.inputs.add(name=name, datatype="BYTES", shape=[1])
        tensor.contents.bytes_contents.extend(values)
    response = _call(channel, "ModelInfer", request.SerializeToString())
    assert service_pb2.ModelInferResponse.FromString(response).outputs[0].name == "label"


def test_probes_and_reflection(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", "toy", "inference.GRPCInferenceService"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert (
        code_of(lambda: health.Check(health_pb2.HealthCheckRequest(service="x"))) == grpc.StatusCode.NOT_FOUND
    )
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    symbol = "inference.GRPCInferenceService"
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol),
    ]
    listed, described = list(stub.ServerReflectionInfo(iter(asked), timeout=5))
    assert symbol in {one.name for one in listed.list_services_response.service}
    assert described.file_descriptor_response.file_descriptor_proto


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        (lambda: rows([1.0], [0.0])[:2], "no input 'colour'"),
        (lambda: [*rows([1.0], [0.0]), triton.InferInput("x", [1], "FP64")], "raw contents"),
        (lambda: rows([1.0] * 9, [0.0] * 9), "at most 8"),
        (lambda: [*rows([1.0, 2.0], [0.0, 1.0])[:2], rows([1.0], [0.0])[2]], "send one length"),
    ],
)
def test_a_request_that_does_not_fit_says_why(client: Any, inputs: Any, reason: str) -> None:
    with pytest.raises(InferenceServerException, match=reason) as raised:
        client.infer("toy", inputs())
    assert "INVALID_ARGUMENT" in str(raised.value.status())


def test_an_unknown_model_and_an_oversize_request_have_their_own_status(client: Any, channel: Any) -> None:
    with pytest.raises(InferenceServerException, match="served: toy") as raised:
        client.infer("heart", rows([1.0], [0.0]))
    assert "NOT_FOUND" in str(raised.value.status())
    too_large = lambda: _call(channel, "ModelInfer", b"\0" * (2**20 + 1))  # noqa: E731
    assert code_of(too_large) == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert client.is_server_ready()


tensors = st.builds(
    lambda name, kind, shape, numbers, texts, raw: (name, kind, shape, numbers, texts, raw),
    st.sampled_from(["a", "b", "colour", "image", ""]) | st.text(max_size=8),
    st.sampled_from(["FP64", "FP32", "BYTES", "UINT8", "INT8", "BOOL", "FP16", "BF16", ""]),
    st.lists(st.integers(-2, 2**62) | st.integers(0, 4), max_size=5),
    st.lists(st.floats(width=64), max_size=4),
    st.lists(st.binary(max_size=8), max_size=4),
    st.none() | st.binary(max_size=40),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(tensors, max_size=4), st.integers(0, 2), st.binary(max_size=30))
def test_whatever_a_request_holds_it_ends_with_a_clear_status(
    channel: grpc.Channel, parts: list[Any], extra: int, noise: bytes
) -> None:
    request = service_pb2.ModelInferRequest(model_name="toy", id="x")
    for name, kind, shape, numbers, texts, raw in parts:
        tensor = request.inputs.add(name=name, datatype=kind, shape=shape)
        tensor.contents.fp64_contents.extend(numbers)
        tensor.contents.bytes_contents.extend(texts)
        if raw is not None:
            request.raw_input_contents.append(raw)
    request.raw_input_contents.extend([b"\x01\0\0\0a"] * extra)
    for content in (request.SerializeToString(), noise):
        try:
            _call(channel, "ModelInfer", content)
        except grpc.RpcError as error:
            allowed = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
            assert error.code() in allowed, error.details()  # noqa: PT017
    assert _call(channel, "ServerReady", b"") == b"\x08\x01"


def test_metrics_count_and_logs_hold_no_input(
    service: Service, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="foedus.service"):
        client.infer("toy", rows([1234.5], [0.0]), request_id="patient-7")
    [line] = [json.loads(r.message) for r in caplog.records if r.message.startswith("{")]
    assert set(line) == {"time", "event", "code", "ms"}
    assert "1234.5" not in caplog.text
    assert "patient-7" not in caplog.text
    with urllib.request.urlopen(f"http://127.0.0.1:{service.metrics_port}/metrics") as page:
        text = page.read().decode()
    assert 'foedus_requests_total{code="OK",method="ModelInfer"}' in text
    assert "foedus_ready 1.0" in text


def test_a_request_past_its_deadline_and_one_too_many_are_refused(service: Service, client: Any) -> None:
    served = service.models.get("toy", "").served
    gate, run = threading.Event(), served.batcher._run
    served.batcher._run = lambda parts: (gate.wait(10), run(parts))[1]
    try:
        with pytest.raises(InferenceServerException) as raised:
            client.infer("toy", rows([1.0], [0.0]), client_timeout=0.3)
        assert "DEADLINE" in str(raised.value.status())
        waiting = [threading.Thread(target=lambda: client.infer("toy", rows([1.0], [0.0]))) for _ in range(8)]
        for thread in waiting:
            thread.start()
        time.sleep(0.5)
        with pytest.raises(InferenceServerException, match="8 requests are under way"):
            client.infer("toy", rows([1.0], [0.0]))
    finally:
        gate.set()
        served.batcher._run = run
    for thread in waiting:
        thread.join(10)
    assert client.infer("toy", rows([1.0], [0.0])).as_numpy("label") is not None


def _call(channel: grpc.Channel, method: str, content: bytes) -> bytes:
    found: bytes = channel.unary_unary(SERVICE + method)(content, timeout=10)
    return found


@pytest.fixture
def start() -> Iterator[Callable[..., Service]]:
    running: list[Service] = []

    def begin(path: Path, made: Made, **more: Any) -> Service:
        more = {"address": "127.0.0.1:0", "refresh_s": 0.05, "limits": LIMITS, **more}
        found = Service(Settings(path, made.keys, **more))
        found.start()
        running.append(found)
        return found

    yield begin
    for found in running:
        found.stop()


def until(true: Callable[[], bool]) -> None:
    for _ in range(200):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def test_a_newer_release_is_swapped_in_under_load_and_a_withdrawn_one_is_not_served(
    made: Made, tmp_path: Path, start: Callable[..., Service]
) -> None:
    release(made.run, made.hub, keys=[made.jane.public], to=tmp_path)
    service = start(tmp_path / "toy", made)
    client, versions = triton.InferenceServerClient(f"127.0.0.1:{service.port}"), set[str]()
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            versions.add(client.infer("toy", rows([1.0], [0.0])).get_response().model_version)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        release(made.run, made.hub, keys=[made.jane.public], to=tmp_path)
        until(lambda: versions == {"1", "2"})
    finally:
        done.set()
        asking.join(10)
    Releases(tmp_path / "toy").withdraw(made.hub, version=2, reason="recalled")
    until(lambda: not client.is_server_ready())
    with pytest.raises(InferenceServerException, match="was withdrawn"):
        client.infer("toy", rows([1.0], [0.0]))
    Releases(tmp_path / "toy").rollback(made.hub, version=1, reason="the one before")
    until(client.is_server_ready)
    assert client.infer("toy", rows([1.0], [0.0])).get_response().model_version == "1"


def test_a_newer_release_that_does_not_hold_leaves_the_old_one_in_place(
    made: Made, tmp_path: Path, start: Callable[..., Service]
) -> None:
    release(made.run, made.hub, keys=[made.jane.public], to=tmp_path)
    service = start(tmp_path / "toy", made, refresh_s=60)
    newer = release(made.run, made.hub, keys=[made.jane.public], to=tmp_path)
    (newer.path / "audit.json").write_text("{}")
    service.models.refresh()
    assert service.models.ready
    assert service.models.get("toy", "").version == "1"
    with pytest.raises(ReleaseError, match=r"audit\.json is not what was signed"):
        Service(Settings(tmp_path / "toy", made.keys, address="127.0.0.1:0"))


def test_a_site_adds_a_head_with_a_new_class_without_a_restart(
    made: Made, released: Bundle, tmp_path: Path, start: Callable[..., Service]
) -> None:
    service = start(released.path, made, heads=tmp_path)
    served = service.models.get("toy", "").served
    rng = np.random.default_rng(0)
    centres = np.zeros((3, served.embedder.spec.dim), np.float32)
    centres[0, 0], centres[1, 0], centres[2, 2] = -3, 3, 3
    labels = np.repeat(np.arange(3), 6)
    features = (centres[labels] + rng.normal(size=(18, centres.shape[1])) / 5).astype(np.float32)
    head = adapt(Examples(features, labels), "ridge", classes=["no", "yes", "unclear"])
    (tmp_path / "broken.safetensors").write_bytes(b"no head")
    head.save(tmp_path / "ward.safetensors")
    client = triton.InferenceServerClient(f"127.0.0.1:{service.port}")
    until(lambda: client.is_model_ready("toy.ward"))
    found = client.infer("toy.ward", rows([-3.0, 3.0, 0.0], [0.0, 0.0, 3.0]))
    assert found.as_numpy("label").tolist() == [b"no", b"yes", b"unclear"]
    assert not found.get_response().parameters["audited"].bool_param
    assert client.infer("toy", rows([1.0], [0.0])).get_response().parameters["audited"].bool_param
    assert not client.is_model_ready("toy.broken")
    (tmp_path / "ward.safetensors").unlink()
    until(lambda: not client.is_model_ready("toy.ward"))


def test_another_backbone_than_the_one_it_was_trained_on_is_refused(
    made: Made, released: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from deploy import served
    from foedus.backbones import describe

    monkeypatch.setattr(served, "describe", lambda *a: replace(describe(*a), digest="f" * 64))
    with pytest.raises(ReleaseError, match="has digest ffffffffffff"):
        Service(Settings(released.path, made.keys, address="127.0.0.1:0"))


def test_an_address_that_others_reach_needs_tls_and_a_token(
    made: Made, released: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(ServiceError, match=r"others can reach 0\.0\.0\.0:0"):
        Service(Settings(released.path, made.keys, address="0.0.0.0:0"))
    weak = tmp_path / "tokens"
    weak.write_text("short\n")
    weak.chmod(0o600)
    with pytest.raises(ServiceError, match="16 characters"):
        Service(Settings(released.path, made.keys, address="127.0.0.1:0", tokens=weak))


def test_tls_client_certificates_and_tokens(
    made: Made, released: Bundle, tmp_path: Path, start: Callable[..., Service]
) -> None:
    authority, server, other = (_certificate(tmp_path, name) for name in ("ca", "localhost", "other"))
    tokens = tmp_path / "tokens"
    tokens.write_text("a-token-of-some-length\n")
    tokens.chmod(0o600)
    service = start(
        *(released.path, made),
        address="localhost:0",
        http_port=0,
        tls=server,
        client_ca=authority[1],
        tokens=tokens,
    )
    target, trusted = f"localhost:{service.port}", server[1].read_bytes()

    def ask(pair: tuple[Path, Path] | None, method: str, *metadata: tuple[str, str]) -> bytes:
        key, cert = (p.read_bytes() for p in pair) if pair else (None, None)
        with grpc.secure_channel(target, grpc.ssl_channel_credentials(trusted, key, cert)) as channel:
            call = channel.unary_unary(SERVICE + method)
            found: bytes = call(b"", timeout=5, metadata=metadata)
            return found

    token = ("authorization", "Bearer a-token-of-some-length")
    assert ask(authority, "ServerReady", token) == b"\x08\x01"
    assert ask(authority, "ServerLive") == b"\x08\x01"
    assert code_of(lambda: ask(authority, "ServerReady")) == grpc.StatusCode.UNAUTHENTICATED
    wrong = ("authorization", "Bearer another-token-entirely")
    assert code_of(lambda: ask(authority, "ServerReady", wrong)) == grpc.StatusCode.UNAUTHENTICATED
    for stranger in (None, other):
        refused = lambda s=stranger: ask(s, "ServerReady", token)  # noqa: E731
        assert code_of(refused) in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    assert service.rest is not None
    url = f"https://localhost:{service.rest.port}/v2/health/ready"

    def over_http(pair: tuple[Path, Path] | None, *said: tuple[str, str]) -> int:
        context = ssl.create_default_context(cafile=str(server[1]))
        if pair is not None:
            context.load_cert_chain(pair[1], pair[0])
        return httpx.get(url, verify=context, headers=dict(said)).status_code

    assert over_http(authority, token) == 200
    assert over_http(authority, wrong) == over_http(authority) == 401
    for stranger in (None, other):
        with pytest.raises(httpx.TransportError):
            over_http(stranger, token)


def _certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed pair."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(who, who, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / f"{name}-key.pem", folder / f"{name}.pem"
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    files.write_bytes(paths[0], key.private_bytes(encoding, form, serialization.NoEncryption()), mode=0o600)
    paths[1].write_bytes(certificate.public_bytes(encoding))
    return paths


def test_stopping_finishes_what_is_under_way(made: Made, released: Bundle, tmp_path: Path) -> None:
    service = Service(
        Settings(released.path, made.keys, address="127.0.0.1:0", journal=tmp_path, limits=LIMITS)
    )
    service.start()
    client = triton.InferenceServerClient(f"127.0.0.1:{service.port}")
    served = service.models.get("toy", "").served
    began, run = threading.Event(), served.batcher._run
    served.batcher._run = lambda parts: (began.set(), time.sleep(0.5), run(parts))[2]
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(client.infer("toy", rows([1.0], [0.0]))))
    asking.start()
    assert began.wait(5)
    service.stop()
    asking.join(5)
    assert len(answers) == 1
    assert len(list(tmp_path.glob("toy/windows/*-v1-1.safetensors"))) == 1


@pytest.mark.slow
def test_killed_under_load_it_comes_back_verified_and_whole(
    made: Made, released: Bundle, tmp_path: Path
) -> None:
    releases = Path(shutil.copytree(released.path.parent, tmp_path / "toy"))
    foedus = str(Path(sys.executable).with_name("foedus"))
    command = [foedus, "serve", str(releases), "--trust", str(made.folder / "keys")]
    command += ["--address", "127.0.0.1:0", "--journal", str(tmp_path / "journal"), "--json"]

    def begin() -> tuple[subprocess.Popen[str], Any]:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        address = json.loads(process.stdout.readline())["address"]
        return process, triton.InferenceServerClient(address)

    before = {p: files.sha256_file(p) for p in releases.rglob("*") if p.is_file()}
    process, client = begin()
    answered = []

    def ask() -> None:
        try:
            while True:
                answered.append(client.infer("toy", rows([1.0] * 8, [0.0] * 8)))
        except InferenceServerException:
            return

    asking = [threading.Thread(target=ask) for _ in range(8)]
    for thread in asking:
        thread.start()
    time.sleep(1.5)
    process.kill()
    process.wait()
    for thread in asking:
        thread.join(20)
    assert len(answered) > 50
    assert {p: files.sha256_file(p) for p in releases.rglob("*") if p.is_file()} == before
    process, client = begin()
    try:
        assert client.is_server_ready()
        assert client.infer("toy", rows([2.0], [-2.0])).as_numpy("label").tolist() == [b"yes"]
    finally:
        process.terminate()
        assert process.wait(20) == 0
    (releases / "0001/audit.json").write_text("{}")
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "audit.json is not what was signed" in refused.stderr
