"""Flower's server hands out an answer once all of it has arrived.

By itself it hands out an answer as soon as a site has begun to send it. Whoever asked then waits for the rest,
for up to two hours, takes no other site's answer meanwhile and misses its own deadline; and what a killed site
had begun to send is waited for although the site, started again, could be asked once more at once.
"""

from typing import Any

from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.date import now
from flwr.supercore.state.schema.corestate_models import ObjectPushSession, ObjectPushSessionRoot
from flwr.supercore.state.schema.linkstate_models import MessageRes
from sqlalchemy import select

PRIVATE_NAMES = (
    "flwr.server.superlink.linkstate.sql_linkstate:SqlLinkState.get_message_res",
    "flwr.supercore.date:now",
    "flwr.supercore.state.schema.corestate_models:ObjectPushSession.pending_count",
    "flwr.supercore.state.schema.corestate_models:ObjectPushSessionRoot.root_object_id",
    "flwr.supercore.state.schema.linkstate_models:MessageRes.reply_to_message_id",
)


class WholeReplies(SqlLinkState):
    """The server's state on disk, which knows nothing yet of an answer that is still on its way."""

    def get_message_res(self, message_ids: set[str], run_id: int) -> list[Any]:
        """As Flower's, of the messages whose answer is whole, lost or not begun."""
        return list(super().get_message_res(message_ids - self._arriving(message_ids), run_id))

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
