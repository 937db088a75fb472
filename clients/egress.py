"""A second look at what leaves a site, in another process than the one that answered.

The door (foedus.door) decides inside the ClientApp what leaves. The SuperNode, which alone holds
the site's connection, looks at every reply again before it sends it: only records the protocol
knows, only arrays of finite numbers, unmasked ones only where the site's policy has a door for
them, no more bytes than the policy allows, and no text of an error that Flower made by itself.
What does not pass stays here; a refusal without data goes in its place.
"""

from collections.abc import Iterator
from copy import copy

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Error, Message
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode

from foedus import __version__, records
from foedus.door import SITE_REFUSED
from foedus.site import PolicySection

WORDS = frozenset(
    {
        *(records.SITE, records.VERSION, records.BACKBONE, records.ROSTER),
        *(records.FIGURES, records.COMMITMENT),
    }
)
"""Keys of a reply's configuration record."""
LONGEST_WORD = 10_000_000
LONGEST_NAME = 200
"""Of a word that names something: the site, its version, its backbone's digest."""
NAMING = frozenset({records.SITE, records.VERSION, records.BACKBONE})
LONGEST_REASON = 1_000
UNMASKED = frozenset({"open", "local-dp"})
"""Doors through which a contribution leaves without masks."""
_OWN_ERRORS = {
    int(ErrorCode.LOAD_CLIENT_APP_EXCEPTION): (
        f"this site runs foedus {__version__} and nothing else; install the same version on both sides"
    ),
    int(ErrorCode.CLIENT_APP_CRASHED): (
        "the site's process ended before it had answered: its run was stopped, or it was killed, perhaps for want "
        "of memory"
    ),
}
_UNEXPECTED = "the site met an unexpected error; its own log holds the details"


def inspected(message: Message, policy: PolicySection) -> tuple[Message, str | None]:
    """What may be sent, and why it is not what the ClientApp made (None if it is).

    Args:
        message: A reply with its content.
        policy: The site's own.
    """
    if message.has_error():
        reason = message.error.reason or ""
        if message.error.code == SITE_REFUSED and len(reason) <= LONGEST_REASON and reason.isprintable():
            return message, None
        fixed = _OWN_ERRORS.get(message.error.code, _UNEXPECTED)
        return refusal(
            message, fixed
        ), f"{fixed} (Flower's error {message.error.code}, whose text stays here)"
    problem = next(_problems(message, policy), None)
    if problem is None:
        return message, None
    return refusal(message, f"the site's egress check refused the answer: {problem}"), problem


def _problems(message: Message, policy: PolicySection) -> Iterator[str]:
    content = message.content
    size, most = records.size_bytes(content), policy.max_answer_mb * 1_000_000
    if size > most:
        yield f"it holds {size / 1e6:.1f} MB, the site's policy allows {policy.max_answer_mb} (max_answer_mb)"
    for name, record in content.items():
        if isinstance(record, ArrayRecord | ConfigRecord) and name in (records.ARRAYS, records.LANES):
            yield from _array_problems(name, record, policy)
        elif isinstance(record, ConfigRecord) and name in (records.CONFIG, records.SECURE):
            yield from _word_problems(name, record, policy)
        else:
            yield "it holds a record that the protocol does not know"


def _array_problems(name: str, record: records.Packed, policy: PolicySection) -> Iterator[str]:
    if records.PACKED not in record:
        yield "something beside the arrays in their record"
        return
    try:
        arrays = records.from_record(record)
    except ValueError:
        yield "arrays that cannot be read"
        return
    if records.to_record(arrays) != record:
        yield "something beside the arrays in their record"
    if name == records.LANES and set(arrays) - {records.NARROW, records.WIDE}:
        yield "arrays beside the masked ones"
    if name == records.ARRAYS and not (policy.release_site_metrics or UNMASKED & set(policy.doors)):
        yield "a contribution without masks, and the site's policy has no door for one"
    for array in arrays.values():
        if array.dtype.kind not in "fiu":
            yield f"an array of {array.dtype}, not of numbers"
        elif not np.isfinite(array).all():
            yield "numbers that are not finite"
        elif name == records.LANES and array.dtype.kind != "u":
            yield "masked arrays that are not of unsigned integers"


def _word_problems(name: str, record: ConfigRecord, policy: PolicySection) -> Iterator[str]:
    known = {records.TEXT} if name == records.SECURE else WORDS | {records.TEXT}
    if set(record) - known:
        yield "words that the protocol does not know"
    if records.FIGURES in record and not policy.release_site_metrics:
        yield "the site's own figures, and its policy keeps them (release_site_metrics = false)"
    if not all(isinstance(word, str) and len(word) <= _longest(key) for key, word in record.items()):
        yield "words of an unexpected kind or length"


def _longest(key: str) -> int:
    return LONGEST_NAME if key in NAMING else LONGEST_WORD


def refusal(message: Message, reason: str) -> Message:
    """A refusal in the place of an answer; `reason` holds no data."""
    return make_message(metadata=copy(message.metadata), error=Error(code=SITE_REFUSED, reason=reason))
