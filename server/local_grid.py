"""LocalGrid: a Flower Grid that runs the ClientApps of all sites in this process, one after another."""

import logging
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

log = logging.getLogger(__name__)

RUN_ID = 1
FIRST_NODE = 1000
SITE_KEY = "site-folder"


class LocalGrid(Grid):
    """The embedded engine: no Ray, no sockets, one backbone in memory.

    A message is answered when it is pulled, so memory holds one reply at a time. Messages are
    passed by reference; arrays have still been through Flower's encoding.

    Args:
        client_app: The app every site runs.
        sites: One folder a site; node i is sites[i].
    """

    def __init__(self, client_app: ClientApp, sites: Sequence[Path]) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = RUN_ID, RUN_ID, SUPERLINK_NODE_ID
        self._app = client_app
        self._run = Run.create_empty(run_id=RUN_ID)
        self._contexts = {FIRST_NODE + i: _context(FIRST_NODE + i, folder) for i, folder in enumerate(sites)}
        self._waiting: dict[str, Message] = {}
        self.labels = {FIRST_NODE + i: folder.name for i, folder in enumerate(sites)}
        """What a node is called until its site has said its name; a site that refuses never does."""

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        pushed = []
        for message in messages:
            identifier = _identify(message)
            self._waiting[identifier] = message
            pushed.append(identifier)
        return pushed

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """The answers, each made when it is come to."""
        return (self._answer(self._waiting.pop(i)) for i in list(message_ids) if i in self._waiting)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return list(self.pull_messages(self.push_messages(messages)))

    def _answer(self, message: Message) -> Message:
        try:
            reply = self._app(message=message, context=self._contexts[message.metadata.dst_node_id])
        except Exception as error:  # as flwr-clientapp does: the run goes on without this site
            log.exception("a ClientApp raised")
            code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
            reply = Message(Error(code=code, reason=type(error).__name__), reply_to=message)
        _identify(reply)
        return reply


def _context(node_id: int, folder: Path) -> Context:
    config: dict[str, bool | float | int | str] = {SITE_KEY: str(folder)}
    return Context(run_id=RUN_ID, node_id=node_id, node_config=config, state=RecordDict(), run_config={})


def _identify(message: Message) -> str:
    """Give a message the id a SuperLink would have given it."""
    identifier = uuid.uuid4().hex
    message.metadata.__dict__["_message_id"] = identifier
    return identifier
