"""What is known of each image file, remembered in the site's .foedus folder: decoded once, then only stat."""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from foedus.data.images import UnreadableImageError, decode
from foedus.errors import RunError
from foedus.files import write_bytes

logger = logging.getLogger(__name__)

LOCAL_FOLDER = ".foedus"
"""The platform's own folder inside a site's folder; 0700, never leaves the site."""
VERSION = 2
"""Of what an index entry means; raise it when `decode` accepts other files than before."""


@dataclass(frozen=True)
class Entry:
    """One image file: as it was when it was decoded, and why it cannot be used, if so."""

    size_bytes: int
    mtime_ns: int
    sha256: str
    problem: str | None


def verify(folder: Path, files: dict[str, Path]) -> dict[str, Entry]:
    """Decode every image that has not been decoded before, and remember the outcome.

    Args:
        folder: The site's folder; the index is kept in its .foedus.
        files: Name to file; the files exist.

    Returns:
        Name to what is known of it. A file that cannot be opened has sha256 "" and is not remembered.
    """
    stats = {name: path.stat() for name, path in files.items()}
    seen = {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}
    index = folder / LOCAL_FOLDER / f"index-{_fingerprint(seen)}.json"
    known = _read(index) if index.exists() else _read_latest(index.parent)
    entries, new = {}, 0
    for name, path in files.items():
        entry = known.get(name)
        if entry is None or (entry.size_bytes, entry.mtime_ns) != seen[name]:
            entry = _look(path, *seen[name])
            new += entry.sha256 != ""
        entries[name] = entry
    if new or not index.exists():
        logger.info("%d of %d images decoded and remembered", new, len(files))
        _write(index, {name: entry for name, entry in entries.items() if entry.sha256})
    return entries


def _look(path: Path, size_bytes: int, mtime_ns: int) -> Entry:
    try:
        content = path.read_bytes()
    except OSError as error:
        return Entry(size_bytes, mtime_ns, "", f"image file cannot be opened ({error.strerror})")
    problem = None
    try:
        decode(content, suffix=path.suffix)
    except UnreadableImageError as error:
        problem = str(error)
    return Entry(size_bytes, mtime_ns, hashlib.sha256(content).hexdigest(), problem)


def _fingerprint(seen: dict[str, tuple[int, int]]) -> str:
    lines = json.dumps([VERSION, sorted(seen.items())])
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def _read(index: Path) -> dict[str, Entry]:
    """The entries of an index; none if it is damaged or older than this version."""
    try:
        content: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            return {}
        return {name: Entry(**entry) for name, entry in content["files"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        logger.warning("the image index is unreadable; every image is decoded again")
        return {}


def _read_latest(folder: Path) -> dict[str, Entry]:
    """Entries of the index that was written last, for the files that have not changed since."""
    try:
        earlier = sorted(folder.glob("index-*.json"), key=lambda path: path.stat().st_mtime_ns)
    except FileNotFoundError:  # another process has just replaced it
        return {}
    return _read(earlier[-1]) if earlier else {}


def _write(index: Path, entries: dict[str, Entry]) -> None:
    """Replace all earlier indexes; a folder that cannot be written costs time, not the run."""
    files = {name: asdict(entry) for name, entry in entries.items()}
    content = json.dumps({"version": VERSION, "files": files}, sort_keys=True)
    try:
        index.parent.mkdir(mode=0o700, exist_ok=True)
        index.parent.chmod(0o700)
        write_bytes(index, content.encode(), mode=0o600)
        for earlier in index.parent.glob("index-*.json"):
            if earlier != index:
                earlier.unlink(missing_ok=True)
    except (OSError, RunError) as error:
        logger.warning("the image index could not be kept (%s); the next start decodes again", error)
