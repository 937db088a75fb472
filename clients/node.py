"""A site's SuperNode: Flower's own, and around it what a site needs.

    python -m clients.node SITE_FOLDER --port PORT

It signs out first if it was killed while signed in (Flower would refuse it until its old lease
ends, a minute later); it asks for work often while there is some and rarely while there is none;
and it looks at every reply before it leaves (clients.egress), outside the process that made it.
What it could not do is in status.json, in one sentence.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flwr.supernode.start_client_internal as flower
import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufClient
from flwr.supernode.cli.flower_supernode import flower_supernode
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from clients.egress import inspected, refusal
from clients.membership import AUTHORITY, EGRESS, LOCAL, SECRET, SITE_KEY, STATUS, Membership
from clients.reach import clock_skew, differing, is_refused, skewed, unreachable
from clients.silence import Silence
from foedus import files, pki
from foedus.errors import ConfigError
from foedus.site import load_site
from foedus.supervise import speak

log = logging.getLogger(__name__)

PRIVATE_NAMES = (
    "flwr.supernode.start_client_internal:_init_connection",
    "flwr.supernode.start_client_internal:_push_messages",
    "flwr.supernode.start_client_internal:_insert_message",
    "flwr.supernode.start_client_internal:time.sleep",
    "flwr.supernode.cli.flower_supernode:flower_supernode",
    "flwr.supernode.fleet_http_client:FleetHttpClient.DeactivateNode",
    "flwr.supernode.node_auth_http_interceptor:NodeAuthHttpInterceptor",
    "flwr.supercore.inflatable.inflatable_object:iterate_object_tree",
    "flwr.supercore.inflatable.inflatable_utils:inflate_object_from_contents",
    "flwr.supercore.protobuf.client:ProtobufClient",
)
"""Flower's names that are replaced or called here and are not public; a test imports each."""
NODE_ID = "node-id"
"""In the node's folder: the number Flower gave this site."""
SOONEST_S, LATEST_S, GROWTH = 0.1, 3.0, 1.5
"""Between two questions for work: from the first, growing to the last, which is Flower's own."""
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 20.0
"""Between two attempts to sign in."""


class Pace:
    """In the place of the module `time` in Flower's loop, which sleeps 3 s between two questions."""

    def __init__(self) -> None:
        self._next = SOONEST_S

    def heard(self) -> None:
        """There was work: ask again soon."""
        self._next = SOONEST_S

    def sleep(self, seconds: float) -> None:
        """As long as there is reason to."""
        if seconds < 1:  # waiting for the ClientApp's reply
            time.sleep(min(seconds, SOONEST_S))
            return
        time.sleep(self._next)
        self._next = min(self._next * GROWTH, LATEST_S)


class Egress:
    """Flower's state of the node, whose replies are looked at on their way out."""

    def __init__(self, state: Any, store: Any, folder: Path, ready: Sequence[Any] = ()) -> None:
        self._state = state
        self._store = store
        self._folder = folder
        self._ready = list(ready)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)

    def get_messages_legacy(self, **wanted: Any) -> list[Any]:
        """Messages of the node; replies only as they may leave, and first those that were taken already."""
        found = self._ready or self._state.get_messages_legacy(**wanted)
        self._ready = []
        return [self._looked_at(reply) for reply in found] if wanted.get("is_reply") else list(found)

    def _looked_at(self, reply: Any) -> Any:
        identifier, parts = reply.metadata.message_id, {}
        for part in iterate_object_tree(self._store.get_object_tree(identifier)):
            while (content := self._store.get(part.object_id)) == b"":
                time.sleep(0.02)  # the ClientApp is still handing it over
            parts[part.object_id] = content
        size = sum(map(len, parts.values()))  # inflating empties them
        whole: Any = inflate_object_from_contents(identifier, parts)
        try:
            allowed, reason = inspected(whole, load_site(self._folder).policy)
        except ConfigError as error:
            log.error("%s", error)
            allowed, reason = (
                refusal(whole, "the site's configuration is not valid"),
                "site.toml is not valid",
            )
        note = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "run": reply.metadata.run_id,
            "type": reply.metadata.message_type,
            "bytes": size,
            "withheld": reason,
            "refused": reply.error.reason if reply.has_error() and reason is None else None,
        }
        with (Membership(self._folder).node / EGRESS).open("a", encoding="utf-8") as written:
            written.write(json.dumps(note) + "\n")
        if reason is None:
            return reply
        log.warning("withheld an answer: %s", reason)
        allowed.metadata.__dict__["_message_id"] = ""
        flower._insert_message(allowed, self._state, self._store)
        self._state.get_messages_legacy(is_reply=True)  # the refusal counts as taken, too
        self._state.delete_messages(message_ids=[identifier])
        self._store.delete(identifier)
        return allowed


class Replies:
    """Sends replies. Flower's loop sends one after each message it got, and so keeps one back for ever
    where a late reply to a run that has ended was sent in its place; here what is left is sent, too."""

    def __init__(self, folder: Path, push: Callable[..., None]) -> None:
        self._folder = folder
        self._push = push
        self._given: dict[str, Any] = {}

    def __call__(self, state: Any, object_store: Any, **given: Any) -> None:
        """In the place of Flower's: waits for a reply and sends it, if it may leave."""
        self._given = {"state": state, "object_store": object_store, **given}
        self._send([])

    def left_over(self) -> None:
        """Send what is there, without waiting."""
        if self._given and (found := self._given["state"].get_messages_legacy(is_reply=True)):
            self._send(found)

    def _send(self, ready: Sequence[Any]) -> None:
        store = self._given["object_store"]
        guarded: Any = Egress(self._given["state"], store, self._folder, ready)
        self._push(**{**self._given, "state": guarded})


def install(site: Membership) -> None:
    """Put the pace, the sign-out and the check in their places in Flower's loop."""
    loop: Any = flower
    pace, replies = Pace(), Replies(site.folder, flower._push_messages)
    connect = flower._init_connection

    def silent(long: bool) -> None:
        reason = (
            f"{site.kit().address} has not answered for a while; it is asked until it does" if long else None
        )
        tell(site, "waiting" if long else "signed in", reason)

    @contextmanager
    def connected(**given: Any) -> Iterator[Any]:
        with connect(**given) as (number, receive, *rest):
            files.write_bytes(site.node / NODE_ID, str(number).encode())
            tell(site, "signed in", differing(site).get("foedus"))
            yield number, _listening(receive, pace, replies, Silence(silent)), *rest

    loop._init_connection = connected
    loop._push_messages = replies
    loop.time = SimpleNamespace(sleep=pace.sleep)


def _listening(
    receive: Callable[[], Any], pace: Pace, replies: Replies, silence: Silence
) -> Callable[[], Any]:
    def asked() -> Any:
        replies.left_over()
        found = silence.during(receive)
        if found is not None:
            pace.heard()
        return found

    return asked


def stay_on_the_way() -> None:
    """Have Flower's clients follow no redirect: who answers at the kit's address could send a site elsewhere."""
    build: Any = ProtobufClient.__init__

    def straight(self: Any, *args: Any, **given: Any) -> None:
        build(self, *args, **given)
        self._client.follow_redirects = False

    replaced: Any = ProtobufClient
    replaced.__init__ = straight


def fleet_client(site: Membership, key: ec.EllipticCurvePrivateKey) -> FleetHttpClient:
    """The way to the server, signed with this site's key as its node signs."""
    return FleetHttpClient.from_server_address(
        site.kit().address,
        False,
        (site.node / AUTHORITY).read_bytes(),
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            NodeAuthHttpInterceptor(key, key.public_key()),
        ],
    )


def sign_out(site: Membership) -> str | None:
    """Sign in and out once: gives back the lease of a process of this site that was killed.

    Returns:
        Why the coordinator does not let this site in; None if it does.
    """
    key = load_ssh_private_key((site.node / pki.NODE_KEY).read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        return f"{site.node / pki.NODE_KEY} is not a P-384 key; remove it and run foedus site init"
    number = site.node / NODE_ID
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    ask = ActivateNodeRequest(public_key=public, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
    with fleet_client(site, key) as client:
        try:
            if number.exists():
                with suppress(httpx.HTTPStatusError):  # it was signed out already, or has a new number
                    client.DeactivateNode(DeactivateNodeRequest(node_id=int(number.read_text())))
            found = client.ActivateNode(ask).node_id
            client.DeactivateNode(DeactivateNodeRequest(node_id=found))
        except httpx.HTTPStatusError as error:
            return _refused(error.response)
        except httpx.TransportError as error:
            return unreachable(site.kit().address, error)
    return None


def wait_until_let_in(site: Membership) -> None:
    """Ask again, less and less often, while the coordinator does not answer, has another minor version of
    Flower (which would end this process), or does not know this site."""
    wait = FIRST_WAIT_S
    while (reason := differing(site).get("flwr") or sign_out(site)) is not None:
        tell(site, "not signed in", reason)
        log.warning("%s", reason)
        time.sleep(wait)
        wait = min(2 * wait, LONGEST_WAIT_S)


def _refused(response: httpx.Response) -> str:
    skew = clock_skew(response)
    if skew is not None and is_refused(skew):
        return skewed(skew)
    return (
        "the coordinator does not let this site in: its key is not approved yet, or was revoked; ask it to run "
        "foedus coordinator approve with this site's request"
    )


def tell(site: Membership, state: str, reason: str | None) -> None:
    """Write how this site's node is."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    files.write_json(site.node / STATUS, {"state": state, "reason": reason, "at": at})


def flags(site: Membership, *, port: int) -> list[str]:
    """What Flower's own command line would be given."""
    node = site.node.resolve()
    return [
        *("--superlink", site.kit().address, "--root-certificates", str(node / AUTHORITY)),
        *("--auth-supernode-private-key", str(node / pki.NODE_KEY)),
        *("--host", "127.0.0.1", "--port", str(port), "--isolation", "process"),
        *("--superexec-auth-secret-file", str(node / SECRET)),
        *("--ssl-certfile", str(node / LOCAL / pki.SERVER_CERTIFICATE)),
        *("--ssl-keyfile", str(node / LOCAL / pki.SERVER_KEY)),
        *("--ssl-ca-certfile", str(node / LOCAL / pki.CA_CERTIFICATE)),
        *("--node-config", f"{SITE_KEY}={json.dumps(str(site.folder.resolve()))}"),
    ]


def main() -> None:
    """Take part until stopped."""
    parser = argparse.ArgumentParser(description="A site's SuperNode.")
    parser.add_argument("folder", type=Path, help="the folder with the site.toml")
    parser.add_argument("--port", required=True, type=int, help="of its own interface, on this machine only")
    given = parser.parse_args()
    speak()
    site = Membership(given.folder.resolve())
    tell(site, "signing in", None)
    wait_until_let_in(site)
    install(site)
    sys.argv = ["flower-supernode", *flags(site, port=given.port)]
    flower_supernode()


if __name__ == "__main__":
    main()
