"""What became of each version: signed, chained, and what is served follows from it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.bundle import Bundle
from deploy.releases import Releases, find_current
from fairness.signing import Signer
from foedus.errors import ReleaseError
from foedus.releasing import release

Made = Any


@pytest.fixture
def two(made: Made, tmp_path: Path) -> Releases:
    for _ in range(2):
        release(made.run, made.hub, keys=[made.jane.public], to=tmp_path)
    return Releases(tmp_path / "toy")


def test_states_follow_in_order_and_the_latest_is_served(made: Made, two: Releases) -> None:
    steps = [(entry.version, entry.state) for entry in two.entries(made.keys)]
    order = ["candidate", "audited", "approved", "released"]
    assert steps == [(version, state) for version in (1, 2) for state in order]
    assert find_current(two.path, made.keys) == two.bundle(2)


def test_rollback_and_withdraw(made: Made, two: Releases) -> None:
    two.rollback(made.hub, version=None, reason="worse at night")
    assert two.current(made.keys) == 1
    two.withdraw(made.hub, version=1, reason="recalled")
    with pytest.raises(ReleaseError, match=r"version 1 .* was withdrawn"):
        two.current(made.keys)
    with pytest.raises(ReleaseError, match="was withdrawn; it is not served"):
        find_current(two.bundle(1), made.keys)
    two.rollback(made.hub, version=2, reason="the next best")
    assert two.current(made.keys) == 2
    with pytest.raises(ReleaseError, match=r"version 1 .* is withdrawn, not released"):
        two.rollback(made.hub, version=1, reason="again")


def test_a_line_that_was_altered_removed_or_signed_by_another_is_found(
    made: Made, two: Releases, new_signer: Callable[[str, str], Signer]
) -> None:
    path = two.path / "log.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    entry = json.loads(lines[3])
    entry["entry"]["version"] = 2
    path.write_text("".join([*lines[:3], json.dumps(entry) + "\n", *lines[4:]]))
    with pytest.raises(ReleaseError, match="line 4 is not as it was written"):
        two.entries()
    path.write_text("".join(lines[:3] + lines[4:]))
    with pytest.raises(ReleaseError, match="line 4 does not follow"):
        two.entries()
    path.write_text("".join(lines))
    two.withdraw(new_signer("mallory", "coordinator"), version=2, reason="sabotage")
    with pytest.raises(ReleaseError, match="line 9 is signed by a key that was not given"):
        two.entries(made.keys)


def test_a_release_that_was_cut_off_is_made_again(made: Made, two: Releases) -> None:
    shutil.copytree(two.bundle(1), two.bundle(3))
    (two.bundle(3) / "audit.json").unlink()
    found: Bundle = release(made.run, made.hub, keys=[made.jane.public], to=two.path.parent)
    assert found.version == "3"
