"""What a site may send instead of an answer: it costs that site, is named in plain words, and nothing else stops."""

import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from foedus import records
from foedus.errors import DoorError
from foedus.metrics import SCALARS
from foedus.statistic import Quantity
from foedus.sums import to_steps
from server.exchange import LONGEST_REASON, Cohort, printable
from server.figures import released_figures
from server.summing import PlainSums

NAMES = {1: "east", 2: "north", 3: "south"}
DECLARED = {"x": Quantity((2,), resolution=0.5), "none": Quantity((0,))}
GOOD = to_steps({"x": np.array([1.5, 2.0]), "none": np.zeros(0)}, DECLARED)
ESCAPE = "\x1b[2J\x07<script>alert(1)</script>\r\nround 1: all is well ‮"


class Answering:
    """A grid on which each node answers as it is told."""

    def __init__(self, answers: dict[int, Callable[[Message], list[Message]]]) -> None:
        self._answers = answers
        self._waiting: dict[str, Message] = {}

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        found = {f"m{message.metadata.dst_node_id}": message for message in messages}
        self._waiting |= found
        for name, message in found.items():
            message.metadata.__dict__["_message_id"] = name
        return list(found)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        asked = [self._waiting.pop(name) for name in message_ids if name in self._waiting]
        return [reply for message in asked for reply in self._answers[message.metadata.dst_node_id](message)]

    def get_nodes(self) -> list[Any]:
        return []


def answer(content: RecordDict) -> Callable[[Message], list[Message]]:
    return lambda message: [Message(content, reply_to=message)]


def good() -> RecordDict:
    return RecordDict({records.ARRAYS: records.to_record(dict(GOOD))})


def refusal(reason: str) -> Callable[[Message], list[Message]]:
    return lambda message: [Message(Error(code=100, reason=reason), reply_to=message)]


def twice(message: Message) -> list[Message]:
    return [Message(good(), reply_to=message), Message(good(), reply_to=message)]


def packed(content: bytes, **more: Array) -> RecordDict:
    whole = Array(dtype="uint8", shape=(len(content),), stype=records.PACKED, data=content)
    return RecordDict({records.ARRAYS: ArrayRecord({records.PACKED: whole, **more})})


def tensors(data: bytes = bytes(16), **each: Any) -> RecordDict:
    """A file of safetensors whose header says `each`: name to dtype, shape and offsets."""
    header = json.dumps(
        {
            name: dict(zip(("dtype", "shape", "data_offsets"), said, strict=True))
            for name, said in each.items()
        }
    ).encode()
    return packed(struct.pack("<Q", len(header)) + header + data)


def named(data: bytes, *, stype: str = "numpy.ndarray") -> RecordDict:
    """One array as Flower sends it: the bytes of an .npy file."""
    return RecordDict({records.ARRAYS: ArrayRecord({"x": Array("float64", (2,), stype, data)})})


def npy(header: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode("latin-1") + bytes(16)


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(1 << 20))
    return out.getvalue()


def pickled() -> bytes:
    out = io.BytesIO()
    np.save(out, np.array([print], dtype=object), allow_pickle=True)
    return out.getvalue()


HOSTILE: dict[str, Callable[[], RecordDict]] = {
    "nothing": lambda: RecordDict({}),
    "no arrays": lambda: packed(struct.pack("<Q", 2) + b"{}"),
    "metrics for arrays": lambda: RecordDict({records.ARRAYS: MetricRecord({"x": 1.0})}),
    "words for arrays": lambda: RecordDict({records.ARRAYS: ConfigRecord({"x": "y"})}),
    "a word for bytes": lambda: RecordDict({records.ARRAYS: ConfigRecord({records.PACKED: "y"})}),
    "bytes that say nothing": lambda: RecordDict({records.ARRAYS: ConfigRecord({records.PACKED: b"y" * 99})}),
    "empty": lambda: packed(b""),
    "a header longer than the file": lambda: packed(struct.pack("<Q", 2**62)),
    "a header of brackets": lambda: packed(struct.pack("<Q", 100_000) + b"[" * 100_000),
    "bfloat16": lambda: tensors(bytes(4), **{"00000/x": ("BF16", [2], [0, 4])}),
    "float8": lambda: tensors(bytes(2), **{"00000/x": ("F8_E4M3", [2], [0, 2])}),
    "float4": lambda: tensors(bytes(1), **{"00000/x": ("F4", [2], [0, 1])}),
    "bool": lambda: tensors(bytes(2), **{"00000/x": ("BOOL", [2], [0, 2])}),
    "complex": lambda: tensors(**{"00000/x": ("C64", [2], [0, 16])}),
    "unknown dtype": lambda: tensors(**{"00000/x": ("OBJECT", [2], [0, 16])}),
    "a shape without end": lambda: tensors(**{"00000/x": ("F64", [2**40], [0, 16])}),
    "a shape that overflows": lambda: tensors(**{"00000/x": ("F64", [2**63, 2], [0, 16])}),
    "a negative shape": lambda: tensors(**{"00000/x": ("F64", [-2], [0, 16])}),
    "zero by without end": lambda: tensors(b"", **{"00000/x": ("F64", [0, 2**60], [0, 0])}),
    "one name twice": lambda: tensors(
        bytes(32), **{"00000/x": ("F64", [2], [0, 16]), "00001/x": ("F64", [2], [16, 32])}
    ),
    "a name that writes to terminals": lambda: RecordDict(
        {records.ARRAYS: records.to_record({**GOOD, ESCAPE: GOOD["x"]})}
    ),
    "a name of a megabyte": lambda: RecordDict(
        {records.ARRAYS: records.to_record({**GOOD, "n" * 2**20: GOOD["x"]})}
    ),
    "something beside": lambda: packed(b"", x=Array(np.zeros(2))),
    "not finite": lambda: RecordDict(
        {records.ARRAYS: records.to_record({**GOOD, "x": np.array([np.nan, np.inf])})}
    ),
    "out of range": lambda: RecordDict({records.ARRAYS: records.to_record({**GOOD, "x": GOOD["x"] + 2**40})}),
    "a pickle": lambda: named(pickled()),
    "a zip": lambda: named(zipped()),
    "an empty file": lambda: named(b""),
    "a file of a petabyte": lambda: named(
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (140737488355328,)}")
    ),
    "a file that computes": lambda: named(npy("{'descr': '<f8', 'shape': (9**9**9,)}")),
    "a dtype with fields": lambda: named(
        npy("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (2,)}")
    ),
    "another serialisation": lambda: named(b"x", stype="pickle"),
}


@pytest.fixture(autouse=True)
def task() -> None:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1


def total(
    south: Callable[[Message], list[Message]], listen: Any = None
) -> tuple[dict[str, Any], dict[str, str]]:
    answers = {1: answer(good()), 2: answer(good()), 3: south}
    cohort = Cohort(Answering(answers), NAMES, quorum=2, timeout_s=1)  # type: ignore[arg-type]
    messages = [Message(RecordDict({}), dst_node_id=node, message_type="train") for node in NAMES]
    found, gathered = PlainSums().total(cohort, messages, DECLARED, what="round 1", listen=listen)
    assert sorted([*gathered.answered, *gathered.rejected]) == sorted(NAMES.values())
    return found, gathered.rejected


@pytest.mark.parametrize("kind", HOSTILE)
def test_an_answer_that_cannot_be_counted_costs_its_site_only(kind: str) -> None:
    found, rejected = total(answer(HOSTILE[kind]()))
    assert found["x"].tolist() == [3.0, 4.0]
    assert list(rejected) == ["south"]
    assert rejected["south"].isprintable()
    assert 0 < len(rejected["south"]) <= LONGEST_REASON + 1


@pytest.mark.parametrize("reason", [ESCAPE, "x" * 2**20, "", "\0"])
def test_the_words_of_a_refusal_are_one_printable_line(reason: str) -> None:
    _, rejected = total(refusal(reason))
    assert rejected["south"].isprintable()
    assert 0 < len(rejected["south"]) <= LONGEST_REASON + 1


def test_a_site_that_answers_twice_counts_once() -> None:
    found, rejected = total(twice)
    assert (found["x"].tolist(), rejected) == ([4.5, 6.0], {})


def test_a_reason_that_is_one_line_stays_as_it_is() -> None:
    said = "the site's policy allows doors: open; Höhe ≤ 3 · 統計"
    assert printable(said) == said


def figures(**more: Any) -> str:
    metrics = {"n": 9, **dict.fromkeys(SCALARS, 0.5), "confusion": [[4, 1], [0, 4]], "reliability": None}
    plain = {"site": "south", "n_train": 40, "n_test": 9, "local": metrics, "federated": metrics}
    return json.dumps({**plain, "personal": None, **more})


def test_figures_as_a_site_makes_them_are_taken() -> None:
    assert released_figures(figures(), site="south")["local"]["accuracy"] == 0.5


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "not those that were asked for"),
        (figures(notes=1), "not those that were asked for"),
        (figures(site="north"), "another site's"),
        (figures(site=["south"]), "another site's"),
        (figures(n_test=-1), "no count"),
        (figures(n_test=True), "no count"),
        (figures(n_train=1e9), "no count"),
        (figures(local=[1]), "not the metrics of a model"),
        (figures(local={"n": 3}), "not the metrics of a model"),
        (figures(local={"n": 3, **dict.fromkeys(SCALARS, float("nan"))}), "not the metrics"),
        (figures(local={"n": 3, **dict.fromkeys(SCALARS, ESCAPE)}), "not the metrics"),
        (figures(local={"n": 3, **dict.fromkeys(SCALARS, 1), "note": "\ud800"}), "not the metrics"),
        (figures(local={"n": 3, **dict.fromkeys(SCALARS, 1), ESCAPE: 1}), "not the metrics"),
        (figures(local={"n": 3, **dict.fromkeys(SCALARS, 10**400)}), "not the metrics"),
        (figures().replace("[[4, 1], [0, 4]]", "[" * 400 + "]" * 400), "not the metrics"),
    ],
)
def test_figures_that_could_not_be_shown_are_refused(text: str, reason: str) -> None:
    with pytest.raises(DoorError, match=reason):
        released_figures(text, site="south")
