"""The ledger: it remembers everything, refuses at the cap, and cannot be talked out of it."""

import signal
import stat
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from foedus.errors import PrivacyError
from foedus.privacy import chain
from foedus.privacy.accountant import Gaussian, epsilon
from foedus.privacy.ledger import Ledger, Reservation
from foedus.privacy.status import exported, status

Open = Callable[..., Ledger]
ROUND = [Gaussian(10)]


def _events(ledger: Ledger) -> int:
    return sum(event.steps for event in ledger.events())


def test_a_reservation_is_on_the_disk_with_all_an_auditor_needs(open_ledger: Open) -> None:
    ledger = open_ledger()
    reserved = ledger.reserve("heart", "run-1", "round 3", [Gaussian(10, 0.1, 5), Gaussian(20)], confirm=True)
    ledger.commit(reserved)
    opened, row, committed = ledger.verify().rows
    assert (opened["data"], opened["unit"]) == ("d1", "patient")
    assert (row["study"], row["run"], row["what"], row["state"]) == ("heart", "run-1", "round 3", "reserve")
    assert row["events"] == [
        {"mechanism": "gaussian", "noise_multiplier": 10, "sampling": 0.1, "steps": 5},
        {"mechanism": "gaussian", "noise_multiplier": 20, "sampling": 1.0, "steps": 1},
    ]
    assert (row["unit"], row["relation"], row["delta"], row["cap"]) == ("patient", "add-remove", 1e-5, 8.0)
    assert row["epsilon_after"] == reserved.epsilon == ledger.spent()
    assert row["prv_epsilon_after"] == pytest.approx(ledger.spent(), rel=0.02)
    assert row["time"].endswith("+00:00")
    assert (committed["state"], committed["reserve"]) == ("commit", reserved.seq)


def test_the_folder_and_file_are_the_owners_alone(open_ledger: Open) -> None:
    path = open_ledger().path
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_cap_holds_and_the_refusal_says_spent_asked_and_what_to_do(open_ledger: Open) -> None:
    ledger = open_ledger(cap=1.0)
    ledger.reserve("heart", "r", "round 1", ROUND)
    before = ledger.path.read_bytes()
    with pytest.raises(
        PrivacyError,
        match=r"epsilon 1 \(delta 1e-05\) for each patient; 0\.\d+ is spent and 'round 2' of study 'heart' would "
        r"make it \d\.\d+\. Ask for fewer rounds or more noise",
    ):
        ledger.reserve("heart", "r", "round 2", [Gaussian(4)])
    assert ledger.path.read_bytes() == before
    ledger.reserve("heart", "r", "round 2", [Gaussian(40)])


def test_a_run_that_could_not_end_is_refused_before_it_begins_and_its_own_releases_count_once(
    open_ledger: Open,
) -> None:
    ledger = open_ledger(cap=0.8)
    releases = {f"round {k}": Gaussian(10) for k in range(1, 5)}
    ledger.require("heart", "r", releases)
    for name in ("round 1", "round 2"):
        ledger.reserve("heart", "r", name, [releases[name]])
    before = ledger.path.read_bytes()
    ledger.require("heart", "r", releases)
    with pytest.raises(PrivacyError, match="'all releases' of study 'heart' would make it"):
        ledger.require("heart", "another", releases)
    assert ledger.path.read_bytes() == before


def test_reserving_nothing_is_refused(open_ledger: Open) -> None:
    with pytest.raises(PrivacyError, match="names no release"):
        open_ledger().reserve("heart", "r", "round 1", [])


def test_a_lower_cap_holds_at_once_for_what_was_spent_before(open_ledger: Open) -> None:
    ledger = open_ledger(cap=8.0)
    ledger.reserve("heart", "r", "round 1", [Gaussian(2)])
    with pytest.raises(PrivacyError, match="epsilon 1 "):
        open_ledger(cap=1.0).reserve("heart", "r", "round 2", [Gaussian(1000)])


@pytest.mark.parametrize("cap", [0.0, -1.0, float("nan"), float("inf")])
def test_a_cap_that_is_none_is_refused(open_ledger: Open, cap: float) -> None:
    with pytest.raises(PrivacyError, match="expected a positive number"):
        open_ledger(cap=cap)


def test_what_was_reserved_is_spent_whoever_opens_the_ledger_next(open_ledger: Open) -> None:
    open_ledger().reserve("heart", "r", "round 1", ROUND)
    again = open_ledger()
    again.reserve("other", "s", "audit counts", ROUND)
    assert again.spent() == epsilon([Gaussian(10, steps=2)], 1e-5)


def test_other_data_begin_another_chain_and_status_lists_both(open_ledger: Open) -> None:
    first, second = open_ledger("d1"), open_ledger("d2", cap=3.0)
    first.commit(first.reserve("heart", "r", "round 1", ROUND))
    second.reserve("heart", "r", "round 1", [Gaussian(5)])
    found = {one.data: one for one in status(first.path.parent)}
    assert (found["d1"].reserved, found["d1"].committed, found["d1"].cap) == (1, 1, 8.0)
    assert (found["d2"].reserved, found["d2"].committed, found["d2"].cap) == (1, 0, 3.0)
    assert found["d2"].epsilon == second.spent() > found["d1"].epsilon == first.spent()


def test_status_shows_a_broken_chain_beside_a_good_one(open_ledger: Open) -> None:
    first, _ = open_ledger("d1"), open_ledger("d2")
    first.path.write_bytes(first.path.read_bytes().replace(b"d1", b"d3"))
    assert sorted(bool(one.problem) for one in status(first.path.parent)) == [False, True]


def test_a_changed_byte_stops_every_release_until_it_is_put_back(open_ledger: Open) -> None:
    ledger = open_ledger()
    reserved = ledger.reserve("heart", "r", "round 1", ROUND)
    good = ledger.path.read_bytes()
    ledger.path.write_bytes(good.replace(b'"steps": 1', b'"steps": 0'))
    for attempt in (
        lambda: ledger.reserve("heart", "r", "round 2", ROUND),
        lambda: ledger.commit(reserved),
        ledger.spent,
        ledger.verify,
        open_ledger,
    ):
        with pytest.raises(PrivacyError, match=r"line 2: it was changed .* someone responsible has looked"):
            attempt()
    ledger.path.write_bytes(good)
    ledger.reserve("heart", "r", "round 2", ROUND)


def test_an_emptied_or_removed_ledger_charges_nothing(open_ledger: Open) -> None:
    ledger = open_ledger()
    ledger.path.write_bytes(b"")
    with pytest.raises(PrivacyError, match="was emptied"):
        ledger.reserve("heart", "r", "round 1", ROUND)
    ledger.path.unlink()
    with pytest.raises(PrivacyError, match="cannot be opened"):
        ledger.reserve("heart", "r", "round 1", ROUND)
    assert not ledger.path.exists()


def test_an_auditor_who_kept_the_head_sees_a_ledger_cut_back(open_ledger: Open) -> None:
    ledger = open_ledger()
    ledger.reserve("heart", "r", "round 1", ROUND)
    before = ledger.path.read_bytes()
    ledger.reserve("heart", "r", "round 2", ROUND)
    head = ledger.export()["head"]
    assert ledger.verify(head=head).head == head
    ledger.path.write_bytes(before)
    ledger.verify()
    with pytest.raises(PrivacyError, match="cut back or replaced"):
        ledger.verify(head=head)


def test_the_export_lets_an_auditor_recompute_epsilon(open_ledger: Open) -> None:
    ledger = open_ledger()
    ledger.reserve("heart", "r", "round 1", [Gaussian(3, 0.1, 20)])
    ledger.reserve("heart", "r", "audit counts", [Gaussian(30)])
    exported = ledger.export()
    events = [
        Gaussian(event["noise_multiplier"], event["sampling"], event["steps"])
        for row in exported["rows"]
        for event in row.get("events", [])
    ]
    assert exported["epsilon"] == epsilon(events, exported["delta"])
    assert exported["prv_epsilon"] == pytest.approx(exported["epsilon"], rel=0.02)
    assert exported["problem"] == ""


def test_every_ledger_of_a_site_is_exported_with_what_its_lines_add_up_to(open_ledger: Open) -> None:
    one, other = open_ledger("d1"), open_ledger("d2")
    one.reserve("heart", "r", "round 1", ROUND)
    other.reserve("heart", "r", "round 1", [Gaussian(3)])
    found = {each["ledger"]: each for each in exported(one.path.parent, cap=8.0, delta=1e-5)}
    assert found == {each.path.stem: {"ledger": each.path.stem, **each.export()} for each in (one, other)}
    other.path.write_bytes(b"")
    with pytest.raises(PrivacyError, match="was emptied; put back the last good copy"):
        exported(one.path.parent, cap=8.0, delta=1e-5)


def test_the_export_says_so_when_the_other_accountant_does_not_agree(
    open_ledger: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger()
    ledger.reserve("heart", "r", "round 1", ROUND)
    monkeypatch.setattr("foedus.privacy.accountant._opacus_prv", lambda *_, **__: 99.0)
    exported = ledger.export()
    assert exported["prv_epsilon"] is None
    assert "differ by more than 2 %" in exported["problem"]
    with pytest.raises(PrivacyError, match="differ by more than 2 %"):
        ledger.reserve("heart", "r", "round 2", ROUND, confirm=True)
    assert _events(ledger) == 1


def test_a_commit_is_noted_once_and_only_for_what_was_reserved(open_ledger: Open) -> None:
    ledger = open_ledger()
    reserved = ledger.reserve("heart", "r", "round 1", ROUND)
    ledger.commit(reserved)
    ledger.commit(reserved)
    assert len(ledger.verify().rows) == 3
    for unknown in (Reservation(9, 0.1, reserved.hash), replace(reserved, hash="0" * 64)):
        with pytest.raises(PrivacyError, match="no such reservation"):
            ledger.commit(unknown)


CHILD = """
import sys
from pathlib import Path
from foedus.errors import PrivacyError
from foedus.privacy import Gaussian, Ledger
ledger = Ledger.open(Path(sys.argv[1]), data="d1", unit="patient", cap_epsilon=2.0, delta=1e-5)
ledger.spent()
print("ready", flush=True)
sys.stdin.readline()
"""
OVERDRAW = """
made = 0
try:
    while True:
        ledger.reserve("heart", "r", f"round {made}", [Gaussian(8)])
        made += 1
except PrivacyError:
    print(made)
"""
LINGER = """
ledger.reserve("heart", "r", "round 1", [Gaussian(10)])
print("reserved", flush=True)
sys.stdin.readline()
"""


def _child(ledger: Ledger, body: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD + body, str(ledger.path.parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_processes_at_once_cannot_overdraw(open_ledger: Open) -> None:
    ledger = open_ledger(cap=2.0)
    children = [_child(ledger, OVERDRAW) for _ in range(2)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    made = [int(child.communicate("go\n", timeout=60)[0]) for child in children]
    assert sum(made) == _events(ledger)
    assert ledger.spent() <= 2.0 < epsilon([Gaussian(8, steps=sum(made) + 1)], 1e-5)
    assert len(ledger.verify().rows) == 1 + sum(made)


def test_killed_between_reserve_and_commit_counts_as_spent(open_ledger: Open) -> None:
    ledger = open_ledger(cap=2.0)
    child = _child(ledger, LINGER)
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write("go\n")
    child.stdin.flush()
    assert [child.stdout.readline() for _ in range(2)] == ["ready\n", "reserved\n"]
    child.send_signal(signal.SIGKILL)
    assert child.wait(timeout=30) == -signal.SIGKILL
    child.communicate()
    assert ledger.spent() == epsilon([Gaussian(10)], 1e-5)
    ledger.reserve("heart", "r", "round 2", ROUND)


def test_a_reserve_stays_fast_after_500_of_three_kinds(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path, data="d", unit="record", cap_epsilon=50, delta=1e-5)
    kinds = [Gaussian(20, 0.1, 10), Gaussian(100), Gaussian(30, 0.05, 2)]
    with chain.locked(ledger.path, write=True) as file:
        found = chain.read(file, name="x")
        for i in range(500):
            event = {"mechanism": "gaussian", **vars(kinds[i % 3])}
            row = {
                "time": "",
                "state": "reserve",
                "study": "s",
                "run": "r",
                "what": f"round {i}",
                "events": [event],
            }
            found = chain.append(file, found, row, name="x")
    ledger.reserve("s", "r", "first", kinds)
    spent_s = []
    for i in range(9):
        begun = time.process_time()
        ledger.reserve("s", "r", f"more {i}", [kinds[i % 3]])
        spent_s.append(time.process_time() - begun)
    assert statistics.median(spent_s) < 0.05
