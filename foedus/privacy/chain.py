"""A file that only grows, each line holding the hash of the one before.

A line is a JSON object whose last key, "hash", is the SHA-256 (hex) of the line's bytes
without that key: what stands before `, "hash": "..."}`, and a closing brace. Its "previous"
is the hash of the line before, its "seq" its number from 0. Writers hold an exclusive lock
on the file and wait until a line is on the disk, so a crash can leave only a last line that
is cut off: it was never acted on, it is set aside, and the next writer cuts it away.
"""

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foedus.errors import PrivacyError

log = logging.getLogger(__name__)

START = "0" * 64
"""What stands for the hash before the first line."""
_SEAM = b', "hash": "'
_SEAL = len(_SEAM) + 64 + len(b'"}')

Row = dict[str, Any]


@dataclass(frozen=True)
class Chain:
    """What a file holds, every line checked.

    Attributes:
        rows: One dictionary a line.
        head: Hash of the last line.
        size_bytes: Length of the checked lines; the rest is a line cut off by a crash.
        torn_bytes: Length of that rest.
        closed: False when only the newline of the last line is missing.
    """

    rows: tuple[Row, ...] = ()
    head: str = START
    size_bytes: int = 0
    torn_bytes: int = 0
    closed: bool = True


@contextmanager
def locked(path: Path, *, write: bool, create: bool = False) -> Iterator[int]:
    """A descriptor of the file at `path` that no other writer (or reader, if `write`) holds.

    Args:
        path: The file; no link is followed.
        write: Whether to keep everyone else out, or writers only.
        create: Whether to make the file, the owner's alone, if it is missing.

    Raises:
        PrivacyError: If the file cannot be opened.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise PrivacyError(
            f"ledger {path.stem} cannot be opened ({error.strerror}), so nothing may be released; "
            "put the file back or give its owner access"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if write else fcntl.LOCK_SH)
        yield descriptor
    finally:
        os.close(descriptor)


def read(descriptor: int, *, name: str) -> Chain:
    """The lines of an open file.

    Args:
        descriptor: From `locked`.
        name: What messages call the file.

    Raises:
        PrivacyError: Naming the first line that is not what was written.
    """
    content = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    *lines, rest = content.split(b"\n")
    cut_off = bool(rest) and not _begins_with_an_object(rest)
    if rest and not cut_off:
        lines.append(rest)
    rows: list[Row] = []
    for line in lines:
        rows.append(_checked(line, rows, name=name))
    if cut_off:
        log.warning("ledger %s: a last line cut off after %d bytes is set aside", name, len(rest))
    torn_bytes = len(rest) if cut_off else 0
    return Chain(
        rows=tuple(rows),
        head=_head(rows),
        size_bytes=len(content) - torn_bytes,
        torn_bytes=torn_bytes,
        closed=cut_off or not rest,
    )


def append(descriptor: int, chain: Chain, row: Row, *, name: str) -> Chain:
    """The chain with one more line, once that is on the disk.

    Args:
        descriptor: From `locked`, for writing.
        chain: What `read` found under the same lock.
        row: The new line, without seq, previous and hash.
        name: What messages call the file.

    Raises:
        PrivacyError: If the line could not be written; the file then counts as before.
    """
    full = {"seq": len(chain.rows), **row, "previous": chain.head}
    body = json.dumps(full, allow_nan=False).encode()
    digest = hashlib.sha256(body).hexdigest()
    line = body[:-1] + _SEAM + digest.encode() + b'"}\n'
    written = (b"" if chain.closed else b"\n") + line
    try:
        os.ftruncate(descriptor, chain.size_bytes)
        if os.pwrite(descriptor, written, chain.size_bytes) != len(written):
            raise OSError(None, "no space left")
        os.fsync(descriptor)
    except OSError as error:
        with suppress(OSError):  # what then stays is a line cut off, or one that counts as spent
            os.ftruncate(descriptor, chain.size_bytes)
        raise PrivacyError(
            f"ledger {name} could not be written ({error.strerror}), so nothing may be released; free some space"
        ) from error
    return Chain((*chain.rows, {**full, "hash": digest}), digest, chain.size_bytes + len(written))


def _checked(line: bytes, before: list[Row], *, name: str) -> Row:
    number = len(before) + 1
    body, seal = line[:-_SEAL] + b"}", line[-_SEAL:]
    if seal != _SEAM + hashlib.sha256(body).hexdigest().encode() + b'"}':
        raise _broken(name, number, "it was changed after it was written")
    row: Row = json.loads(line)
    if row["seq"] != len(before) or row["previous"] != _head(before):
        raise _broken(name, number, "it does not follow from the line before")
    return row


def _head(rows: list[Row]) -> str:
    return str(rows[-1]["hash"]) if rows else START


def _broken(name: str, number: int, why: str) -> PrivacyError:
    return PrivacyError(
        f"ledger {name}, line {number}: {why}. Nothing is lost, but nothing more can be charged, and so nothing "
        "released, until someone responsible has looked: keep this file, find out what touched it, and put "
        "back the last good copy."
    )


def _begins_with_an_object(rest: bytes) -> bool:
    """Whether `rest` holds a whole JSON object: then it is a line (perhaps altered), not half of one."""
    try:
        json.JSONDecoder().raw_decode(rest.decode("utf-8", "replace"))
    except ValueError:
        return False
    return True
