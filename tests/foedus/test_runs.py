"""Run folders: whole or as they were, resumable, and their log cannot be edited unseen."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from foedus import files
from foedus.errors import RunError
from foedus.runs import LATEST, LOG_FILE, RunFolder, find_run, list_runs

STUDY = '[study]\nname = "x"\nclasses = ["a", "b"]\n'


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    study = tmp_path / "study.toml"
    study.write_text(STUDY)
    return RunFolder.create(tmp_path / "runs", study, policy=None, engine="local", sites="sites")


def test_a_checkpoint_comes_back_as_it_was(run: RunFolder) -> None:
    arrays = {"head/weight": np.arange(6, dtype=np.float32).reshape(2, 3)}
    run.checkpoint(1, arrays, lines=[{"round": 1}], best_loss=0.5)
    pointer, loaded = run.latest() or ({}, {})
    assert pointer["best_loss"] == 0.5
    assert loaded["head/weight"].tobytes() == arrays["head/weight"].tobytes()
    assert run.rounds() == [{"round": 1}]


def test_an_altered_checkpoint_is_refused(run: RunFolder) -> None:
    run.checkpoint(1, {"x": np.zeros(3)}, lines=[])
    path = run.path / json.loads((run.path / LATEST).read_text())["file"]
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(RunError, match="its sha256 differs"):
        run.latest()


def test_a_full_disk_leaves_the_checkpoint_before_intact(run: RunFolder) -> None:
    """A file-size limit makes the kernel refuse the write half-way, as a full disk does."""
    run.checkpoint(1, {"x": np.ones(10)}, lines=[{"round": 1}])
    script = f"""
import resource, signal, numpy as np
from pathlib import Path
from foedus.errors import RunError
from foedus.runs import RunFolder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    RunFolder.open(Path({str(run.path)!r})).checkpoint(2, {{"x": np.ones(100_000)}}, lines=[])
except RunError as error:
    print(error)
"""
    assert resource.RLIMIT_FSIZE
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "what was there before is intact" in done.stdout
    pointer, arrays = run.latest() or ({}, {})
    assert pointer["round"] == 1
    assert arrays["x"].tolist() == [1.0] * 10
    assert sorted(p.name for p in (run.path / "checkpoints").iterdir()) == [
        "latest.json",
        "round-00001.safetensors",
    ]


def test_the_last_two_checkpoints_are_kept(run: RunFolder) -> None:
    for number in (0, 1, 2, 5):
        run.checkpoint(number, {"x": np.full(3, number)}, lines=[{"round": number}])
    kept = sorted(path.name for path in (run.path / "checkpoints").glob("round-*"))
    assert kept == ["round-00002.safetensors", "round-00005.safetensors"]
    latest = run.latest()
    assert latest is not None
    assert latest[1]["x"].tolist() == [5, 5, 5]


def test_the_log_is_a_hash_chain(run: RunFolder) -> None:
    run.log("one")
    run.log("two", verdict="pass")
    run.verify_log()
    path = run.path / LOG_FILE
    path.write_text(path.read_text().replace('"one"', '"oNe"'))
    with pytest.raises(RunError, match="line 3 does not follow"):
        run.verify_log()


def test_runs_are_listed_and_found_by_id_or_path(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "runs/damaged").mkdir()
    (tmp_path / "runs/damaged/run.json").write_text("{")
    assert [found.run_id for found in list_runs(tmp_path / "runs")] == [run.run_id]
    assert find_run(tmp_path / "runs", run.run_id).path == run.path
    assert find_run(tmp_path, str(run.path)).path == run.path
    with pytest.raises(RunError, match=r"there is no run 'nope' in .*; see foedus list --runs"):
        find_run(tmp_path / "runs", "nope")
    with pytest.raises(RunError, match=f"did you mean '{run.run_id}'"):
        find_run(tmp_path / "runs", run.run_id[:-1])


def test_json_never_holds_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "x.json", {"value": float("nan")})
    assert not (tmp_path / "x.json").exists()
