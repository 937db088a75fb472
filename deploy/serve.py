"""`foedus serve`: verify the bundle, then answer; look again every few seconds; drain when told to stop."""

import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from deploy import protocol
from deploy.access import BearerTokens, credentials, read_tokens
from deploy.journal import Journal
from deploy.meters import Meters
from deploy.models import Models
from deploy.releases import Releases, find_current
from deploy.served import Served, load
from deploy.service import InferenceService, Limits
from fairness.signing import PublicKey
from foedus.errors import ReleaseError, ServiceError

if TYPE_CHECKING:
    from deploy.rest import Rest

log = logging.getLogger("foedus.service")
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
SWITCH_S = 0.0005
"""Python hands over between threads after so long: the backbone's many short steps do not queue behind calls."""
Status = health_pb2.HealthCheckResponse


@dataclass(frozen=True)
class Settings:
    """How a service is run.

    Attributes:
        path: A bundle, or a folder of releases whose current version is served.
        keys: Public keys of the coordinator and the auditors.
        address: HOST:PORT; port 0 takes a free one.
        http_port: The same protocol over HTTP and JSON on the same host; None serves none, 0 takes a free one.
        metrics_port: Prometheus, on loopback; None serves none, 0 takes a free one.
        tls: Key and certificate; None without TLS.
        client_ca: Only clients with a certificate of this authority.
        tokens: File with bearer tokens; None asks for none.
        insecure: Allow an address others can reach without TLS and tokens.
        heads: Folder of sites' own heads.
        journal: Folder for monitoring.
        device: Where the backbone runs.
        max_batch: Most records the backbone sees at once.
        refresh_s: How often releases, heads and the gate are looked at again.
        limits: See `Limits`.
    """

    path: Path
    keys: Sequence[PublicKey]
    address: str = "127.0.0.1:8001"
    http_port: int | None = None
    metrics_port: int | None = None
    tls: tuple[Path, Path] | None = None
    client_ca: Path | None = None
    tokens: Path | None = None
    insecure: bool = False
    heads: Path | None = None
    journal: Path | None = None
    device: str = "cpu"
    max_batch: int = 32
    refresh_s: float = 2.0
    limits: Limits = field(default_factory=Limits)


class Service:
    """A service that runs from `start` to `stop`.

    Args:
        settings: How.

    Raises:
        ReleaseError: If the bundle does not hold.
        ServiceError: If the settings do not.
    """

    def __init__(self, settings: Settings) -> None:
        _check(settings)
        self.settings, self.meters = settings, Meters()
        self._refused: Path | None = None
        self.journal = None if settings.journal is None else Journal(settings.journal)
        self.models = Models(self._load, settings.heads, settings.journal, settings.keys)
        self.models.open()
        self.health = health.HealthServicer()
        self.inference = InferenceService(self.models, self.meters, settings.limits, self.journal)
        self.server, self.port = self._bind()
        self.rest = self._rest()
        self.metrics_port: int | None = None
        self._stopping = threading.Event()
        self._watch = threading.Thread(target=self._keep_looking, name="refresh", daemon=True)

    def start(self) -> None:
        """Answer from now on."""
        self._refresh()
        if self.settings.metrics_port is not None:
            http, _ = start_http_server(
                self.settings.metrics_port, addr="127.0.0.1", registry=self.meters.registry
            )
            self.metrics_port = http.server_port
        self.server.start()
        if self.rest is not None:
            self.rest.start()
        self._watch.start()

    def stop(self) -> None:
        """Say so to probes, take no more requests, finish those under way, write the journal."""
        self._stopping.set()
        self.health.enter_graceful_shutdown()
        self.models.problem = "the service is stopping"
        ended = self.server.stop(self.settings.limits.drain_s)
        if self.rest is not None:
            self.rest.stop()
        ended.wait()
        if self._watch.is_alive():
            self._watch.join()
        self.models.close()
        if self.journal is not None:
            self.journal.close()

    def _load(self, now: Served | None) -> Served:
        """What is current; the version before, where a newer one does not hold."""
        settings = self.settings
        path = find_current(settings.path, settings.keys)
        if now is not None and path in (now.bundle.path, self._refused):
            return now
        try:
            return load(
                settings.path,
                settings.keys,
                device=settings.device,
                max_batch=settings.max_batch,
                on_batch=self._note_batch,
            )
        except ReleaseError as error:
            if now is None or Releases(path.parent).states().get(now.bundle.manifest.version) == "withdrawn":
                raise
            self._refused = path
            log.error("version %s stays, because the newer one is refused: %s", now.bundle.version, error)
            return now

    def _note_batch(self, n: int) -> None:
        self.meters.batch.observe(n)

    def _bind(self) -> tuple[grpc.Server, int]:
        settings, limits = self.settings, self.settings.limits
        interceptors = [BearerTokens(read_tokens(settings.tokens))] if settings.tokens else []
        server = grpc.server(
            ThreadPoolExecutor(limits.in_flight + 8, thread_name_prefix="calls"),
            interceptors=interceptors,
            options=[
                ("grpc.max_receive_message_length", limits.request_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
            ],
            maximum_concurrent_rpcs=4 * limits.in_flight,
        )
        server.add_generic_rpc_handlers((self.inference.handler(),))
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        names = (protocol.SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server, pool=protocol.POOL)
        try:
            if settings.tls is None:
                port = server.add_insecure_port(settings.address)
            else:
                secure = credentials(*settings.tls, settings.client_ca)
                port = server.add_secure_port(settings.address, secure)
        except RuntimeError:
            raise ServiceError(
                f"{settings.address} cannot be listened on; it is taken, or no address of this machine"
            ) from None
        return server, port

    def _rest(self) -> "Rest | None":
        settings = self.settings
        if settings.http_port is None:
            return None
        from deploy.rest import Rest

        return Rest(
            self.inference,
            settings.address.rpartition(":")[0],
            settings.http_port,
            tls=settings.tls,
            client_ca=settings.client_ca,
            tokens=None if settings.tokens is None else read_tokens(settings.tokens),
        )

    def _keep_looking(self) -> None:
        while not self._stopping.wait(self.settings.refresh_s):
            self._refresh()

    def _refresh(self) -> None:
        self.models.refresh()
        ready = self.models.ready and not self._stopping.is_set()
        status = Status.SERVING if ready else Status.NOT_SERVING
        for name in ("", protocol.SERVICE, *self.models.names()):
            self.health.set(name, status)
        self.meters.ready.set(int(ready))
        self.meters.version.clear()
        for name in self.models.names():
            self.meters.version.labels(name, self.models.get(name, "").version).set(1)


def serve(settings: Settings, *, ready: Callable[[Service], Any] = lambda service: None) -> None:
    """Run a service until SIGTERM or SIGINT; then drain it.

    Args:
        settings: How.
        ready: Told once it answers.

    Raises:
        ReleaseError: If the bundle does not hold.
        ServiceError: If the settings do not.
    """
    stopped = threading.Event()
    sys.setswitchinterval(SWITCH_S)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    service = Service(settings)
    service.start()
    ready(service)
    stopped.wait()
    log.info("stopping; requests under way are finished")
    service.stop()


def _check(settings: Settings) -> None:
    host = settings.address.rpartition(":")[0]
    guarded = settings.tls is not None and (settings.tokens is not None or settings.client_ca is not None)
    if settings.client_ca is not None and settings.tls is None:
        raise ServiceError("client certificates need TLS; give --tls-key and --tls-cert, too")
    if host not in LOOPBACK and not guarded and not settings.insecure:
        raise ServiceError(
            f"others can reach {settings.address}: give --tls-key and --tls-cert, and --tokens or --client-ca; "
            "--insecure does without"
        )
