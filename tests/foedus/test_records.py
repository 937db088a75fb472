"""Arrays as they travel."""

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from foedus import records

LARGE = {"weight": np.arange(records.SMALL // 4, dtype="<i4")}
DTYPES = st.sampled_from(["<f4", "<f8", "<i4", "<i8", "<u4", "<u8"])


@given(st.dictionaries(st.text(max_size=9), hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, min_side=0))))
def test_arrays_arrive_as_they_were_sent_and_in_their_order(arrays: dict[str, np.ndarray]) -> None:
    found = records.from_record(records.to_record(arrays))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_few_numbers_travel_as_one_object_and_many_in_parts() -> None:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    few = records.to_record({"weight": np.ones(1000), "bias": np.ones(3)})
    many = records.to_record(LARGE)
    assert isinstance(few, ConfigRecord)
    assert isinstance(many, ArrayRecord)
    np.testing.assert_array_equal(records.from_record(many)["weight"], LARGE["weight"])
    sent = [Message(RecordDict({"arrays": record}), 7, "train") for record in (few, many)]
    assert [len(get_all_nested_objects(message)) for message in sent] == [3, 5]


def test_the_bytes_of_a_message_are_those_of_its_arrays_and_words() -> None:
    for arrays in ({"weight": np.ones(3)}, LARGE):
        record = records.to_record(arrays)
        content = RecordDict({"arrays": record, "config": ConfigRecord({"run": "abc", "n": 12})})
        assert records.size_bytes(content) == len(records.packed(record)) + 5


@pytest.mark.parametrize(
    "record",
    [
        ConfigRecord({}),
        ConfigRecord({"packed": "words"}),
        ConfigRecord({"packed": 3}),
        ConfigRecord({"packed": [b"a"]}),
        ConfigRecord({"packed": b"no tensors"}),
        ConfigRecord({**records.to_record({"weight": np.ones(3)}), "name": "Jane Doe"}),
        MetricRecord({"packed": 1.0}),
    ],
)
def test_what_holds_no_arrays_is_refused(record: ConfigRecord) -> None:
    with pytest.raises((ValueError, TypeError)):
        records.from_record(record)
