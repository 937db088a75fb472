"""Flower's server hands out a message until whom it is for has all of it, and an answer once all of it has arrived.

By itself it hands out a request, and an answer, once: if the server, the line or who asked dies before the message
has arrived, it never does, and the round waits for its deadline. An answer it hands out as soon as its site has begun
to send it. Whoever asked then waits for the rest, for up to two hours, takes no other site's answer meanwhile and
misses its own deadline; and what a killed site had begun to send is waited for although the site could be asked once
more.
"""

from typing import Any

from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.date import now
from flwr.supercore.state.schema.corestate_models import ObjectPushSession, ObjectPushSessionRoot
from flwr.supercore.state.schema.linkstate_models import MessageIns, MessageRes
from flwr.supercore.state.schema.objectstore_models import StoredObject
from flwr.supercore.utils import uint64_to_int64
from sqlalchemy import ColumnElement, select, update

PRIVATE_NAMES = (
    "flwr.server.superlink.linkstate.sql_linkstate:SqlLinkState.get_message_ins",
    "flwr.server.superlink.linkstate.sql_linkstate:SqlLinkState.get_message_res",
    "flwr.supercore.date:now",
    "flwr.supercore.state.schema.corestate_models:ObjectPushSession.pending_count",
    "flwr.supercore.state.schema.corestate_models:ObjectPushSessionRoot.root_object_id",
    "flwr.supercore.state.schema.linkstate_models:MessageIns.delivered_at",
    "flwr.supercore.state.schema.linkstate_models:MessageRes.created_at",
    "flwr.supercore.state.schema.linkstate_models:MessageRes.delivered_at",
    "flwr.supercore.state.schema.linkstate_models:MessageRes.reply_to_message_id",
    "flwr.supercore.state.schema.objectstore_models:StoredObject.is_available",
    "flwr.supercore.utils:uint64_to_int64",
)


class WholeMessages(SqlLinkState):
    """The server's state on disk: a message is there when all of it is, and until all of it was taken."""

    def get_message_ins(self, node_id: int, limit: int | None, *, run_id: int | None = None) -> list[Any]:
        """As Flower's, and where a site that asks for more has lost what it was handed, that once more."""
        found = list(super().get_message_ins(node_id, limit, run_id=run_id))
        mine = MessageIns.dst_node_id == uint64_to_int64(node_id)
        if found or limit is None or not self._forget_lost(MessageIns, mine):
            return found
        return list(super().get_message_ins(node_id, limit, run_id=run_id))

    def get_message_res(self, message_ids: set[str], run_id: int) -> list[Any]:
        """One answer that is whole, if there is any, and what Flower says of messages that have none.

        Who asks for many answers takes one, and asks again: it never holds more than one in memory.
        """
        whole = message_ids - self._arriving(message_ids)
        self._forget_lost(MessageRes, MessageRes.reply_to_message_id.in_(whole))
        others = self._answered(whole)[1:]
        return list(super().get_message_res(whole - set(others), run_id))

    def _forget_lost(self, kind: type[MessageIns | MessageRes], asked: ColumnElement[bool]) -> int:
        """How many messages were handed to who asks now and have not been taken; they count as not handed out.

        Who takes a message, part by part, says so, whereupon the server drops its parts; only then does a site ask
        for more work, and a run for other answers than this one.
        """
        held = select(StoredObject.object_id).where(StoredObject.is_available == 1)
        handed = select(kind.message_id).where(asked, kind.delivered_at != "", kind.message_id.in_(held))
        with self.session() as session:
            lost = session.scalars(handed).all()
            if lost:  # who has no work asks often: only what is found is written
                session.execute(update(kind).where(kind.message_id.in_(lost)).values(delivered_at=""))
            return len(lost)

    def _answered(self, message_ids: set[str]) -> list[str]:
        """Messages whose answer waits, the one that has waited longest first."""
        waiting = select(MessageRes.reply_to_message_id).where(
            MessageRes.reply_to_message_id.in_(message_ids), MessageRes.delivered_at == ""
        )
        with self.session() as session:
            found = session.scalars(waiting.order_by(MessageRes.created_at, MessageRes.message_id))
            return [identifier for identifier in found if identifier is not None]

    def _arriving(self, message_ids: set[str]) -> set[str]:
        """Messages whose answer has parts to come, while its sender still may send them."""
        parts_to_come = (
            select(MessageRes.reply_to_message_id)
            .join(ObjectPushSessionRoot, ObjectPushSessionRoot.root_object_id == MessageRes.message_id)
            .join(ObjectPushSession, ObjectPushSession.session_id == ObjectPushSessionRoot.session_id)
            .where(
                MessageRes.reply_to_message_id.in_(message_ids),
                ObjectPushSession.pending_count > 0,
                ObjectPushSession.expires_at > now(),
            )
        )
        with self.session() as session:
            return {found for found in session.scalars(parts_to_come) if found is not None}
