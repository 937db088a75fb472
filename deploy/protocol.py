"""Messages of the Open Inference Protocol (open_inference.proto), in a descriptor pool of their own.

The pool is not the process's: a client library in the same process may register the same names.
"""

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "inference.GRPCInferenceService"
POOL = descriptor_pool.DescriptorPool()
_FILE = Path(__file__).with_name("open_inference.binpb")
_SET = descriptor_pb2.FileDescriptorSet.FromString(_FILE.read_bytes())
_MESSAGES = message_factory.GetMessages(list(_SET.file), pool=POOL)


def message(name: str) -> Any:
    """The class of a message, e.g. "ModelInferRequest"."""
    return _MESSAGES[f"inference.{name}"]


METHODS: tuple[str, ...] = tuple(method.name for method in _SET.file[0].service[0].method)
"""Names of the calls; each takes NAMERequest and gives NAMEResponse."""
