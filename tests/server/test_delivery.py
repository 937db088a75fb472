"""Flower's server on disk hands out a request until its site has it, and an answer when all of it has arrived."""

from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.corestate import sql_corestate
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager

from foedus import records
from server.delivery import WholeMessages


class Server:
    """The server's state, a run in it and a site that is asked."""

    def __init__(self, folder: Path) -> None:
        database = str(folder / "state.db")
        self.state = WholeMessages(database, NoOpFederationManager(), ObjectStoreFactory(database).store())
        self.state.initialize()
        self.node = self.state.create_node("site", "site", b"key", 30.0)
        assert self.state.activate_node(self.node, 30.0)
        self.run = self.state.create_run(
            None, None, None, {}, NOOP_FEDERATION_ID, None, "me", TaskType.SERVER_APP
        )

    def ask(self, number: int = 1) -> Message:
        """A request that waits for its site."""
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, self.run, SUPERLINK_NODE_ID
        content = RecordDict({records.CONFIG: ConfigRecord({"a": number})})
        request = Message(content, dst_node_id=self.node, message_type="train")
        session, missing = self.begin(request)
        self.send(request, session, missing)
        return request

    def taken(self) -> str | None:
        """What the site is handed when it asks for work."""
        found = self.state.get_message_ins(self.node, limit=1)
        return str(found[0].metadata.message_id) if found else None

    def confirm(self, message: Message) -> None:
        """Who it is for says that it has all of it."""
        self.state.object_store.delete(str(message.metadata.message_id))

    def begin(self, message: Message) -> tuple[str, list[str]]:
        """Announce a message, as its sender does first; the parts it has to send."""
        message.metadata.__dict__["_message_id"] = message.object_id
        session = self.state.start_session(self.run)
        stored, missing = self.state.store_message_and_object_tree(message, get_object_tree(message), session)
        assert stored
        return session, missing

    def send(self, message: Message, session: str, parts: list[str]) -> None:
        """Some parts of a message."""
        objects = get_all_nested_objects(message)
        for part in parts:
            assert self.state.store_object(self.run, session, part, objects[part].deflate())

    def answers(self, request: Message) -> list[Message]:
        """What a run that waits for the answer is handed."""
        return self.state.get_message_res({str(request.metadata.message_id)}, self.run)


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


def _answer(server: Server, request: Message) -> Message:
    TaskIdentity.node_id = server.node
    content = RecordDict({records.ARRAYS: records.to_record({"weight": np.arange(6)})})
    return Message(content, reply_to=request)


def test_a_request_is_handed_out_until_the_site_says_it_has_it(server: Server) -> None:
    request = server.ask()
    for _ in range(3):  # what the server answered may never have reached the site
        assert server.taken() == request.object_id
    server.confirm(request)
    assert server.taken() is None
    another = server.ask(2)
    assert server.taken() == another.object_id
    server.confirm(another)
    assert server.taken() is None


def test_what_waits_for_one_site_is_not_handed_to_another(server: Server) -> None:
    server.ask()
    assert server.taken()
    other = server.state.create_node("other", "other", b"another key", 30.0)
    assert server.state.activate_node(other, 30.0)
    assert not server.state.get_message_ins(other, limit=1)


def test_an_answer_on_its_way_is_no_answer_yet(server: Server) -> None:
    request = server.ask()
    assert server.taken()
    assert not server.answers(request)
    answer = _answer(server, request)
    session, parts = server.begin(answer)
    assert len(parts) > 2
    for part in parts:
        assert not server.answers(request)
        server.send(answer, session, [part])
    for _ in range(3):  # what the server answered may never have reached the run
        [found] = server.answers(request)
        assert found.metadata.message_id == answer.object_id
    server.confirm(answer)
    assert not server.answers(request)


def test_what_waits_for_one_question_is_no_answer_to_another(server: Server) -> None:
    first, second = server.ask(1), server.ask(2)
    answer = _answer(server, first)
    session, parts = server.begin(answer)
    server.send(answer, session, parts)
    assert server.answers(first)
    assert not server.answers(second)


def test_who_asks_for_many_answers_takes_one_at_a_time(server: Server) -> None:
    requests = [server.ask(number) for number in range(4)]
    given = [_answer(server, request) for request in requests[:3]]
    for answer in given:
        server.send(answer, *server.begin(answer))
    asked = {str(request.metadata.message_id) for request in requests}
    taken = []
    for _ in range(3):
        [found] = server.state.get_message_res(set(asked), server.run)
        taken.append(found.metadata.message_id)
        server.confirm(found)
    assert sorted(taken) == sorted(answer.object_id for answer in given)
    assert not server.state.get_message_res(set(asked), server.run)
    server.state.acknowledge_node_heartbeat(server.node, 0.0)
    gone = server.state.get_message_res({str(requests[3].metadata.message_id)}, server.run)
    assert [found.error.code for found in gone] == [ErrorCode.NODE_UNAVAILABLE]


def test_one_that_was_given_up_by_its_sender_is_handed_out_as_lost(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = server.ask()
    monkeypatch.setattr(sql_corestate, "OBJECT_PUSH_SESSION_TTL_SECONDS", -1)
    answer = _answer(server, request)
    server.begin(answer)
    assert server.answers(request)
    assert server.state.get_object(server.run, answer.object_id) is None


def test_a_site_that_is_gone_is_said_to_be(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    request = server.ask()
    server.state.acknowledge_node_heartbeat(server.node, 0.0)
    [found] = server.answers(request)
    assert found.error.code == ErrorCode.NODE_UNAVAILABLE
