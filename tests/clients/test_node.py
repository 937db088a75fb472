"""What is around Flower's SuperNode: how often it asks, what it says, what it holds back."""

import json
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from flwr.app import Message, RecordDict
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.nodestate import NodeStateFactory

from clients import node, silence
from clients.membership import EGRESS, STATUS, Membership
from clients.service import Watcher, service
from foedus import files, records
from foedus.errors import ConfigError, RunError

SITE = """
[site]
name = "a"
[data]
kind = "table"
path = "data.csv"
label = "y"
[policy]
doors = ["open"]
"""


@pytest.fixture
def site(tmp_path: Path) -> Membership:
    (tmp_path / "site.toml").write_text(SITE)
    found = Membership(tmp_path)
    found.request()
    return found


def test_it_asks_soon_after_work_and_ever_more_rarely_without(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(node.time, "sleep", slept.append)
    pace = node.Pace()
    for _ in range(20):
        pace.sleep(3)
    assert slept == sorted(slept)
    assert (slept[0], slept[-1]) == (node.SOONEST_S, node.LATEST_S)
    pace.heard()
    pace.sleep(3)
    pace.sleep(0.5)
    assert slept[-2:] == [node.SOONEST_S, node.SOONEST_S]


def question() -> Message:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    return Message(RecordDict({}), dst_node_id=7, message_type="train")


def pushed(site: Membership, content: RecordDict) -> Message:
    """What would be sent for a reply that the ClientApp left in Flower's own state."""
    store = ObjectStoreFactory().store()
    state = NodeStateFactory(ObjectStoreFactory()).state()
    asked = question()
    asked.metadata.__dict__["_message_id"] = "asked"
    reply = Message(content, reply_to=asked)
    node.flower._insert_message(reply, state, store)
    [sent] = node.Egress(state, store, site.folder).get_messages_legacy(is_reply=True)
    assert state.get_messages_legacy(is_reply=True) == []
    return sent


def test_an_answer_that_leaks_is_replaced_in_flowers_own_state_and_noted(site: Membership) -> None:
    leak = records.to_record({"weight": np.ones(2, np.float32)})
    good: Any = pushed(site, RecordDict({records.ARRAYS: leak}))
    assert not good.has_error()
    bad = pushed(site, RecordDict({records.ARRAYS: leak, "patients": leak}))
    assert bad.has_error()
    assert "egress check refused" in bad.error.reason
    lines = [json.loads(line) for line in (site.node / EGRESS).read_text().splitlines()]
    assert [line["withheld"] for line in lines] == [None, "it holds a record that the protocol does not know"]
    assert [(line["type"], line["bytes"] > 0) for line in lines] == [("train", True)] * 2


def test_without_a_valid_policy_nothing_leaves(site: Membership) -> None:
    (site.folder / "site.toml").write_text(SITE + "max_answr_mb = 3\n")
    content = RecordDict({records.ARRAYS: records.to_record({"weight": np.ones(2, np.float32)})})
    assert pushed(site, content).error.reason == "the site's configuration is not valid"


def test_the_site_says_what_its_node_found(site: Membership) -> None:
    said: list[str] = []
    watcher = Watcher(site.folder, said.append)
    watcher()
    node.tell(site, "not signed in", "its key is not approved")
    watcher()
    watcher()
    node.tell(site, "signed in", None)
    watcher()
    assert said == ["not signed in: its key is not approved", "signed in"]


def test_a_coordinator_that_is_silent_for_long_is_told_of_once_and_so_is_its_return(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(silence, "LOOK_S", 0.01)
    monkeypatch.setattr(silence, "SILENT_S", 0.05)
    told: list[bool] = []
    line = silence.Silence(told.append)
    assert line.during(lambda: "work") == "work"
    assert told == []
    line.during(lambda: time.sleep(0.3))
    assert told == [True, False]


def test_the_site_says_what_it_refused(site: Membership) -> None:
    (site.node / EGRESS).write_text('{"withheld": null, "refused": "old"}\n')
    said: list[str] = []
    watcher = Watcher(site.folder, said.append)
    pushed(site, RecordDict({"patients": records.to_record({"weight": np.ones(2, np.float32)})}))
    watcher()
    watcher()
    assert said == ["refused: it holds a record that the protocol does not know"]


def test_an_old_status_is_not_said_again(site: Membership) -> None:
    files.write_json(site.node / STATUS, {"state": "signed in", "reason": None, "at": "2020-01-01T00:00:00"})
    said: list[str] = []
    Watcher(site.folder, said.append)()
    assert said == []


def test_a_site_runs_once_and_only_after_it_joined(site: Membership, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="has not joined"), service(site.folder):
        pass
    monkeypatch.setattr(Membership, "kit", lambda self: None)
    with (
        service(site.folder),
        pytest.raises(RunError, match="takes part already; stop the other"),
        service(site.folder),
    ):
        pass


def test_a_reply_that_flowers_loop_would_keep_back_is_sent(site: Membership) -> None:
    """A late reply to a run that has ended is sent in the place of the one waited for, which then stays."""
    store, state = ObjectStoreFactory().store(), NodeStateFactory(ObjectStoreFactory()).state()
    sent: list[list[Message]] = []

    def push(state: Any, object_store: Any) -> None:
        sent.append(state.get_messages_legacy(is_reply=True))

    replies = node.Replies(site.folder, push)
    replies.left_over()
    for number in range(2):
        asked = question()
        asked.metadata.__dict__["_message_id"] = f"asked-{number}"
        content = RecordDict({records.ARRAYS: records.to_record({"weight": np.full(2, number, np.float32)})})
        node.flower._insert_message(Message(content, reply_to=asked), state, store)
        if number == 0:
            replies(state=state, object_store=store)
    replies.left_over()
    replies.left_over()
    assert [len(messages) for messages in sent] == [1, 1]


def test_nobody_sends_a_site_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who answers at the kit's address redirects a call to a machine inside; it is not followed."""
    monkeypatch.setattr(
        node.ProtobufClient, "__init__", node.ProtobufClient.__init__
    )  # as it was, afterwards
    node.stay_on_the_way()
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(307, headers={"location": "http://intranet/"}, request=request)

    client = node.FleetHttpClient.from_server_address("there:1", True, None, interceptors=[])
    monkeypatch.setattr(client._client, "_transport", httpx.MockTransport(answer))
    monkeypatch.setattr(client._client, "_mounts", {})
    with client, pytest.raises(httpx.HTTPError):
        client.DeactivateNode(node.DeactivateNodeRequest(node_id=1))
    assert asked == ["http://there:1/v1/fleet/deactivate-node"]
