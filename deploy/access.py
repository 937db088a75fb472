"""Who may call: TLS, client certificates, bearer tokens. Health is open to probes."""

import hashlib
import hmac
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from foedus.errors import ServiceError

OPEN = ("/grpc.health.v1.Health/", "/inference.GRPCInferenceService/ServerLive")
"""Calls that need no token: they tell nothing but that the service runs."""


def credentials(key: Path, certificate: Path, client_ca: Path | None) -> grpc.ServerCredentials:
    """TLS; with `client_ca`, only clients with a certificate of that authority.

    Raises:
        ServiceError: If a file cannot be read, or others can read the key.
    """
    if key.is_file() and key.stat().st_mode & 0o077:
        raise ServiceError(f"{key} can be read by others on this machine; run chmod 600 on it")
    pair = (_content(key), _content(certificate))
    authority = None if client_ca is None else _content(client_ca)
    return grpc.ssl_server_credentials([pair], authority, require_client_auth=client_ca is not None)


def read_tokens(path: Path) -> list[bytes]:
    """sha256 of each token in a file, one a line.

    Raises:
        ServiceError: If it cannot be read, others can read it, or a token is shorter than 16 characters.
    """
    content = _content(path)
    if path.stat().st_mode & 0o077:
        raise ServiceError(f"{path} can be read by others on this machine; run chmod 600 on it")
    tokens = [line.strip() for line in content.splitlines() if line.strip()]
    if not tokens or min(map(len, tokens)) < 16:
        raise ServiceError(f"{path} must hold one token a line, each of 16 characters or more")
    return [hashlib.sha256(token).digest() for token in tokens]


def allowed(authorization: str, tokens: list[bytes] | None) -> bool:
    """Whether "Bearer TOKEN" names one of the tokens; always where there are none to know."""
    if tokens is None:
        return True
    kind, _, token = authorization.partition(" ")
    given = hashlib.sha256(token.strip().encode()).digest()
    return kind.lower() == "bearer" and any(hmac.compare_digest(given, known) for known in tokens)


class BearerTokens(grpc.ServerInterceptor):  # type: ignore[misc]
    """Refuses calls without "authorization: Bearer TOKEN".

    Args:
        tokens: As `read_tokens` gives them.
    """

    def __init__(self, tokens: list[bytes]) -> None:
        self._tokens = tokens
        self._refusal = grpc.unary_unary_rpc_method_handler(_refuse)

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """See grpc."""
        said = str(dict(details.invocation_metadata).get("authorization", ""))
        if details.method.startswith(OPEN) or allowed(said, self._tokens):
            return continuation(details)
        return self._refusal


def _refuse(request: Any, context: grpc.ServicerContext) -> None:
    context.abort(grpc.StatusCode.UNAUTHENTICATED, "a valid token is needed: authorization: Bearer TOKEN")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ServiceError(f"{path} cannot be read ({error.strerror})") from None
