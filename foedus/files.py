"""Atomic writes: a reader sees the old file or the new one, never half of it."""

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from foedus.errors import RunError
from foedus.statistic import Arrays


def write_bytes(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by `content`, durably.

    Raises:
        RunError: If the disk is full or the folder cannot be written; `path` is then as it was.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise RunError(
            f"{path} could not be written ({error.strerror}); what was there before is intact. "
            "Free some space or make the folder writable, then run it again (foedus resume for a run)."
        ) from error


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
    content = save({name: np.asarray(value, order="C") for name, value in arrays.items()})
    write_bytes(path, content)
    return hashlib.sha256(content).hexdigest()


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
