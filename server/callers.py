"""Who may call the coordinator's public side, in whose name, and how much a call and an answer may hold.

Flower reads a call, however long, before it asks whose it is; it checks who calls, but not that the
message is the caller's; and it takes as many parts of an answer as are sent.
"""

import threading
import time
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER

from server.control import key_bytes
from server.home import SETTINGS, Home

PRIVATE_NAMES = ("flwr.supercore.constant:FLEET_HTTP_PUBLIC_KEY_HEADER",)
"""Flower's names that are used here and are not public; a test imports each."""
KEY_HEADER = FLEET_HTTP_PUBLIC_KEY_HEADER.encode()
MOST_BYTES = 16 << 20
"""Of one call from a site. The longest hold a part of an answer (Flower cuts arrays into 5 MiB), a site's shares for
a thousand others (3 MB) or its own figures."""
ANSWER_MB = 2_000
"""Of one answer, where the coordinator's settings say nothing of `max_answer_mb`."""
KNOWN_ANSWERS = 1_000
LOOK_S = 1.0
"""Between two looks at which sites are approved, at least."""


class Approved:
    """The keys of approved sites, as they are shown with each call; read again when one is met that is not known.

    Args:
        home: The coordinator's folder.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._keys: frozenset[bytes] = frozenset()
        self._read = -LOOK_S

    def __contains__(self, shown: object) -> bool:
        if shown not in self._keys and time.monotonic() >= self._read + LOOK_S:
            self._read = time.monotonic()
            requests = self._home.approved().values()
            self._keys = frozenset(b64encode(key_bytes(request.node)) for request in requests)
        return shown in self._keys


def is_long(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a call is longer than any of a site is, or does not say how long it is."""
    length = headers.get(b"content-length", b"0")
    return b"transfer-encoding" in headers or not (
        length.isdigit() and len(length) < 12 and int(length) <= MOST_BYTES
    )


def posing(request: Any) -> str | None:
    """Why a site may not push what it pushes: Flower checks who calls, but not that the message is the caller's."""
    if not isinstance(request, PushMessagesRequest):
        return None
    named = {message.metadata.src_node_id for message in request.messages_list}
    return None if named == {request.node.node_id} else "an answer in the name of another site"


class Allowance:
    """How much of an answer may come: a site could otherwise fill the memory of whoever reads it.

    Args:
        most: Bytes of one answer.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: dict[tuple[int, str], int] = {}
        self._lock = threading.Lock()

    def exceeded(self, request: Any) -> str | None:
        """Why a part of an answer is not taken; None if it is. The last answers are known."""
        if not isinstance(request, PushObjectRequest):
            return None
        key = (request.node.node_id, request.session_id)
        with self._lock:
            taken = self._taken.pop(key, 0) + len(request.object_content)
            self._taken[key] = taken
            while len(self._taken) > KNOWN_ANSWERS:
                del self._taken[next(iter(self._taken))]
        if taken <= self._most:
            return None
        return f"an answer of more than {self._most // 1_000_000} MB (max_answer_mb in {SETTINGS})"
