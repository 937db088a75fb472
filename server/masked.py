"""Totals under masks: the legs of the secure sum (foedus.secure), carried by Flower's messages."""

import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from flwr.app import ConfigRecord, Message, RecordDict

from foedus import records
from foedus.errors import DoorError
from foedus.secure.collection import MaskedSum
from foedus.secure.coordinator import SumSession
from foedus.secure.lanes import Lanes
from foedus.secure.roster import Roster
from foedus.statistic import Arrays, Quantity
from server.exchange import Accept, Cohort, Gathered, QuorumError
from server.summing import Listener, decode

log = logging.getLogger(__name__)

ACCUSES = re.compile(r"the shares of site '([^']{1,64})' ")
"""How a site begins to say that it cannot open another's shares (`foedus.secure.packages`)."""
BATCH = 16
"""Sums set up by one exchange of keys and shares: two legs saved for each but the first."""


@dataclass
class _Session:
    """A session in progress, and why sites are not in it."""

    sums: SumSession
    absent: dict[str, str]
    next: int = 0


class MaskedSums:
    """The coordinator learns each total and no site's part of it.

    A site that is lost in a sum counts as dropped there and may answer the next; one that
    missed the exchange of keys waits for the next session. Where too few are left, but all there to
    say so (one was killed after it had used its secrets), the sum is asked for once more in a new
    session: nothing of it was unmasked. A site whose shares the others cannot open, more of them than
    may collude, is left out from then on: it would stop every session.

    Args:
        roster: What every site has pinned.
        config: What every message carries.
    """

    def __init__(self, roster: Roster, config: Callable[[], ConfigRecord]) -> None:
        self.roster = roster
        self._config = config
        self._session: _Session | None = None
        self._left_out: dict[str, str] = {}

    def total(
        self,
        cohort: Cohort,
        messages: Iterable[Message],
        quantities: Mapping[str, Quantity],
        *,
        what: str,
        listen: Listener | None = None,
    ) -> tuple[Arrays, Gathered]:
        """See `Sums`.

        Raises:
            RoundError: If fewer than the cohort's quorum, or than the roster's threshold, are left in any leg.
            SecureSumError: If a site's secrets do not fit what it advertised.
        """
        cohort = replace(cohort, quorum=max(cohort.quorum, self.roster.threshold))
        requests = {cohort.names[message.metadata.dst_node_id]: message for message in messages}
        try:
            session, total, gathered = self._attempt(cohort, requests, quantities, what, listen)
        except QuorumError as error:
            if error.late:
                raise
            self._left_out |= accused(error.rejected, self.roster)
            log.info("once more, with fresh secrets: %s", error)
            session, total, gathered = self._attempt(cohort, requests, quantities, what, listen)
        session.next += 1
        self._session = session if session.next < BATCH else None
        return total, gathered

    def _attempt(
        self,
        cohort: Cohort,
        requests: dict[str, Message],
        quantities: Mapping[str, Quantity],
        what: str,
        listen: Listener | None,
    ) -> tuple[_Session, Arrays, Gathered]:
        try:
            session = self._session or self._begin(cohort, what)
            return session, *self._sum(cohort, session, requests, quantities, what, listen)
        except BaseException:
            self._session = None  # its secrets may be half used; the sites forget them with the next
            raise

    def _begin(self, cohort: Cohort, what: str) -> _Session:
        """Legs 1 and 2."""
        sums = SumSession(self.roster, session=time.time_ns() // 1000, sums=BATCH)
        everyone = [name for name in cohort.names.values() if name not in self._left_out]
        if len(everyone) < self.roster.threshold:
            self._left_out, everyone = {}, list(cohort.names.values())

        def take_keys(name: str, reply: Message) -> None:
            found = sums.add_keys(_text(reply))
            if found != name:
                raise DoorError(f"the keys of '{found}' came from '{name}'")

        keys = self._leg(cohort, "keys", dict.fromkeys(everyone, sums.keys_request()), take_keys, what)
        text = sums.shares_request()

        def take_shares(name: str, reply: Message) -> None:
            sums.add_shares(_text(reply), site=name)

        shares = self._leg(cohort, "shares", dict.fromkeys(keys.answered, text), take_shares, what)
        log.info("session %s: %s sites share secrets for %s sums", sums.session, len(sums.sharers), BATCH)
        return _Session(sums, {**self._left_out, **keys.rejected, **shares.rejected})

    def _sum(
        self,
        cohort: Cohort,
        session: _Session,
        requests: dict[str, Message],
        quantities: Mapping[str, Quantity],
        what: str,
        listen: Listener | None,
    ) -> tuple[Arrays, Gathered]:
        """Legs 3 to 5."""
        request = records.digest(next(iter(requests.values())))
        masked = session.sums.begin(session.next, quantities, request=request)
        asked = [name for name in session.sums.sharers if name in requests]
        mask = cohort.gather(
            [_with_leg(requests[name], masked.mask_request(name)) for name in asked],
            _adding(masked, listen),
            what=what,
        )

        def take_consent(name: str, reply: Message) -> None:
            masked.add_consent(_text(reply), site=name)

        def take_unmask(name: str, reply: Message) -> None:
            masked.add_unmask(_text(reply), site=name)

        text = masked.consent_request()
        consent = self._leg(cohort, "consent", dict.fromkeys(masked.survivors, text), take_consent, what)
        text = masked.unmask_request()
        unmask = self._leg(cohort, "unmask", dict.fromkeys(masked.consenters, text), take_unmask, what)
        absent = {name: reason for name, reason in session.absent.items() if name in requests}
        total = masked.total()
        if masked.unsound is not None:
            log.warning("%s: site '%s' gave wrong shares to unmask; others' served", what, masked.unsound)
        return total, Gathered(
            asked=sorted(requests),
            answered=list(masked.survivors),
            rejected={**absent, **mask.rejected},
            bytes_up=mask.bytes_up + consent.bytes_up + unmask.bytes_up,
            bytes_down=mask.bytes_down + consent.bytes_down + unmask.bytes_down,
            seconds=mask.seconds + consent.seconds + unmask.seconds,
        )

    def _leg(self, cohort: Cohort, leg: str, texts: Mapping[str, str], accept: Accept, what: str) -> Gathered:
        """One leg without a contribution, to the sites in `texts`."""
        messages = []
        for node, name in cohort.names.items():
            if name in texts:
                content = RecordDict({records.CONFIG: self._config()})
                content[records.SECURE] = ConfigRecord({records.LEG: leg, records.TEXT: texts[name]})
                messages.append(Message(content, dst_node_id=node, message_type=records.QUERY_SECURE))
        return cohort.gather(messages, accept, what=f"{what} (secure sum: {leg})")


def accused(rejected: Mapping[str, str], roster: Roster) -> dict[str, str]:
    """Sites whose shares more others could not open than may collude against them, and what is said of it."""
    most = min(2 * roster.threshold - len(roster) - 1, roster.threshold - 2)
    found = Counter(match[1] for reason in rejected.values() if (match := ACCUSES.match(reason)))
    return {
        name: f"{count} other sites could not open its shares; it is left out of the run's secure sums"
        for name, count in found.items()
        if count > most
    }


def _adding(masked: MaskedSum, listen: Listener | None) -> Accept:
    def accept(name: str, reply: Message) -> None:
        lanes = decode(reply, records.LANES)
        if set(lanes) != {records.NARROW, records.WIDE}:
            raise DoorError("a masked contribution holds other arrays than its two lanes")
        masked.add(_text(reply), Lanes(lanes[records.NARROW], lanes[records.WIDE]), site=name)  # type: ignore[arg-type]
        if listen is not None:
            listen(name, reply)

    return accept


def _with_leg(request: Message, text: str) -> Message:
    """`request` as part of a secure sum."""
    content = RecordDict(dict(request.content.items()))
    content[records.SECURE] = ConfigRecord({records.LEG: "mask", records.TEXT: text})
    return Message(
        content, dst_node_id=request.metadata.dst_node_id, message_type=request.metadata.message_type
    )


def _text(reply: Message) -> str:
    """The leg in a reply: beside a masked contribution, or alone."""
    for key in (records.SECURE, records.CONFIG):
        record = reply.content.config_records.get(key, ConfigRecord())
        if records.TEXT in record:
            return str(record[records.TEXT])
    raise DoorError("the reply holds no leg of the secure sum")
