"""Can the coordinator work? Answered over gRPC's standard health protocol, and truthfully.

It is SERVING while its server answers and its state can be written, and NOT_SERVING otherwise.
"""

import logging
import sqlite3
import ssl
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer

from foedus import pki
from foedus.errors import ConfigError
from server.home import Home

log = logging.getLogger(__name__)

READY, LIVE = "", "live"
"""Services of the health protocol: can it work; does its supervisor live, which is so if it answers at all."""
LOOK_S, PATIENCE_S = 5.0, 3.0
PROBE_BYTES = 4096


def problems(home: Home) -> list[str]:
    """Why the coordinator cannot work now; empty if it can."""
    return [*_unanswered(home), *unwritable(home.database)]


def unwritable(database: Path) -> list[str]:
    """Why a state database cannot be written now: no room, no rights, no such file, locked for long."""
    try:
        with tempfile.TemporaryFile(dir=database.parent) as probe:
            probe.write(bytes(PROBE_BYTES))
            probe.flush()
        connection = sqlite3.connect(f"{database.resolve().as_uri()}?mode=rw", uri=True, timeout=PATIENCE_S)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
        finally:
            connection.close()
    except (OSError, sqlite3.Error) as error:
        return [f"its state cannot be written: {error}"]
    return []


def _unanswered(home: Home) -> list[str]:
    try:
        trusted = ssl.create_default_context(cafile=str(home.pki / pki.CA_CERTIFICATE))
        answer = httpx.get(f"https://{home.control_address}/health", verify=trusted, timeout=PATIENCE_S)
        return [] if answer.is_success else [f"its server answers with status {answer.status_code}"]
    except (OSError, httpx.HTTPError) as error:
        return [f"its server does not answer: {type(error).__name__}"]


class HealthServer:
    """Serves gRPC's health protocol, in plain text, for this machine or a private network.

    Args:
        home: The coordinator's folder.
        address: host:port to listen on.

    Raises:
        ConfigError: If that address cannot be listened on.
    """

    def __init__(self, home: Home, *, address: str) -> None:
        self._home = home
        self._found: list[str] | None = None
        self._servicer = HealthServicer(
            experimental_non_blocking=True, experimental_thread_pool=ThreadPoolExecutor(max_workers=1)
        )
        self._servicer.set(READY, health_pb2.HealthCheckResponse.NOT_SERVING)
        self._servicer.set(LIVE, health_pb2.HealthCheckResponse.SERVING)
        options = [("grpc.so_reuseport", 0)]
        self._server = grpc.server(ThreadPoolExecutor(max_workers=2), options=options)
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, self._server)
        try:
            self._server.add_insecure_port(address)
        except RuntimeError:
            raise ConfigError("--health", [f"{address} cannot be listened on; choose another"]) from None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="health", daemon=True)

    def start(self) -> None:
        """Answer, and look again every few seconds."""
        self._server.start()
        self._thread.start()

    def stop(self) -> None:
        """Say NOT_SERVING and end."""
        self._stop.set()
        self._servicer.enter_graceful_shutdown()
        self._server.stop(grace=None).wait()

    def _look(self) -> None:
        while not self._stop.is_set():
            found = problems(self._home)
            if found != self._found:
                log.info("ready" if not found else "not ready: %s", *(["; ".join(found)] if found else []))
            self._found = found
            states = health_pb2.HealthCheckResponse
            self._servicer.set(READY, states.NOT_SERVING if found else states.SERVING)
            self._stop.wait(LOOK_S)


def ask(address: str) -> str:
    """What a coordinator says of itself: "SERVING", "NOT_SERVING", or "UNREACHABLE" if nobody answers there."""
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            found = stub.Check(health_pb2.HealthCheckRequest(service=READY), timeout=PATIENCE_S)
        except grpc.RpcError:
            return "UNREACHABLE"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(found.status))
