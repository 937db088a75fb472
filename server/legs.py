"""Bytes of the secure sum's legs: its messages, made with secrets of nothing but zeros, and weighed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foedus import records
from foedus.secure.lanes import Layout
from foedus.secure.packages import package_bytes
from foedus.secure.wire import (
    SHARE_BYTES,
    Advertisement,
    Consent,
    ConsentRequest,
    KeysRequest,
    MaskReply,
    MaskRequest,
    Message,
    SharesReply,
    SharesRequest,
    Statement,
    UnmaskReply,
    UnmaskRequest,
)
from foedus.statistic import Arrays, Quantity
from foedus.sums import step_type
from server.masked import BATCH

SESSION = 10**15
"""As long as microseconds since 1970."""
KEY, SIGNATURE, SHARE = bytes(32), bytes(64), bytes(SHARE_BYTES)


@dataclass(frozen=True)
class Traffic:
    """Payload bytes to (down) and from (up) one site."""

    down: int
    up: int

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.down + other.down, self.up + other.up)


def plain_sum(request: int, quantities: Mapping[str, Quantity]) -> Traffic:
    """One question of `request` bytes and its plain answer, four or eight bytes a number (foedus.sums.step_type)."""
    return Traffic(request, _packed({n: np.zeros(q.shape, step_type(q)) for n, q in quantities.items()}))


def masked_sum(
    request: int, quantities: Mapping[str, Quantity], *, config: int, sites: Sequence[str]
) -> Traffic:
    """Legs 3 to 5 of the same question.

    Args:
        request: Bytes of the question.
        quantities: What is answered.
        config: Bytes of what every message carries.
        sites: Names on the roster.
    """
    layout, site = Layout(quantities, len(sites)), sites[0]
    place: dict[str, Any] = {"session": SESSION, "sum": BATCH - 1}
    empty = layout.empty()
    lanes = _packed({records.NARROW: empty.narrow, records.WIDE: empty.wide})
    words: dict[str, Any] = {"narrow": layout.narrow, "wide": layout.wide}
    digests: dict[str, Any] = dict.fromkeys(("roster", "sharers", "survivors", "request", "layout"), KEY)
    statement = Statement(**place, **digests, **words)
    consents = [Consent(site=name, statement=statement, signature=SIGNATURE) for name in sites]
    reply = MaskReply(**place, site=site, **words, lanes=KEY, signature=SIGNATURE)
    unmask = UnmaskReply(**place, site=site, seeds=dict.fromkeys(sites, SHARE), pairs={})
    return (
        _leg("mask", request, MaskRequest(**place, packages={}), reply)
        + Traffic(0, lanes)
        + _leg("consent", config, ConsentRequest(**place, survivors=list(sites)), consents[0])
        + _leg("unmask", config, UnmaskRequest(**place, consents=consents), unmask)
    )


def secure_setup(config: int, sites: Sequence[str]) -> Traffic:
    """Legs 1 and 2, and the shares that travel with the first sum after them; once for BATCH sums."""
    agreed: dict[str, Any] = {"session": SESSION, "roster": KEY, "sums": BATCH, "threshold": len(sites)}
    keys = [KEY] * BATCH
    advertised = [
        Advertisement(**agreed, site=name, channel=KEY, pairs=keys, checks=keys, signature=SIGNATURE)
        for name in sites
    ]
    packages = dict.fromkeys(sites[1:], bytes(package_bytes(BATCH)))
    shares = SharesReply(session=SESSION, site=sites[0], packages=packages)
    return (
        _leg("keys", config, KeysRequest(**agreed), advertised[0])
        + _leg("shares", config, SharesRequest(session=SESSION, advertisements=advertised), shares)
        + Traffic(len(MaskRequest(session=SESSION, sum=0, packages=packages).encode()), 0)
    )


def _packed(arrays: Arrays) -> int:
    """Bytes of arrays as they travel."""
    return len(records.packed(records.to_record(arrays)))


def _leg(leg: str, rest: int, request: Message, reply: Message) -> Traffic:
    return Traffic(rest + len(leg) + len(request.encode()), len(reply.encode()))
