"""How much of what sites send and fetch the server holds in memory at a time.

Models travel in parts (Flower: 5 MiB). A part is read, or handed out, in its site's turn; until then it waits at
the site. So the server's memory does not grow with the number of sites. No site has more than a few turns at a
time, and who only shows another's key has none.
"""

import asyncio
import binascii
from base64 import b64decode
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from contextlib import suppress
from typing import Any

from flwr.common.constant import TIMESTAMP_HEADER
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature

PRIVATE_NAMES = (
    "flwr.common.constant:TIMESTAMP_HEADER",
    "flwr.supercore.constant:FLEET_HTTP_PUBLIC_KEY_HEADER",
    "flwr.supercore.constant:FLEET_HTTP_SIGNATURE_HEADER",
    "flwr.supercore.primitives.asymmetric:bytes_to_public_key",
    "flwr.supercore.primitives.asymmetric:verify_signature",
)
PARTS = ("/push-object", "/pull-object")
AT_ONCE, AT_ONCE_A_SITE = 8, 2
"""Turns at a time: of all sites, and of one; a node of Flower's sends and fetches two parts at a time."""
TURN_S = 300.0
"""How long a turn may take: 5 MiB in 300 s are 140 kbit/s."""

Scope = MutableMapping[str, Any]
App = Callable[
    [Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Coroutine[Any, Any, None]
]


class Turns:
    """The fleet's side of the server, where parts wait for their turn.

    Args:
        app: What answers.
        refuse: Answers with a status and a reason.
    """

    def __init__(self, app: App, refuse: Callable[[Any, int, str], Awaitable[None]]) -> None:
        self._app, self._refuse = app, refuse
        self._all = asyncio.Semaphore(AT_ONCE)
        self._of_a_site: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(AT_ONCE_A_SITE)
        )

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Let a request in at once or, with a part, in its turn, if whose key it shows has signed it."""
        if not scope["path"].endswith(PARTS):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if not await asyncio.to_thread(_is_signed, headers):
            await self._refuse(send, 401, "not signed with the key it shows")
            return
        async with self._of_a_site[headers[FLEET_HTTP_PUBLIC_KEY_HEADER]], self._all:
            with suppress(TimeoutError):  # the connection is then closed, and the site tries again
                await asyncio.wait_for(self._app(scope, receive, send), TURN_S)


def _is_signed(headers: dict[str, str]) -> bool:
    """Whether the key a request shows is its sender's; Flower looks at time and node, too, once it has read it."""
    try:
        key = b64decode(headers[FLEET_HTTP_PUBLIC_KEY_HEADER], validate=True)
        signature = b64decode(headers[FLEET_HTTP_SIGNATURE_HEADER], validate=True)
        text = headers[TIMESTAMP_HEADER].encode("ascii")
        return bool(verify_signature(bytes_to_public_key(key), text, signature))
    except (KeyError, ValueError, TypeError, binascii.Error):
        return False
