"""The keystore: only its owner reads it, nothing in it goes backwards, a kill leaves it whole."""

import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foedus.errors import DoorError, SecureSumError
from foedus.secure.keystore import MOST_AHEAD, Keystore
from foedus.secure.roster import Roster
from foedus.secure.wire import MAX_SESSION


@pytest.fixture
def store(tmp_path: Path) -> Keystore:
    return Keystore.create(tmp_path / "keys")


def roster_with(store: Keystore, **others: bytes) -> Roster:
    return Roster.build(sites={"me": store.public_key, "b": bytes(32), "c": b"c" * 32, **others})


def modes(folder: Path) -> dict[str, str]:
    return {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in [folder, *folder.iterdir()]}


def test_only_the_owner_can_read_it(five: Any) -> None:
    five.contribute(five.session())
    found = modes(five.folder / "site-00")
    assert found.pop("site-00") == "0o700"
    assert set(found) == {"identity.json", "roster.json", "counter.json", "session.json", ".lock"}
    assert set(found.values()) == {"0o600"}


@pytest.mark.parametrize("name", ["identity.json", "roster.json", "counter.json", "session.json", "."])
@pytest.mark.parametrize("extra", [0o040, 0o004, 0o020])
def test_a_keystore_others_can_reach_is_refused(five: Any, name: str, extra: int) -> None:
    masked = five.contribute(five.session())
    path = five.folder / "site-00" / name
    path.chmod(path.stat().st_mode | extra)
    with pytest.raises(
        SecureSumError, match=r"can be read by others on its machine; run chmod (600|700) on it"
    ):
        five.site("site-00").consent(masked.consent_request())
    assert str(five.folder) not in _message(lambda: five.site("site-00").consent(masked.consent_request()))
    path.chmod(path.stat().st_mode & ~extra)
    five.site("site-00").consent(masked.consent_request())


def _message(call: Callable[[], object]) -> str:
    with pytest.raises(DoorError) as caught:
        call()
    return str(caught.value)


def test_the_identity_is_made_once(tmp_path: Path) -> None:
    first = Keystore.create(tmp_path / "keys")
    again = Keystore.create(tmp_path / "keys")
    assert again.public_key == first.public_key == Keystore(tmp_path / "keys").public_key
    assert Keystore.create(tmp_path / "other").public_key != first.public_key
    assert again.fingerprint() == first.fingerprint()
    assert first.last_session() == 0


def test_a_folder_without_an_identity_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SecureSumError, match="the site's keystore cannot be opened"):
        Keystore(tmp_path / "missing")
    (tmp_path / "empty").mkdir(mode=0o700)
    with pytest.raises(SecureSumError, match=r"the site's keystore holds no identity\.json"):
        Keystore(tmp_path / "empty")
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(SecureSumError, match="run chmod 700"):
        Keystore.create(tmp_path / "open")


def test_another_roster_is_pinned_only_on_purpose(store: Keystore) -> None:
    first, second = roster_with(store), roster_with(store, d=b"d" * 32)
    with pytest.raises(SecureSumError, match=r"holds no roster\.json"):
        store.roster()
    store.pin(first)
    store.pin(first)
    with pytest.raises(SecureSumError, match="another roster is pinned") as caught:
        store.pin(second)
    assert first.fingerprint() in str(caught.value)
    assert second.fingerprint() in str(caught.value)
    assert store.roster().digest == first.digest
    store.pin(second, replace=True)
    assert store.roster().digest == second.digest
    assert store.name() == "me"


def test_a_roster_without_this_site_is_refused(store: Keystore) -> None:
    stranger = Roster.build(sites={"a": bytes(32), "b": b"b" * 32, "c": b"c" * 32})
    with pytest.raises(SecureSumError, match="the roster does not hold this site's key"):
        store.pin(stranger)


def test_the_counter_only_goes_up_whatever_happens_to_the_process(store: Keystore, tmp_path: Path) -> None:
    store.advance(7)
    for number in (7, 6, 0):
        with pytest.raises(SecureSumError, match=rf"session {number} was used before \(the last was 7\)"):
            Keystore(tmp_path / "keys").advance(number)
    Keystore(tmp_path / "keys").advance(8)
    (tmp_path / "keys/counter.json").unlink()
    with pytest.raises(SecureSumError, match=r"holds no counter\.json"):
        store.advance(9)


@pytest.mark.parametrize(
    "content", ["", "{", '{"session":-1}', '{"session": 1}', '{"session":1,"x":2}', "\xff"]
)
def test_a_damaged_file_is_refused_and_not_mended(store: Keystore, tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys/counter.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(SecureSumError, match=r"the counter\.json in the site's keystore is malformed"):
        store.advance(9)


def test_a_state_whose_parts_do_not_fit_is_refused(five: Any) -> None:
    masked = five.contribute(five.session())
    path = five.folder / "site-00/session.json"
    good = json.loads(path.read_text())
    wrong = [
        {"count": 2},
        {"stage": "shared"},
        {"sharers": good["sharers"][:-1]},
        {"peers": {}},
        {"sums": []},
        {"stage": "done"},
    ]
    for change in wrong:
        path.write_text(json.dumps({**good, **change}, sort_keys=True, separators=(",", ":")))
        with pytest.raises(SecureSumError, match="the record of the session in progress is malformed"):
            five.site("site-00").consent(masked.consent_request())
    five.site("site-00").keys(five.session_request(2))


def test_what_a_killed_process_left_behind_is_cleared(five: Any) -> None:
    folder = five.folder / "site-00"
    left = folder / ".session.json.k1ll3d"
    left.write_text("secret")
    five.session()
    assert not left.exists()


def test_nothing_is_signed_when_the_disk_refuses(five: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        reason = _message(lambda: five.site("site-00").keys(five.session_request(1)))
    assert reason == "counter.json in the site's keystore cannot be written; nothing was sent"
    five.site("site-00").keys(five.session_request(1))


def test_a_session_of_a_year_to_come_is_not_taken_for_the_last_one(store: Keystore) -> None:
    now = time.time_ns() // 1000
    for ahead in (MAX_SESSION, now + MOST_AHEAD + 10**9):
        with pytest.raises(SecureSumError, match="more than a day ahead of this site's clock"):
            store.advance(ahead)
    store.advance(now + MOST_AHEAD - 10**9)
    assert store.last_session() == now + MOST_AHEAD - 10**9
