"""How the coordinator learns a total: from plain contributions, added as they arrive and dropped."""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from flwr.app import Message

from foedus import records
from foedus.errors import DoorError
from foedus.statistic import Arrays, Quantity
from foedus.sums import ExactSum
from server.exchange import Cohort, Gathered

Listener = Callable[[str, Message], None]
"""Told of every accepted reply, for the words it carries beside its contribution."""


class Sums(Protocol):
    """A way from messages to a total."""

    def total(
        self,
        cohort: Cohort,
        messages: Iterable[Message],
        quantities: Mapping[str, Quantity],
        *,
        what: str,
        listen: Listener | None = None,
    ) -> tuple[Arrays, Gathered]:
        """The sum of what every site answers, and how the exchange went.

        Raises:
            RoundError: If fewer than the cohort's quorum were accepted.
        """
        ...


class PlainSums:
    """Contributions travel as they are."""

    def total(
        self,
        cohort: Cohort,
        messages: Iterable[Message],
        quantities: Mapping[str, Quantity],
        *,
        what: str,
        listen: Listener | None = None,
    ) -> tuple[Arrays, Gathered]:
        """See `Sums`."""
        running = ExactSum(quantities)

        def accept(name: str, reply: Message) -> None:
            running.add_steps(decode(reply, records.ARRAYS))
            if listen is not None:
                listen(name, reply)

        gathered = cohort.gather(messages, accept, what=what)
        return running.total(), gathered


def decode(reply: Message, key: str) -> Arrays:
    """The arrays of a reply.

    Raises:
        DoorError: If they are missing or cannot be decoded.
    """
    try:
        return records.from_record(reply.content[key])
    except KeyError:
        raise DoorError(f"the reply holds no record '{key}'") from None
    except (ValueError, TypeError, EOFError) as error:
        raise DoorError("the reply's arrays cannot be decoded") from error
