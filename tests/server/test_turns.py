"""Parts of models wait for their turn at the server; who only shows another's key gets none."""

import asyncio
from base64 import b64encode
from collections import Counter
from typing import Any

import pytest
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes, sign_message

from server import turns
from server.turns import AT_ONCE, AT_ONCE_A_SITE, Turns


class Site:
    """Signs its requests as a node of Flower's does."""

    def __init__(self) -> None:
        self._private, public = generate_key_pairs()
        self.key = public_key_to_bytes(public)

    def headers(self, **more: str) -> dict[str, str]:
        """Of one request."""
        text = now().isoformat()
        return {
            FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(self.key).decode(),
            FLEET_HTTP_SIGNATURE_HEADER: b64encode(sign_message(self._private, text.encode())).decode(),
            TIMESTAMP_HEADER: text,
            **more,
        }


class App:
    """Counts who is inside at a time."""

    def __init__(self) -> None:
        self.inside: Counter[bytes] = Counter()
        self.most = self.most_of_a_site = self.answered = 0
        self.takes_s = 0.01

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        key = dict(scope["headers"]).get(FLEET_HTTP_PUBLIC_KEY_HEADER.encode(), b"")
        self.inside[key] += 1
        self.most = max(self.most, self.inside.total())
        self.most_of_a_site = max(self.most_of_a_site, self.inside[key])
        try:
            await asyncio.sleep(self.takes_s)
        finally:
            self.inside[key] -= 1
        self.answered += 1
        await send({"status": 200})


async def _refuse(send: Any, status: int, reason: str) -> None:
    await send({"status": status})


def _asked(side: Turns, path: str, *headers: dict[str, str]) -> list[int]:
    """What many who ask at once are told."""

    async def ask(given: dict[str, str]) -> int:
        said: list[int] = []

        async def send(message: Any) -> None:
            said.append(message["status"])

        scope = {
            "type": "http",
            "path": path,
            "headers": [(k.encode(), v.encode("latin-1")) for k, v in given.items()],
        }
        await side(scope, None, send)
        return said[0] if said else 0

    async def all_at_once() -> list[int]:
        return list(await asyncio.gather(*map(ask, headers)))

    return asyncio.run(all_at_once())


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def side(app: App) -> Turns:
    return Turns(app, _refuse)


def test_however_many_sites_send_parts_a_few_are_held_at_a_time(app: App, side: Turns) -> None:
    headers = [site.headers() for site in [Site() for _ in range(8)] for _ in range(4)]
    assert _asked(side, "/v1/fleet/push-object", *headers) == [200] * 32
    assert app.most == AT_ONCE
    assert app.most_of_a_site == AT_ONCE_A_SITE
    assert not app.inside.total()


def test_a_site_alone_leaves_turns_for_the_others(app: App, side: Turns) -> None:
    site = Site()
    _asked(side, "/v1/fleet/pull-object", *[site.headers() for _ in range(20)])
    assert app.most == AT_ONCE_A_SITE


def test_other_requests_need_no_turn(app: App, side: Turns) -> None:
    assert _asked(side, "/v1/fleet/pull-messages", *[{}] * 20) == [200] * 20
    assert app.most == 20


@pytest.mark.parametrize(
    "changed",
    [
        {FLEET_HTTP_SIGNATURE_HEADER: "AAAA"},
        {FLEET_HTTP_PUBLIC_KEY_HEADER: "no key"},
        {FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(Site().key).decode()},
        {TIMESTAMP_HEADER: "another"},
        {TIMESTAMP_HEADER: "é"},
    ],
)
def test_who_shows_a_key_that_is_not_its_own_gets_no_turn(
    app: App, side: Turns, changed: dict[str, str]
) -> None:
    assert _asked(side, "/v1/fleet/push-object", Site().headers(**changed)) == [401]
    assert _asked(side, "/v1/fleet/push-object", {}) == [401]
    assert not app.answered


def test_a_turn_ends(app: App, side: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TURN_S", 0.05)
    app.takes_s = 60.0
    assert _asked(side, "/v1/fleet/push-object", *[Site().headers()] * 5) == [0] * 5
    assert not app.inside.total()
