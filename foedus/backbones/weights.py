"""Weight files, read without ever running what is in them. torch is imported when a file is read."""

import hashlib
import io
import pickle
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from foedus import files
from foedus.errors import BackboneError

if TYPE_CHECKING:
    import torch

SAFETENSORS = ".safetensors"
TORCH_SUFFIXES = (".pth", ".pt", ".bin")

Stamp = tuple[tuple[str, int, int], ...]
"""Path, size and time of change of some files: as long as these stay, so do the contents."""


def stamp(*paths: Path) -> Stamp:
    """What tells one state of the files from another.

    Raises:
        BackboneError: If one is missing.
    """
    try:
        return tuple((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in paths)
    except OSError as error:
        raise BackboneError(
            f"{Path(error.filename).name} cannot be read ({error.strerror}); check the path."
        ) from None


@lru_cache(maxsize=64)
def sha256_of(stamped: Stamp) -> str:
    """sha256 (hex) of one file, or of the "name hash" lines of several."""
    return combined({Path(name).name: _sha256(Path(name)) for name, _, _ in stamped})


def combined(hashes: Mapping[str, str]) -> str:
    """The only hash, or the sha256 (hex) of the "name hash" lines of several files."""
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    lines = "".join(f"{name} {value}\n" for name, value in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _sha256(path: Path) -> str:
    try:
        return files.sha256_file(path)
    except OSError as error:
        raise BackboneError(f"{path.name} cannot be read ({error.strerror}); check the path.") from None


def require_pinned(path: Path, sha256: str) -> None:
    """Refuse a file that is not the one this version of Foedus was checked with.

    Raises:
        BackboneError: If its hash is another one.
    """
    found = _sha256(path)
    if found != sha256:
        raise BackboneError(
            f"{path.name} is not the file Foedus knows (its sha256 is {found[:16]}…, expected {sha256[:16]}…); "
            "install its package again."
        )


def read_state(path: Path) -> "dict[str, torch.Tensor]":
    """Name to tensor, on the CPU.

    safetensors holds nothing but tensors; a .pth is read by torch's restricted reader, which
    knows tensors and plain containers and refuses every other Python object.

    Raises:
        BackboneError: If the file is missing, damaged, of another kind, or holds anything else.
    """
    suffix = path.suffix.lower()
    if suffix not in (SAFETENSORS, *TORCH_SUFFIXES):
        raise BackboneError(f"{path.name} is neither .safetensors nor .pth; save the weights as safetensors.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BackboneError(f"{path.name} cannot be read ({error.strerror}); check the path.") from None
    return _from_safetensors(path, content) if suffix == SAFETENSORS else _from_torch(path, content)


def _from_safetensors(path: Path, content: bytes) -> "dict[str, torch.Tensor]":
    import safetensors.torch
    from safetensors import SafetensorError

    try:
        state: dict[str, torch.Tensor] = safetensors.torch.load(content)
    except SafetensorError as error:
        raise BackboneError(f"{path.name} is not a safetensors file, or is cut off ({error}).") from None
    return state


def _from_torch(path: Path, content: bytes) -> "dict[str, torch.Tensor]":
    import torch

    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise BackboneError(
            f"{path.name} holds Python objects besides tensors, which could run code; "
            "save the state_dict alone, as safetensors."
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise BackboneError(f"{path.name} is not a PyTorch file, or is cut off.") from error
    if not isinstance(state, Mapping) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise BackboneError(
            f"{path.name} is not a plain state_dict (name to tensor); save the state_dict alone, as safetensors."
        )
    return {str(name): value for name, value in state.items()}


def load_strictly(model: "torch.nn.Module", state: "Mapping[str, torch.Tensor]", *, name: str) -> None:
    """Put `state` into `model`; every parameter and buffer must be there, and nothing else.

    Raises:
        BackboneError: Naming what is missing, left over, or of another shape.
    """
    own = model.state_dict()
    shapes = [
        f"{key} has shape {list(state[key].shape)}, expected {list(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    problems = [
        *_some("missing", [key for key in own if key not in state]),
        *_some("left over", [key for key in state if key not in own]),
        *_some("of another shape", shapes),
    ]
    if problems:
        raise BackboneError(f"{name}: the weights do not fit the network; " + "; ".join(problems) + ".")
    model.load_state_dict(dict(state), strict=True)


def _some(what: str, found: list[str], shown: int = 8) -> list[str]:
    if not found:
        return []
    more = f" and {len(found) - shown} more" if len(found) > shown else ""
    return [f"{len(found)} {what} ({', '.join(found[:shown])}{more})"]
