"""Flower's SuperLink behind two doors: `python -m server.gate HOME [--listen HOST]`.

The public side shows sites nothing but the Fleet interface they need, and strangers not even that: Flower
reads a call, however long, before it asks whose it is; here the key must be an approved site's and the
call short. What a site sends is in its own name, and no longer than an answer may be. The private side, on this
machine only, answers Flower's Control interface to who holds a role's token; Flower 1.41 by itself
lets anyone who reaches its port start runs. Every call that changes something goes to audit.jsonl.

Names of Flower's own that are used here and are not public are listed in PRIVATE_NAMES; a test
imports each, so that an upgrade that moves one is noticed before it hurts.
"""

import argparse
import asyncio
import dataclasses
import json
import ssl
import sys
import threading
from collections.abc import Callable, Container
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import flwr
import flwr.server.superlink.linkstate.linkstate_factory as states
import flwr.supercore.sql_mixin as databases
import uvicorn
from fastapi import HTTPException
from flwr.common.event_log_plugin import EventLogWriterPlugin
from flwr.supercore.constant import SQLITE_PRAGMAS
from flwr.supercore.event_log.typing import Actor, Event, LogEntry
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan, _parse_superlink_lifespan_config
from flwr.superlink.main import create_app

import foedus
from foedus import pki
from foedus.enrolment import VERSIONS
from server.callers import ANSWER_MB, KEY_HEADER, Allowance, Approved, is_long, posing
from server.delivery import WholeMessages
from server.home import SECRET, TOKENS, Home, read_tokens
from server.roles import holder, may
from server.turns import App, Scope, Turns

PRIVATE_NAMES = (
    "flwr.superlink.cli.flower_superlink:SuperLinkLifespan",
    "flwr.superlink.cli.flower_superlink:_parse_superlink_lifespan_config",
    "flwr.superlink.main:create_app",
    "flwr.server.superlink.linkstate.linkstate_factory:SqlLinkState",
    "flwr.supercore.sql_mixin:SQLITE_PRAGMAS",
    "flwr.superlink.routers.fleet.middlewares:FleetEventLogMiddleware",
    "flwr.superlink.routers.fleet.node_auth:NodeAuthMiddleware",
)
DATABASE = {"busy_timeout": "25000", "cache_size": "-4000", "mmap_size": "0"}
"""SQLite: milliseconds for which a connection waits for its turn to write, kB of pages that it keeps, and bytes of
the file that are mapped. Flower has 5 s, after which a run is answered "500" and ends (who asks waits 30 s, and then
asks again); 64 MB and 256 MB."""
FLEET, CONTROL, RUNTIME, HEALTH = "/v1/fleet/", "/v1/control/", "/v1/runtime/", "/health"
NOTED = frozenset(
    {
        *("start-run", "stop-run", "pull-artifacts", "register-node", "unregister-node"),
        *("activate-node", "deactivate-node", "create-node", "delete-node"),
    }
)
"""Calls that change who takes part or what runs; of the others only failures are logged."""
WHO = "foedus-who"


class AuditLog(EventLogWriterPlugin):
    """One line of audit.jsonl for every call that changes something or fails."""

    def __init__(self, path: Path, *, most_mb: int = ANSWER_MB) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._allowance = Allowance(most_mb * 1_000_000)
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._lock = threading.Lock()

    def compose_log_before_event(
        self, request: Any, context: Any, account_info: Any, method_name: str
    ) -> LogEntry:
        """What is asked, and by whom; Flower calls this once it knows whose key signed, and before it does anything.

        Raises:
            HTTPException: If a site speaks for another, or sends more than an answer may hold.
        """
        problem = posing(request) or self._allowance.exceeded(request)
        if problem is not None:
            self._append(_entry(request, context, method_name, f"refused: {problem}"))
            raise HTTPException(403, problem)
        return _entry(request, context, method_name, "started")

    def compose_log_after_event(
        self, request: Any, context: Any, account_info: Any, method_name: str, response: Any
    ) -> LogEntry:
        """What came of it."""
        failed = isinstance(response, BaseException)
        return _entry(
            request, context, method_name, f"failed: {type(response).__name__}" if failed else "completed"
        )

    def write_log(self, log_entry: LogEntry) -> None:
        """Append the line, unless it is routine."""
        noted = log_entry.event.action.rpartition("/")[2] in NOTED
        if log_entry.status == "started" or (log_entry.status == "completed" and not noted):
            return
        self._append(log_entry)

    def _append(self, entry: LogEntry) -> None:
        with self._lock:
            self._file.write(json.dumps(dataclasses.asdict(entry)) + "\n")


def _entry(request: Any, context: Any, action: str, status: str) -> LogEntry:
    who = getattr(context, "scope", {}).get("state", {}).get(WHO, {})
    node = getattr(getattr(request, "node", None), "node_id", None)
    address = context.client.host if getattr(context, "client", None) else ""
    fab = getattr(getattr(request, "fab", None), "hash_str", None)
    return LogEntry(
        datetime.now(UTC).isoformat(timespec="milliseconds"),
        Actor(str(node) if node else who.get("name"), who.get("role"), address),
        Event(action, getattr(request, "run_id", None) or None, fab or None),
        status,
    )


def public_side(app: App, approved: Container[bytes]) -> App:
    """Only what a site needs; everything else does not exist here.

    Args:
        app: Flower's.
        approved: Keys of the sites that may sign in, as their calls show them.
    """
    versions = {"foedus": foedus.__version__, "flwr": flwr.__version__}
    fleet = Turns(app, _refuse)

    async def answer(scope: Scope, receive: Any, send: Any) -> None:
        path, headers = scope.get("path", ""), dict(scope.get("headers", ()))
        if scope["type"] != "http":
            return
        if path == VERSIONS:
            await _answer(send, 200, versions)
        elif not (path.startswith(FLEET) or path == HEALTH):
            await _refuse(send, 404, "not found")
        elif path != HEALTH and headers.get(KEY_HEADER, b"") not in approved:
            await _refuse(send, 401, "no approved site's key")
        elif is_long(headers):
            await _refuse(send, 413, "too long")
        else:
            await fleet(scope, receive, send)

    return answer


def private_side(app: App, tokens: Path) -> App:
    """Control to who has a token for the call; the executor's Runtime interface has Flower's own secret."""

    async def answer(scope: Scope, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if scope["type"] == "http" and path.startswith(CONTROL):
            header = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
            who = holder(read_tokens(tokens), header)
            if who is None:
                await _refuse(send, 403, "no valid token")
                return
            call = path.removeprefix(CONTROL)
            if not may(who["role"], call):
                await _refuse(send, 403, f"the role '{who['role']}' may not call {call}")
                return
            scope.setdefault("state", {})[WHO] = dict(who)
        elif scope["type"] == "http" and not (path.startswith(RUNTIME) or path == HEALTH):
            await _refuse(send, 404, "not found")
            return
        await app(scope, receive, send)

    return answer


async def _refuse(send: Any, status: int, reason: str) -> None:
    await _answer(send, status, {"detail": reason})


async def _answer(send: Any, status: int, content: dict[str, str]) -> None:
    body = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def flags(home: Home) -> list[str]:
    """What Flower's own command line would be given."""
    home.database.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    certificates = {
        "--ssl-certfile": pki.SERVER_CERTIFICATE,
        "--ssl-keyfile": pki.SERVER_KEY,
        "--ssl-ca-certfile": pki.CA_CERTIFICATE,
    }
    return [
        *("--host", "127.0.0.1", "--port", str(home.settings["control_port"])),
        *(word for flag, name in certificates.items() for word in (flag, str(home.pki / name))),
        *("--enable-supernode-auth", "--isolation", "process"),
        *("--superexec-auth-secret-file", str(home.folder / SECRET)),
        *("--database", str(home.database), "--disable-runtime-dependency-installation"),
    ]


def main() -> None:
    """Serve both sides until one of them stops."""
    parser = argparse.ArgumentParser(description="Flower's SuperLink behind two doors.")
    parser.add_argument("home", type=Path)
    parser.add_argument("--listen", default="0.0.0.0", help="address of the public side")  # noqa: S104
    given = parser.parse_args()
    home = Home.open(given.home)
    sys.argv = ["flower-superlink", *flags(home)]
    config = _parse_superlink_lifespan_config()
    _replace(states, "SqlLinkState", WholeMessages)
    _replace(databases, "SQLITE_PRAGMAS", tuple({**dict(SQLITE_PRAGMAS), **DATABASE}.items()))
    log = AuditLog(home.folder / "audit.jsonl", most_mb=int(home.settings.get("max_answer_mb", ANSWER_MB)))
    config = dataclasses.replace(
        config, event_log_plugin=log, fleet_event_log_plugin=log, enable_event_log=True
    )
    app: Any = create_app(config, SuperLinkLifespan)
    tls: dict[str, Any] = {"ssl_keyfile": config.ssl_keyfile, "ssl_certfile": config.ssl_certfile}
    common = {**tls, "workers": 1, "log_level": "warning", "ssl_context_factory": newest_tls}
    private = uvicorn.Config(
        private_side(app, home.folder / TOKENS),
        host="127.0.0.1",
        port=home.settings["control_port"],
        **common,
    )
    public = uvicorn.Config(
        public_side(app, Approved(home)),
        host=given.listen,
        port=home.settings["port"],
        lifespan="off",
        **common,
    )
    asyncio.run(_serve([uvicorn.Server(private), uvicorn.Server(public)]))


def newest_tls(config: uvicorn.Config, default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """TLS 1.3 and nothing older: both ends are ours."""
    context = default()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _replace(module: ModuleType, name: str, value: Any) -> None:
    """Have Flower use ours."""
    setattr(module, name, value)


async def _serve(servers: list[uvicorn.Server]) -> None:
    tasks = [asyncio.create_task(server.serve()) for server in servers]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for server in servers:
        server.should_exit = True
    await asyncio.gather(*tasks)


if __name__ == "__main__":
    main()
