"""The coordinator's two doors, without a server behind them: who is let through, with what, in whose name."""

import asyncio
import json
import ssl
from base64 import b64encode
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import HTTPException
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.superlink.routers.control import router

from clients.membership import Membership
from foedus import pki
from server import callers
from server.callers import KEY_HEADER, MOST_BYTES, Approved, is_long
from server.control import key_bytes
from server.gate import AuditLog, newest_tls, private_side, public_side
from server.home import TOKENS, Home
from server.roles import MAY, READ

SITE = '[site]\nname = "{name}"\n[data]\nkind = "table"\npath = "data.csv"\nlabel = "y"\n'


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    folder = tmp_path_factory.mktemp("gate")
    return Home.create(folder / "home", name="care", host="127.0.0.1", port=1, control_port=2)


def approved(home: Home, folder: Path, name: str) -> bytes:
    """The header that a site's calls carry, once it is approved."""
    (folder / name).mkdir()
    (folder / name / "site.toml").write_text(SITE.format(name=name))
    request = Membership(folder / name).request()
    home.approve(request)
    return b64encode(key_bytes(request.node))


def called(side: Any, path: str, **headers: str | bytes) -> int:
    """The status of a call; Flower's own answer is 200. Nothing of the body is read on the way to it."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        raise AssertionError("the body of a call was read at the door")

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    named = [
        (name.replace("_", "-").encode(), value if isinstance(value, bytes) else value.encode())
        for name, value in headers.items()
    ]
    scope = {"type": "http", "method": "POST", "path": path, "headers": named}
    asyncio.run(side(scope, receive, send))
    return int(sent[0]["status"])


async def flower(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


KEY = KEY_HEADER.decode().replace("-", "_")


def test_a_strangers_call_is_answered_before_a_byte_of_it_is_read(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = public_side(flower, Approved(home))
    assert called(side, "/v1/fleet/push-object", content_length=str(10**9)) == 401
    monkeypatch.setattr(callers, "LOOK_S", 0.0)
    key = approved(home, tmp_path, "north")
    assert called(side, "/v1/fleet/pull-messages", **{KEY: key}) == 200
    for wrong in (b"", key[:-4], b"\xff\xfe", key + key):
        assert called(side, "/v1/fleet/push-object", **{KEY: wrong}) == 401
    assert called(side, "/health") == called(side, "/foedus") == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/list-runs",
        "/v1/runtime/acquire-task",
        "/v1/fleet",
        "/v1/Fleet/push-object",
        "//v1/fleet/push-object",
        "/docs",
        "/openapi.json",
        "/",
        "/health/../v1/control/start-run",
    ],
)
def test_there_is_nothing_else_on_the_public_side(home: Home, path: str) -> None:
    assert called(public_side(flower, Approved(home)), path) == 404


@pytest.mark.parametrize(
    ("headers", "long"),
    [
        ({}, False),
        ({b"content-length": b"%d" % MOST_BYTES}, False),
        ({b"content-length": b"%d" % (MOST_BYTES + 1)}, True),
        ({b"content-length": b"9" * 5000}, True),
        ({b"content-length": b"-1"}, True),
        ({b"content-length": b"1e3"}, True),
        ({b"transfer-encoding": b"chunked"}, True),
        ({b"transfer-encoding": b"chunked", b"content-length": b"3"}, True),
    ],
)
def test_a_call_says_that_it_is_short(headers: dict[bytes, bytes], long: bool) -> None:
    assert is_long(headers) is long


def test_the_private_side_knows_control_for_a_token_and_the_executors_interface(home: Home) -> None:
    side = private_side(flower, home.folder / TOKENS)
    bearer = {"authorization": f"Bearer {home.token('auditor')}"}
    assert called(side, "/v1/control/list-runs") == 403
    assert called(side, "/v1/control/list-runs", **bearer) == 200
    assert called(side, "/v1/runtime/acquire-task") == called(side, "/health") == 200
    for path in (
        "/v1/fleet/push-object",
        "/docs",
        "/docs/",
        "/openapi.json",
        "/v1/responses",
        "/v1/Control/x",
    ):
        assert called(side, path, **bearer) == 404


def test_an_auditors_token_reads_and_every_call_of_flowers_that_we_do_not_name_is_refused(home: Home) -> None:
    side = private_side(flower, home.folder / TOKENS)
    calls = {route.path.removeprefix("/v1/control/") for route in router.routes}  # type: ignore[attr-defined]
    assert MAY["admin"] < calls
    for role in ("auditor", "coordinator", "admin"):
        bearer = {"authorization": f"Bearer {home.token(role)}"}  # type: ignore[arg-type]
        allowed = {call for call in calls if called(side, f"/v1/control/{call}", **bearer) == 200}
        assert allowed == MAY[role]
    changing = ("start", "stop", "register", "create", "add", "remove", "pull", "update", "set", "archive")
    assert not [call for call in READ if call.startswith(changing)]


def pushed(*names: int, caller: int = 7) -> PushMessagesRequest:
    messages = [Message(metadata=Metadata(src_node_id=name)) for name in names]
    return PushMessagesRequest(node=Node(node_id=caller), messages_list=messages)


def part(size: int, *, session: str = "s", caller: int = 7) -> PushObjectRequest:
    return PushObjectRequest(node=Node(node_id=caller), session_id=session, object_content=bytes(size))


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    return AuditLog(tmp_path / "audit.jsonl", most_mb=1)


def looked_at(log: AuditLog, request: Any) -> None:
    log.compose_log_before_event(request, SimpleNamespace(), None, "/v1/fleet/push")


@pytest.mark.parametrize("request_", [pushed(8), pushed(7, 8), pushed(), pushed(0)])
def test_a_site_that_answers_in_anothers_name_is_refused_and_noted(
    log: AuditLog, tmp_path: Path, request_: Any
) -> None:
    looked_at(log, pushed(7))
    looked_at(log, PullMessagesRequest(node=Node(node_id=7)))
    with pytest.raises(HTTPException, match="in the name of another site"):
        looked_at(log, request_)
    [line] = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert line["actor"]["actor_id"] == "7"
    assert line["status"] == "refused: an answer in the name of another site"


def test_an_answer_beyond_its_allowance_is_not_taken(log: AuditLog) -> None:
    for _ in range(2):
        looked_at(log, part(500_000))
    looked_at(log, part(500_000, session="another answer"))
    looked_at(log, part(500_000, caller=8))
    with pytest.raises(HTTPException, match="more than 1 MB"):
        looked_at(log, part(1))


@pytest.mark.parametrize(("newest", "spoken"), [("TLSv1_2", False), ("TLSv1_3", True)])
def test_nothing_older_than_tls_1_3_is_spoken(home: Home, newest: str, spoken: bool) -> None:
    def default() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(home.pki / pki.SERVER_CERTIFICATE, home.pki / pki.SERVER_KEY)
        return context

    trusting = ssl.create_default_context(cafile=str(home.pki / pki.CA_CERTIFICATE))
    trusting.maximum_version = ssl.TLSVersion[newest]
    pipes = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        newest_tls(None, default).wrap_bio(pipes[0], pipes[1], server_side=True),  # type: ignore[arg-type]
        trusting.wrap_bio(pipes[1], pipes[0], server_hostname="127.0.0.1"),
    ]
    if spoken:
        shake(*ends)
        assert ends[1].version() == "TLSv1.3"
    else:
        with pytest.raises(ssl.SSLError, match=r"(?i)unsupported.protocol"):
            shake(*ends)


def shake(*ends: ssl.SSLObject) -> None:
    """A handshake of two ends in memory."""
    left = list(reversed(ends))
    for _ in range(10):
        for end in list(left):
            try:
                end.do_handshake()
                left.remove(end)
            except ssl.SSLWantReadError:
                pass
