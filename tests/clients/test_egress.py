"""The second look at what leaves a site: what the protocol does not know, or the policy forbids, stays."""

from collections.abc import Callable

import numpy as np
import pytest
import safetensors.numpy
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from clients.egress import inspected
from foedus import records
from foedus.door import SITE_REFUSED
from foedus.site import PolicySection

OPEN = PolicySection(doors=["open"])
MASKED = PolicySection(doors=["secure+ddp"])
Record = ArrayRecord | ConfigRecord | MetricRecord


def question() -> Message:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    return Message(RecordDict({}), dst_node_id=7, message_type="train")


def reply(**content: Record) -> Message:
    asked = question()
    return Message(RecordDict(dict(content)), reply_to=asked)


def array(*numbers: float, dtype: type = np.float32) -> records.Packed:
    return records.to_record({"weight": np.asarray(numbers, dtype)})


def lanes(**arrays: np.ndarray) -> records.Packed:
    return records.to_record(arrays)


def packed(content: bytes, dtype: str = "uint8", **more: np.ndarray) -> ArrayRecord:
    whole = Array(dtype=dtype, shape=(len(content),), stype=records.PACKED, data=content)
    return ArrayRecord({records.PACKED: whole, **{name: Array(found) for name, found in more.items()}})


def small(**more: str) -> ConfigRecord:
    return ConfigRecord({**array(1.0), **more})


def bfloat16() -> ArrayRecord:
    header = b'{"00000/x":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
    return packed(len(header).to_bytes(8, "little") + header + bytes(2))


def hiding() -> ArrayRecord:
    numbers = {"00000/weight": np.ones(2, np.float32)}
    return packed(safetensors.numpy.save(numbers, metadata={"name": "Jane Doe"}))


def test_what_the_door_makes_leaves_as_it_is() -> None:
    masked = lanes(narrow=np.zeros(3, "<u4"), wide=np.zeros(1, "<u8"))
    words = ConfigRecord({records.SITE: "north", records.VERSION: "1", records.BACKBONE: "d"})
    for message, policy in (
        (reply(arrays=array(1.0, -2.0)), OPEN),
        (reply(arrays=array(*range(400_000))), OPEN),
        (reply(secure=ConfigRecord({records.TEXT: "keys"}), lanes=masked), MASKED),
        (reply(config=words), MASKED),
    ):
        assert inspected(message, policy) == (message, None)


@pytest.mark.parametrize(
    ("make", "policy", "reason"),
    [
        (lambda: reply(arrays=array(1.0)), MASKED, "a contribution without masks"),
        (lambda: reply(patients=array(1.0)), OPEN, "a record that the protocol does not know"),
        (
            lambda: reply(metrics=MetricRecord({"age": 71.0})),
            OPEN,
            "a record that the protocol does not know",
        ),
        (lambda: reply(config=ConfigRecord({"notes": "Jane Doe"})), OPEN, "words that the protocol does not"),
        (lambda: reply(config=ConfigRecord({records.FIGURES: "{}"})), OPEN, "the site's own figures"),
        (lambda: reply(config=ConfigRecord({records.SITE: 3})), OPEN, "words of an unexpected kind"),
        (lambda: reply(config=ConfigRecord({records.SITE: "n" * 201})), OPEN, "words of an unexpected kind"),
        (lambda: reply(config=ConfigRecord({records.TEXT: "n" * 10_000_001})), MASKED, "an unexpected kind"),
        (lambda: reply(secure=ConfigRecord({"more": "x"})), MASKED, "words that the protocol does not"),
        (lambda: reply(arrays=bfloat16()), OPEN, "arrays that cannot be read"),
        (
            lambda: reply(arrays=ArrayRecord({"x": Array("float64", (1,), "pickle", b"Jane Doe")})),
            OPEN,
            "something beside the arrays",
        ),
        (lambda: reply(arrays=array(1.0, np.nan)), OPEN, "numbers that are not finite"),
        (lambda: reply(arrays=packed(b"Jane Doe")), OPEN, "arrays that cannot be read"),
        (lambda: reply(arrays=packed(b"", rows=np.ones(3))), OPEN, "arrays that cannot be read"),
        (lambda: reply(arrays=hiding()), OPEN, "something beside the arrays in their record"),
        (lambda: reply(arrays=small(name="Jane Doe")), OPEN, "arrays that cannot be read"),
        (lambda: reply(arrays=ConfigRecord({"name": "Jane Doe"})), OPEN, "something beside the arrays"),
        (
            lambda: reply(arrays=packed(records.packed(array(*range(400_000))), dtype="Jane Doe")),
            OPEN,
            "something beside the arrays in their record",
        ),
        (
            lambda: reply(arrays=records.to_named_record({"weight": np.ones(2)})),
            OPEN,
            "something beside the arrays in their record",
        ),
        (
            lambda: reply(lanes=lanes(narrow=np.zeros(2, "<u4"), extra=np.ones(4))),
            MASKED,
            "arrays beside the masked ones",
        ),
        (lambda: reply(lanes=lanes(narrow=np.zeros(2, np.float32))), MASKED, "not of unsigned integers"),
        (
            lambda: reply(arrays=array(*range(400_000))),
            OPEN.model_copy(update={"max_answer_mb": 1}),
            "1.6 MB",
        ),
    ],
)
def test_everything_else_stays_and_a_refusal_without_data_goes(
    make: Callable[[], Message], policy: PolicySection, reason: str
) -> None:
    message = make()
    sent, why = inspected(message, policy)
    assert why is not None
    assert reason in why
    assert sent.has_error()
    assert sent.error.code == SITE_REFUSED
    assert reason in sent.error.reason
    assert sent.metadata.reply_to_message_id == message.metadata.reply_to_message_id
    assert "Jane" not in sent.error.reason


def test_the_text_of_an_error_that_the_door_did_not_write_stays() -> None:
    asked = question()
    crashed = Message(Error(code=2, reason="<class 'KeyError'>:<'Jane Doe'>"), reply_to=asked)
    sent, why = inspected(crashed, OPEN)
    assert why == f"{sent.error.reason} (Flower's error 2, whose text stays here)"
    assert sent.error.reason == "the site met an unexpected error; its own log holds the details"
    other, _ = inspected(Message(Error(code=1, reason="x"), reply_to=asked), OPEN)
    assert "this site runs foedus" in other.error.reason
    refused = Message(Error(code=SITE_REFUSED, reason="the site's policy says no"), reply_to=asked)
    assert inspected(refused, OPEN) == (refused, None)
