"""A site's memory between rounds: a round asked for again finds what it found the first time."""

from pathlib import Path

import numpy as np

from clients.memory import Memory


def _array(value: float) -> dict[str, np.ndarray]:
    return {"x": np.full(2, value, np.float32)}


def test_a_round_asked_for_again_finds_what_was_there_before_it(tmp_path: Path) -> None:
    memory = Memory(tmp_path, "run")
    assert memory.before(1) == {} == memory.latest()
    memory.keep(1, dict(_array(1)))
    memory.keep(2, dict(_array(2)))
    assert memory.before(2)["x"][0] == 1
    memory.keep(2, dict(_array(2)))
    assert memory.before(3)["x"][0] == 2
    assert memory.latest()["x"][0] == 2


def test_only_the_last_two_rounds_are_kept_and_runs_do_not_meet(tmp_path: Path) -> None:
    memory = Memory(tmp_path, "run")
    for number in (1, 2, 5):
        memory.keep(number, dict(_array(number)))
    assert sorted(p.name for p in (tmp_path / ".foedus/own/run").iterdir()) == [
        "round-00002.safetensors",
        "round-00005.safetensors",
    ]
    assert memory.before(5)["x"][0] == 2
    assert Memory(tmp_path, "other").latest() == {}
