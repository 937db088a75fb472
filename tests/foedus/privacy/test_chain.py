"""The chained file: nothing changes unseen, and a crash leaves it usable."""

import json
import os
from pathlib import Path

import pytest

from foedus.errors import PrivacyError
from foedus.privacy import chain


def _write(path: Path, *rows: chain.Row) -> chain.Chain:
    with chain.locked(path, write=True, create=True) as file:
        found = chain.read(file, name="x")
        for row in rows:
            found = chain.append(file, found, row, name="x")
    return found


def _read(path: Path) -> chain.Chain:
    with chain.locked(path, write=False) as file:
        return chain.read(file, name="x")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    _write(tmp_path / "c.jsonl", {"what": "one"}, {"what": "zwei €\n"}, {"what": 3.5})
    return tmp_path / "c.jsonl"


def test_what_was_appended_comes_back_in_order(path: Path) -> None:
    found = _read(path)
    assert [row["what"] for row in found.rows] == ["one", "zwei €\n", 3.5]
    assert [row["seq"] for row in found.rows] == [0, 1, 2]
    assert found.head == found.rows[-1]["hash"]
    assert (found.torn_bytes, found.closed, found.size_bytes) == (0, True, path.stat().st_size)


def test_each_line_can_be_checked_with_sha256_alone(path: Path) -> None:
    import hashlib

    before = chain.START
    for line in path.read_text().splitlines():
        body, digest = line.split(', "hash": "')
        assert hashlib.sha256(f"{body}}}".encode()).hexdigest() == digest[:-2]
        assert json.loads(line)["previous"] == before
        before = digest[:-2]


@pytest.mark.parametrize("flip", [0x01, 0x2A])
def test_any_changed_byte_is_found_and_its_line_named(path: Path, flip: int) -> None:
    good = path.read_bytes()
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= flip
        path.write_bytes(bad)
        number = good[:position].count(b"\n") + 1
        with pytest.raises(PrivacyError, match=f"ledger x, line {number}: it was changed"):
            _read(path)


def test_lines_taken_out_or_swapped_are_found(path: Path) -> None:
    first, second, third = path.read_bytes().splitlines(keepends=True)
    for lines in ([second, third], [first, third], [second, first, third]):
        path.write_bytes(b"".join(lines))
        with pytest.raises(PrivacyError, match="does not follow from the line before"):
            _read(path)


def test_a_crash_at_any_byte_of_a_write_leaves_a_chain_that_goes_on(path: Path) -> None:
    good = path.read_bytes()
    start = good.rstrip(b"\n").rindex(b"\n") + 1
    for cut in range(start, len(good)):
        path.write_bytes(good[:cut])
        whole = cut == len(good) - 1
        found = _read(path)
        assert len(found.rows) == (3 if whole else 2)
        assert found.torn_bytes == (0 if whole else cut - start)
        grown = _write(path, {"what": "next"})
        assert _read(path) == grown
        assert len(grown.rows) == len(found.rows) + 1


def test_blocks_of_zeros_after_a_power_cut_are_set_aside(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b'{"seq": 3' + bytes(100))
    assert _read(path).torn_bytes == 109


def test_a_full_disk_charges_nothing_and_leaves_the_file_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, write = path.read_bytes(), os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, content, at: write(file, content[:20], at))
    with pytest.raises(PrivacyError, match=r"could not be written .* free some space"):
        _write(path, {"what": "more"})
    assert path.read_bytes() == good


def test_a_link_is_not_followed_and_a_missing_file_is_not_made(tmp_path: Path, path: Path) -> None:
    (tmp_path / "link.jsonl").symlink_to(path)
    for name in ("link.jsonl", "missing.jsonl"):
        with pytest.raises(PrivacyError, match="cannot be opened"):
            _read(tmp_path / name)


def test_a_number_that_is_not_one_is_not_written(path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        _write(path, {"what": float("nan")})
