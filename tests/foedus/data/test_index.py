import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from foedus.data import index
from foedus.data.images import decode

SavePng = Callable[..., Path]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every content that is decoded from now on."""
    seen: list[bytes] = []

    def spy(content: bytes, *, suffix: str) -> np.ndarray:
        seen.append(content)
        return decode(content, suffix=suffix)

    monkeypatch.setattr(index, "decode", spy)
    return seen


def indexes(folder: Path) -> list[Path]:
    return sorted((folder / ".foedus").glob("index-*.json"))


def test_images_are_decoded_once_and_remembered(
    tmp_path: Path, save_png: SavePng, decoded: list[bytes]
) -> None:
    files = {"a.png": save_png("a.png", 1), "b.png": save_png("b.png", 2)}
    first = index.verify(tmp_path, files)
    assert len(decoded) == 2
    assert index.verify(tmp_path, files) == first
    assert len(decoded) == 2
    assert first["a.png"].sha256 != first["b.png"].sha256


def test_only_a_changed_or_new_file_is_decoded_again(
    tmp_path: Path, save_png: SavePng, decoded: list[bytes]
) -> None:
    files = {"a.png": save_png("a.png", 1), "b.png": save_png("b.png", 2)}
    before = index.verify(tmp_path, files)
    save_png("a.png", 3)
    os.utime(files["a.png"], ns=(1, 1))
    files["c.png"] = save_png("c.png", 4)
    after = index.verify(tmp_path, files)
    assert len(decoded) == 4
    assert after["a.png"].sha256 != before["a.png"].sha256
    assert after["b.png"] == before["b.png"]
    assert len(indexes(tmp_path)) == 1


def test_folder_is_private_and_nothing_half_written_is_left(tmp_path: Path, save_png: SavePng) -> None:
    index.verify(tmp_path, {"a.png": save_png("a.png", 1)})
    assert stat.S_IMODE((tmp_path / ".foedus").stat().st_mode) == 0o700
    assert [path.name for path in (tmp_path / ".foedus").iterdir()] == [indexes(tmp_path)[0].name]
    assert stat.S_IMODE(indexes(tmp_path)[0].stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"version": 0}', '{"version": 2, "files": {"a.png": {}}}']
)
def test_damaged_index_costs_a_decoding_not_a_run(
    tmp_path: Path, save_png: SavePng, decoded: list[bytes], content: str
) -> None:
    files = {"a.png": save_png("a.png", 1)}
    first = index.verify(tmp_path, files)
    indexes(tmp_path)[0].write_text(content, encoding="utf-8")
    assert index.verify(tmp_path, files) == first
    assert len(decoded) == 2


def test_index_that_cannot_be_written_is_a_warning(
    tmp_path: Path, save_png: SavePng, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ".foedus").write_text("a file in the way", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        entries = index.verify(tmp_path, {"a.png": save_png("a.png", 1)})
    assert entries["a.png"].problem is None
    assert "could not be kept" in caplog.text
