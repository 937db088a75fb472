"""Atomic writes: a reader sees the old file or the new one, never half of it."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from foedus.errors import RunError
from foedus.statistic import Arrays


def write_bytes(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by `content`, durably.

    Raises:
        RunError: If the disk is full or the folder cannot be written; `path` is then as it was.
    """
    with _replacing(path, mode=mode) as temporary:
        temporary.write_bytes(content)


@contextmanager
def _replacing(path: Path, *, mode: int) -> Iterator[Path]:
    """A file beside `path` that takes its place, durably, once it is written."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "rb") as file:
            temporary = Path(name)
            yield temporary
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"{path} could not be written ({getattr(error, 'strerror', None) or error}); what was there before is "
            "intact. Free some space or make the folder writable, then run it again (foedus resume for a run)."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def canonical_json(value: Any) -> str:
    """JSON that is the same for the same value; not a number becomes an error, never NaN."""
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by canonical JSON."""
    write_bytes(path, canonical_json(value).encode())


def read_json(path: Path) -> Any:
    """The parsed file.

    Raises:
        RunError: If it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} does not exist; the run did not get that far.") from None
    except ValueError:
        raise RunError(f"{path} is not valid JSON; it was altered or cut off.") from None


def write_arrays(path: Path, arrays: Arrays) -> str:
    """Replace `path` by a safetensors file; returns its sha256 (hex)."""
    with _replacing(path, mode=0o644) as temporary:
        save_file({name: np.asarray(value, order="C") for name, value in arrays.items()}, temporary)
        digest = sha256_file(temporary)
    return digest


def read_arrays(path: Path, *, sha256: str | None = None) -> Arrays:
    """The arrays of a safetensors file.

    Raises:
        RunError: If it is missing, cut off, or not what `sha256` says.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise RunError(f"{path} does not exist; the run did not get that far.") from None
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise RunError(
            f"{path} is not the file that was written (its sha256 differs); restore it from a backup."
        )
    try:
        return dict(load(content))
    except Exception as error:  # safetensors has no public error type
        raise RunError(f"{path} is not a safetensors file; it was altered or cut off.") from error


def sha256_file(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
