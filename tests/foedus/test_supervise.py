"""The note a supervisor leaves, by which others tell whether it is well."""

import json
import sys
import threading
import time
from pathlib import Path

import pytest

from foedus import supervise
from foedus.supervise import NOTE, Supervisor, problems

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_a_log_that_grows_for_long_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "LOG_BYTES", 1000)
    monkeypatch.setattr(supervise, "NOTE_S", 0.01)
    chatter = [sys.executable, "-uc", "import time\nwhile True: print('x' * 99); time.sleep(0.01)"]
    logs = tmp_path / "logs"
    supervisor = Supervisor({"node": chatter}, logs=logs, home=tmp_path)
    thread = threading.Thread(target=supervisor.run, kwargs={"every_s": 0.01})
    thread.start()
    try:
        end = time.monotonic() + 20
        while not (logs / "node.log.1").exists() or b"x" not in (logs / "node.log").read_bytes():
            assert time.monotonic() < end
            time.sleep(0.01)
    finally:
        supervisor.stop()
        thread.join()
    assert b"\0" not in (logs / "node.log").read_bytes(), "it goes on at the beginning"


def test_a_supervisor_that_is_well_says_so_and_one_that_is_not_does_not(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    assert problems(logs) == ["it is not running"]
    supervisor = Supervisor({"node": SLEEP, "executor": ["false"]}, logs=logs, home=tmp_path)
    thread = threading.Thread(target=supervisor.run, kwargs={"every_s": 0.05})
    thread.start()
    try:
        end = time.monotonic() + 20
        while not (logs / NOTE).exists() or supervisor.restarts["executor"] < 1:
            assert time.monotonic() < end
            time.sleep(0.05)
        note = json.loads((logs / NOTE).read_text())
        assert note["pids"]["node"] == supervisor.pids()["node"]
        note["pids"]["executor"] = None
        (logs / NOTE).write_text(json.dumps(note))
        assert problems(logs) == ["its executor is not running"]
        note["time"] -= 2 * supervise.STALE_S
        (logs / NOTE).write_text(json.dumps(note))
        assert problems(logs)[0].startswith("nothing was heard of it for ")
        assert supervisor.restarts["node"] == 0
    finally:
        supervisor.stop()
        thread.join()
    assert problems(logs) == ["it is not running"]
