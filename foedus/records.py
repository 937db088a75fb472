"""Wire keys, and plain arrays to Flower's records and back, without pickle."""

import hashlib
import json

import numpy as np
import safetensors.numpy
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from foedus.statistic import Arrays

ARRAYS = "arrays"
"""The head (training) or the sums (statistics)."""
CONFIG = "config"
METRICS = "metrics"
PARAMETERS = "parameters"
"""Array parameters of a statistic."""
STANDARDISER = "standardiser"
TUNED = "tuned"
"""The backbone's tuned tensors, beside a question about features."""

STUDY = "study"
STATISTIC = "statistic"
SETTINGS = "settings"
SPLIT = "split"
RUN = "run"
SERVER_ROUND = "server-round"
PROXIMAL_MU = "proximal-mu"
N_TRAIN = "n-train"
"""Training examples of all sites together."""
N_SITES = "n-sites"
"""Sites asked in a round."""
BALANCE = "balance"
"""What each group's examples count in training, where the study balances groups."""
NUM_EXAMPLES = "num-examples"
TRAIN_LOSS = "train-loss"
SITE = "site"
VERSION = "version"
BACKBONE = "backbone"
FIGURES = "figures"
COMMITMENT = "commitment"
"""Beside a site's counts for the audit: what an auditor on site can compare them with."""

QUERY_STATISTIC = "query.statistic"
QUERY_ENLIST = "query.enlist"
QUERY_REPORT = "query.report"
QUERY_TRAFFIC = "query.traffic"
QUERY_SECURE = "query.secure"
"""A leg of the secure sum that holds no contribution: keys, shares, consent or unmask."""

SECURE = "secure"
"""Record beside a request or a contribution: its leg of the secure sum."""
LEG, TEXT = "leg", "text"
ROSTER = "roster"
LANES, NARROW, WIDE = "lanes", "narrow", "wide"


PACKED = "packed"
"""The one entry of a record of arrays that travels: bytes in the format of safetensors, which knows no pickle."""
SMALL = 1_000_000
"""Most bytes of arrays that travel as one object. Flower cuts an array into parts, and asks for each part, for
each array and for their record by itself, four times on the way there and back."""
Packed = ArrayRecord | ConfigRecord
Record = Packed | MetricRecord


def to_record(arrays: Arrays) -> Packed:
    """Arrays as they travel: packed, and in parts where they are large."""
    content = safetensors.numpy.save(
        {
            f"{place:05d}/{name}": np.ascontiguousarray(array)
            for place, (name, array) in enumerate(arrays.items())
        }
    )
    if len(content) <= SMALL:
        return ConfigRecord({PACKED: content})
    return ArrayRecord({PACKED: Array(dtype="uint8", shape=(len(content),), stype=PACKED, data=content)})


def to_named_record(arrays: Arrays) -> ArrayRecord:
    """Arrays by name, as Flower's strategies read them."""
    return ArrayRecord({name: Array(value) for name, value in arrays.items()})


def from_record(record: Record) -> Arrays:
    """The arrays of any of these records, in the order they were given; nothing is unpickled.

    Raises:
        ValueError: If they cannot be decoded, or lie beside something else.
    """
    if isinstance(record, ArrayRecord) and PACKED not in record:
        return {name: array.numpy() for name, array in record.items()}
    if len(record) > 1:
        raise ValueError("a packed record holds something beside its arrays")
    try:
        found = safetensors.numpy.load(packed(record))
    except (
        safetensors.SafetensorError,
        LookupError,
        TypeError,
        OverflowError,
    ) as error:  # or a dtype numpy lacks
        raise ValueError("a packed record cannot be decoded") from error
    named = {name.partition("/")[2]: found[name] for name in sorted(found)}
    if len(named) < len(found):
        raise ValueError("a packed record holds two arrays of one name")
    return named


def packed(record: Record) -> bytes:
    """The bytes of a packed record.

    Raises:
        TypeError: If it holds something else there.
        LookupError: If it holds nothing there.
    """
    found = record[PACKED]
    content = found.data if isinstance(found, Array) else found
    if not isinstance(content, bytes):
        raise TypeError("a packed record holds no bytes")
    return content


def digest(message: Message) -> bytes:
    """32 bytes that stand for everything a request asks, but not for its leg of the secure sum.

    Every part goes in with its length and every word with its kind: no two requests have the same.
    """
    found = hashlib.sha256()

    def add(*parts: bytes | str) -> None:
        for part in parts:
            content = part.encode() if isinstance(part, str) else part
            found.update(len(content).to_bytes(8, "big"))
            found.update(content)

    add(message.metadata.message_type)
    for key, record in sorted(message.content.items()):
        if key == SECURE:
            continue
        add(key, type(record).__name__)
        if isinstance(record, ArrayRecord):
            add(str(len(record)))
            for name, array in record.items():
                add(name, array.dtype, array.stype, str(tuple(array.shape)), array.data)
        else:
            add(json.dumps(sorted(record.items()), default=_as_no_word))
    return found.digest()


def _as_no_word(value: bytes) -> dict[str, str]:
    """Bytes in a way that no word, number or list is written."""
    return {"bytes": value.hex()}


def size_bytes(content: RecordDict) -> int:
    """Payload of a message: the bytes of its arrays and words, without framing."""
    arrays = sum(len(array.data) for record in content.array_records.values() for array in record.values())
    words = sum(_length(v) for record in content.config_records.values() for v in record.values())
    numbers = sum(8 for record in content.metric_records.values() for _ in record.values())
    return arrays + words + numbers


def _length(word: object) -> int:
    return len(word) if isinstance(word, bytes) else len(str(word))
