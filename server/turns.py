"""How much of what sites send and fetch the server holds in memory at a time.

Models travel in parts (Flower: 5 MiB). A part is read, or handed out, in its site's turn; until then it waits at
the site. So the server's memory does not grow with the number of sites, and who is not signed in gets no turn.
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
PART_BYTES, OTHER_BYTES = 32 * 2**20, 2**20
"""Longest request with a part, and without one."""

Scope = MutableMapping[str, Any]
App = Callable[
    [Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Coroutine[Any, Any, None]
]


class Turns:
    """The fleet's side of the server, where parts wait for their turn.

    Args:
        app: What answers.
        signed_in: Whether a site with this public key is.
        refuse: Answers with a status and a reason.
    """

    def __init__(
        self,
        app: App,
        signed_in: Callable[[bytes], bool],
        refuse: Callable[[Any, int, str], Awaitable[None]],
    ) -> None:
        self._app, self._signed_in, self._refuse = app, signed_in, refuse
        self._all = asyncio.Semaphore(AT_ONCE)
        self._of_a_site: defaultdict[bytes, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(AT_ONCE_A_SITE)
        )

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Let a request in at once, in its turn or not at all."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        part = scope["path"].endswith(PARTS)
        length, longest = headers.get("content-length", "0"), PART_BYTES if part else OTHER_BYTES
        if "transfer-encoding" in headers or not length.isdecimal() or int(length) > longest:
            await self._refuse(send, 413, f"a request here says its length and holds {longest} bytes at most")
            return
        if not part:
            await self._app(scope, receive, send)
            return
        key = await asyncio.to_thread(self._signer, headers)
        if key is None:
            await self._refuse(send, 401, "not signed in")
            return
        async with self._of_a_site[key], self._all:
            with suppress(TimeoutError):  # the connection is then closed, and the site tries again
                await asyncio.wait_for(self._app(scope, receive, send), TURN_S)

    def _signer(self, headers: dict[str, str]) -> bytes | None:
        """The public key that signed the request, if its site is signed in; Flower looks closer in its turn."""
        try:
            key = b64decode(headers[FLEET_HTTP_PUBLIC_KEY_HEADER], validate=True)
            signature = b64decode(headers[FLEET_HTTP_SIGNATURE_HEADER], validate=True)
            text = headers[TIMESTAMP_HEADER].encode("ascii")
            sound = verify_signature(bytes_to_public_key(key), text, signature)
        except (KeyError, ValueError, TypeError, binascii.Error):
            return None
        return key if sound and self._signed_in(key) else None
