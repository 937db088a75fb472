"""The Open Inference Protocol over HTTP and JSON: the same calls, limits and tokens as over gRPC.

Tensors are JSON, or bytes after it as Triton's extension puts them (Inference-Header-Content-Length), which
images need; answers are JSON.
"""

import asyncio
import json
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from socket import AF_INET, AF_INET6, SO_REUSEADDR, SOL_SOCKET, socket
from typing import Any

import grpc
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deploy import protocol
from deploy.access import allowed
from deploy.json_calls import HEADER_LENGTH, answer, infer_request, metadata
from deploy.service import InferenceService, RefusedError
from foedus.errors import ServiceError

Code = grpc.StatusCode
STATUS = {
    Code.INVALID_ARGUMENT: 400, Code.UNAUTHENTICATED: 401, Code.NOT_FOUND: 404, Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 503, Code.DEADLINE_EXCEEDED: 504,
}  # fmt: skip
NOT_READY = 400
"""What the protocol answers where gRPC says false."""


@dataclass(frozen=True)
class _Call:
    """In the place of a gRPC context: the client's patience is not known here."""

    def time_remaining(self) -> None:
        """None: only the service's own limit holds."""


class Rest:
    """The HTTP face of a service, on a port of its own, from `start` to `stop`.

    Args:
        service: Answers.
        host: Where to listen; port 0 takes a free one.
        tls: Key and certificate; None without TLS.
        client_ca: Only clients with a certificate of this authority.
        tokens: As `access.read_tokens` gives them; None asks for none.

    Raises:
        ServiceError: If the address cannot be listened on.
    """

    def __init__(
        self,
        service: InferenceService,
        host: str,
        port: int,
        *,
        tls: tuple[Path, Path] | None,
        client_ca: Path | None,
        tokens: list[bytes] | None,
    ) -> None:
        self.service, self.tokens = service, tokens
        self._calls = ThreadPoolExecutor(service.limits.in_flight + 8, thread_name_prefix="rest")
        self._socket = _listening(host.strip("[]"), port)
        self.port = int(self._socket.getsockname()[1])
        secure: dict[str, Any] = {} if tls is None else {"ssl_keyfile": tls[0], "ssl_certfile": tls[1]}
        if client_ca is not None:
            secure |= {"ssl_ca_certs": str(client_ca), "ssl_cert_reqs": ssl.CERT_REQUIRED}
        self._server = uvicorn.Server(
            uvicorn.Config(
                Starlette(routes=self._routes()),
                log_config=None,
                access_log=False,
                server_header=False,
                limit_concurrency=4 * service.limits.in_flight,
                timeout_graceful_shutdown=max(1, int(service.limits.drain_s)),
                **secure,
            )
        )
        listen = {"sockets": [self._socket]}
        self._thread = threading.Thread(target=self._server.run, kwargs=listen, name="rest", daemon=True)

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more requests, and finish those under way."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join()
        self._socket.close()
        self._calls.shutdown(cancel_futures=True)

    def _routes(self) -> list[Route]:
        model = "/v2/models/{model}"
        found = [
            Route("/v2", self._asked("ServerMetadata", _body_of(metadata))),
            Route("/v2/health/live", self._asked("ServerLive", _flag("live"))),
            Route("/v2/health/ready", self._asked("ServerReady", _flag("ready"))),
        ]
        for path in (model, f"{model}/versions/{{version}}"):
            found += [
                Route(path, self._asked("ModelMetadata", _body_of(metadata))),
                Route(f"{path}/ready", self._asked("ModelReady", _flag("ready"))),
                Route(f"{path}/infer", self._asked("ModelInfer", _body_of(answer)), methods=["POST"]),
            ]
        return found

    def _asked(self, name: str, shown: Callable[[Any], Response]) -> Callable[[Request], Any]:
        """An endpoint: the call of that name, and its response as `shown`."""

        async def endpoint(request: Request) -> Response:
            try:
                if name != "ServerLive" and not allowed(
                    request.headers.get("authorization", ""), self.tokens
                ):
                    raise RefusedError(
                        Code.UNAUTHENTICATED, "a valid token is needed: authorization: Bearer TOKEN"
                    )
                async with asyncio.timeout(self.service.limits.seconds):
                    body = await self._body(request)
                loop = asyncio.get_running_loop()
                return shown(await loop.run_in_executor(self._calls, self._call, name, request, body))
            except TimeoutError:
                return _error(Code.DEADLINE_EXCEEDED, "the request did not arrive in time")
            except ClientDisconnect:
                return _error(Code.INVALID_ARGUMENT, "the request was cut off")
            except RefusedError as error:
                return _error(error.code, str(error))

        return endpoint

    async def _body(self, request: Request) -> bytes:
        found, most = bytearray(), self.service.limits.request_bytes
        async for chunk in request.stream():
            found += chunk
            if len(found) > most:
                raise RefusedError(Code.RESOURCE_EXHAUSTED, f"the request is larger than {most} bytes")
        return bytes(found)

    def _call(self, name: str, request: Request, body: bytes) -> Any:
        path, length = request.path_params, request.headers.get(HEADER_LENGTH, "")
        given = (path.get("model", ""), path.get("version", ""))

        def asked() -> Any:
            if name == "ModelInfer":
                return infer_request(*given, body, length)
            fields = {"name": given[0], "version": given[1]} if name.startswith("Model") else {}
            return protocol.message(f"{name}Request")(**fields)

        return self.service.answer(name, asked, _Call())


def _body_of(shown: Callable[[Any], dict[str, Any]]) -> Callable[[Any], Response]:
    return lambda response: JSONResponse(shown(response))


def _flag(name: str) -> Callable[[Any], Response]:
    return lambda response: Response(status_code=200 if getattr(response, name) else NOT_READY)


def _error(code: grpc.StatusCode, said: str) -> Response:
    return Response(json.dumps({"error": said}), STATUS.get(code, 500), media_type="application/json")


def _listening(host: str, port: int) -> socket:
    found = socket(AF_INET6 if ":" in host else AF_INET)
    try:
        found.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(1024)
    except OSError:
        found.close()
        raise ServiceError(f"{host}:{port} cannot be listened on; it is taken, or no address here") from None
    return found
