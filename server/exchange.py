"""One exchange with the cohort: push, pull one reply at a time, resend, and stop at the deadline.

Flower's own loop waits for ever, keeps every reply in memory and lets anything in. Here every
reply is checked as it arrives, added to a running sum and dropped; a site that fails is named
with its reason and the exchange goes on without it, down to the quorum.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from foedus import records
from foedus.errors import DoorError, RoundError

log = logging.getLogger(__name__)

SOONEST_S, LATEST_S, GROWTH = 0.1, 1.0, 1.3
"""Between two looks for replies: from the first, growing to the last while none comes."""
LOST_S = 2.0
"""Between two looks for sites that were lost and came back."""
GONE = frozenset({ErrorCode.NODE_UNAVAILABLE, ErrorCode.MESSAGE_UNAVAILABLE})
"""What Flower says of a site that went away, before its answer or in the middle of it."""
LATE = "no answer within"
LONGEST_REASON = 1_000
"""Characters of a reason that are kept."""
Accept = Callable[[str, Message], None]
"""Takes a site's name and its reply; raises DoorError to reject it."""


class QuorumError(RoundError):
    """Fewer sites answered than are needed.

    Attributes:
        rejected: Site name to why its answer does not count.
        late: Whether a site did not answer in time; otherwise all that are missing said why.
    """

    def __init__(self, message: str, *, rejected: Mapping[str, str]) -> None:
        super().__init__(message)
        self.rejected = rejected
        self.late = any(reason.startswith(LATE) for reason in rejected.values())


@dataclass
class Gathered:
    """How an exchange went.

    Attributes:
        asked: Names of the sites asked.
        answered: Names of the sites whose answer was accepted.
        rejected: Site name to why its answer does not count.
        bytes_up: Payload from the sites.
        bytes_down: Payload to the sites.
        seconds: Wall time.
    """

    asked: list[str]
    answered: list[str] = field(default_factory=list)
    rejected: dict[str, str] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0


@dataclass
class Cohort:
    """The sites that take part.

    Attributes:
        grid: Flower's grid.
        names: Node id to site name.
        quorum: Fewest accepted answers that make an exchange.
        timeout_s: Deadline of one exchange, seconds.
    """

    grid: Grid
    names: Mapping[int, str]
    quorum: int
    timeout_s: float

    def gather(self, messages: Iterable[Message], accept: Accept, *, what: str) -> Gathered:
        """Send `messages` and hand every reply to `accept`, until all answered or time is up.

        Args:
            messages: One a node, at most.
            accept: Checks and adds one reply.
            what: Names the exchange in logs and errors, e.g. "round 3".

        Raises:
            QuorumError: If fewer than the quorum were accepted; lists each site's reason.
        """
        begun = time.monotonic()
        outbox = {message.metadata.dst_node_id: message for message in messages}
        gathered = Gathered(sorted(self.names[node] for node in outbox))
        flight = _Flight(self.grid, outbox)
        pause = SOONEST_S
        while flight.waiting and time.monotonic() - begun < self.timeout_s:
            if self._pull(flight, accept, gathered, what):
                pause = SOONEST_S
                continue
            flight.resend_lost()
            time.sleep(pause)
            pause = min(pause * GROWTH, LATEST_S)
        for node in flight.waiting:
            gathered.rejected[self.names[node]] = f"{LATE} {self.timeout_s:g} s"
        gathered.answered.sort()
        gathered.bytes_down = flight.bytes_down
        gathered.seconds = time.monotonic() - begun
        self._require_quorum(gathered, what)
        return gathered

    def _pull(self, flight: "_Flight", accept: Accept, gathered: Gathered, what: str) -> bool:
        progressed = False
        for reply in self.grid.pull_messages(list(flight.pending)):
            progressed = True
            if (node := flight.pending.pop(reply.metadata.reply_to_message_id, None)) is None:
                continue  # one answer a question
            if reply.has_error() and reply.error.code in GONE:
                flight.lost.add(node)
                continue
            self._judge(self.names[node], reply, accept, gathered, what)
        return progressed or not flight.waiting

    @staticmethod
    def _judge(name: str, reply: Message, accept: Accept, gathered: Gathered, what: str) -> None:
        if not reply.has_error():
            gathered.bytes_up += records.size_bytes(reply.content)
        reason = _objection(name, reply, accept)
        if reason is None:
            gathered.answered.append(name)
            return
        gathered.rejected[name] = printable(reason)
        log.warning("%s: site '%s' does not count: %s", what, name, gathered.rejected[name])

    def _require_quorum(self, gathered: Gathered, what: str) -> None:
        if len(gathered.answered) >= self.quorum:
            return
        reasons = "; ".join(f"{name}: {reason}" for name, reason in sorted(gathered.rejected.items()))
        raise QuorumError(
            f"{what}: {len(gathered.answered)} of {len(gathered.asked)} sites answered, min_sites is {self.quorum}. "
            f"{reasons or 'No site was refused.'} Mend the sites or lower min_sites, then foedus resume.",
            rejected=gathered.rejected,
        )


def _objection(name: str, reply: Message, accept: Accept) -> str | None:
    """Why a reply does not count; None if it was accepted.

    A site can send anything. Whatever of it breaks the reading of it costs that site and nobody else.
    """
    if reply.has_error():
        return reply.error.reason or "no reason given"
    try:
        accept(name, reply)
    except DoorError as error:
        return str(error)
    except Exception as error:
        log.warning("the answer of site '%s' broke what reads it: %s", name, printable(repr(error)))
        return f"its answer cannot be read ({type(error).__name__})"
    return None


def printable(reason: str) -> str:
    """One line of printable text: a site's words are shown on terminals, in logs and in reports."""
    kept = "".join(c if c.isprintable() else " " for c in reason[:LONGEST_REASON])
    return kept if len(reason) <= LONGEST_REASON else f"{kept}…"


class _Flight:
    """Messages on their way: which wait for a reply, and which have to be sent again."""

    def __init__(self, grid: Grid, outbox: dict[int, Message]) -> None:
        self.grid = grid
        self.outbox = outbox
        self.pending: dict[str, int] = {}
        self.lost: set[int] = set()
        self.sent_at: dict[int, float] = {}
        self.bytes_down = 0
        self._looked = time.monotonic()
        self._send(list(outbox))

    @property
    def waiting(self) -> set[int]:
        """Nodes that have not answered yet."""
        return set(self.pending.values()) | self.lost

    def resend_lost(self) -> None:
        """Send again to nodes that came back: Flower never redelivers a message by itself."""
        if time.monotonic() < self._looked + LOST_S:
            return
        self._looked = time.monotonic()
        online = {node.node_id: node.last_activated_at for node in self.grid.get_nodes()}
        restarted = {n for n in self.pending.values() if self._restarted(n, online.get(n))}
        self.pending = {i: n for i, n in self.pending.items() if n not in restarted}
        back = sorted((self.lost & online.keys()) | restarted)
        self.lost -= set(back)
        self._send(back)

    def _restarted(self, node: int, activated: str | None) -> bool:
        return bool(activated) and datetime.fromisoformat(str(activated)).timestamp() > self.sent_at[node]

    def _send(self, nodes: list[int]) -> None:
        for node in nodes:
            if node in self.sent_at:  # a message keeps its id, and what had that id was delivered
                self.outbox[node] = _again(self.outbox[node])
            identifiers = list(self.grid.push_messages([self.outbox[node]]))
            self.pending.update({identifier: node for identifier in identifiers if identifier})
            self.sent_at[node] = time.time()
            self.bytes_down += records.size_bytes(self.outbox[node].content)


def _again(message: Message) -> Message:
    meta = message.metadata
    return Message(message.content, meta.dst_node_id, meta.message_type, group_id=meta.group_id)
