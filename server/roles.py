"""Who may ask what of the coordinator's server: three roles, each with a token."""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Literal

Role = Literal["auditor", "coordinator", "admin"]
READ = frozenset(
    {
        "list-runs",
        "list-nodes",
        "stream-logs",
        "list-run-series",
        "get-run-series",
        "show-federation",
        "list-federations",
    }
)
"""Calls of Flower's Control interface that change nothing."""
CONDUCT = READ | {"start-run", "stop-run", "pull-artifacts"}
ADMINISTER = CONDUCT | {"register-node", "unregister-node"}
MAY: dict[str, frozenset[str]] = {"auditor": READ, "coordinator": CONDUCT, "admin": ADMINISTER}


def holder(tokens: Mapping[str, Mapping[str, str]], authorization: str) -> Mapping[str, str] | None:
    """Name and role of who sent that Authorization header; None if no token matches."""
    given = hashlib.sha256(authorization.removeprefix("Bearer ").encode()).hexdigest()
    found = None
    for known, who in tokens.items():  # every one is compared, in constant time
        if hmac.compare_digest(known, given):
            found = who
    return found


def may(role: str, call: str) -> bool:
    """Whether a role may make a call."""
    return call in MAY.get(role, frozenset())
