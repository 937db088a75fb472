"""gRPC health of a coordinator, asked with Flower-free, standard stubs."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
import uvicorn
from grpc_health.v1 import health_pb2, health_pb2_grpc

from clients.service import free_port
from foedus import pki
from foedus.errors import ConfigError
from server import health
from server.health import HealthServer, ask, unwritable
from server.home import Home
from server.monitoring import monitoring


def make_home(folder: Path) -> Home:
    """A coordinator whose server never ran, but whose state is there."""
    home = Home.create(folder, name="f", host="127.0.0.1", port=free_port(), control_port=free_port())
    home.database.parent.mkdir()
    with closing(sqlite3.connect(home.database)) as database:
        database.execute("CREATE TABLE run (id INTEGER)")
    return home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setattr(health, "LOOK_S", 0.05)
    monkeypatch.setattr(health, "PATIENCE_S", 1.0)
    return make_home(tmp_path / "coordinator")


@pytest.fixture
def answering(home: Home) -> Iterator[None]:
    """A server with the coordinator's certificate at its private address, which answers /health."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    config = uvicorn.Config(
        app,
        port=home.settings["control_port"],
        ssl_keyfile=home.pki / pki.SERVER_KEY,
        ssl_certfile=home.pki / pki.SERVER_CERTIFICATE,
        log_level="warning",
        lifespan="off",
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    yield
    server.should_exit = True
    thread.join()


def until(condition: Callable[[], bool]) -> None:
    """Within ten seconds."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_it_serves_while_the_server_answers_and_the_state_can_be_written(home: Home, answering: None) -> None:
    address = f"127.0.0.1:{free_port()}"
    server = HealthServer(home, address=address)
    server.start()
    try:
        until(lambda: ask(address) == "SERVING")
        with closing(sqlite3.connect(home.database)) as other:
            other.execute("BEGIN EXCLUSIVE")
            until(lambda: ask(address) == "NOT_SERVING")
            other.rollback()
        until(lambda: ask(address) == "SERVING")
        home.database.rename(home.database.with_suffix(".gone"))
        until(lambda: ask(address) == "NOT_SERVING")
        assert not home.database.exists(), "looking must not make a new, empty state"
        with grpc.insecure_channel(address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            live = stub.Check(health_pb2.HealthCheckRequest(service=health.LIVE), timeout=5)
            assert live.status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
                stub.Check(health_pb2.HealthCheckRequest(service="another"), timeout=5)
    finally:
        server.stop()
    assert ask(address) == "UNREACHABLE"


def test_it_does_not_serve_while_the_server_does_not_answer(home: Home) -> None:
    assert unwritable(home.database) == []
    assert health.problems(home) == ["its server does not answer: ConnectError"]


def test_a_state_whose_disk_takes_no_byte_cannot_be_written(home: Home) -> None:
    assert "No such file" in unwritable(home.folder / "no/state.db")[0]
    if Path("/dev/full").exists() and Path("/proc/self").exists():
        assert unwritable(Path("/proc/self/state.db")) != []  # a folder that takes no file, not even root's


def test_a_default_port_that_is_taken_is_left_out_and_one_that_was_asked_for_is_an_error(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    address = f"127.0.0.1:{free_port()}"
    options: dict[str, Any] = {"restarts": {}, "health": "off"}
    with monitoring(home, metrics=address, **options) as places:
        assert places == {"metrics": address}
        with (
            pytest.raises(ConfigError, match=r"--metrics has 1 problem:\n.*cannot be listened on"),
            monitoring(home, metrics=address, **options),
        ):
            pass
        with (
            pytest.raises(ConfigError, match=r"--health has 1 problem:\n.*cannot be listened on"),
            monitoring(home, metrics="off", health=address, restarts={}),
        ):
            pass
    with (
        pytest.raises(ConfigError, match="'9445' is not HOST:PORT"),
        monitoring(home, metrics="9445", **options),
    ):
        pass
    taken = home.settings["control_port"] + 1
    with monitoring(home, metrics=f"127.0.0.1:{taken}", **options):
        with monitoring(home, metrics=None, **options) as places:
            assert places == {}
        assert "no metrics: " in caplog.text
