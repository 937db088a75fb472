"""A coordinator's folder as one sealed file, taken while it runs, and back again.

In the file is everything that cannot be made anew: authority, identity, tokens, approved sites, the
server's state, the audit log and the run folders. Logs and unpacked programs are left out.
"""

import io
import os
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import sqlalchemy
from flwr.supercore.state.schema.corestate_models import Task

from foedus import __version__, files
from foedus.errors import ConfigError, RunError
from foedus.runs import LATEST, LOG_FILE, STATE_FILE
from server.home import IDENTITY, SECRET, SETTINGS, TOKENS, Home
from server.sealed import SealedReader, SealedWriter

PRIVATE_NAMES = ("flwr.supercore.state.schema.corestate_models:Task",)
"""Flower's names that are used here and are not public; a test imports each."""
NOTE = "backup.json"
KEPT = (SETTINGS, IDENTITY, SECRET, TOKENS, "audit.jsonl", "tokens", "pki", "sites", "kits", "runs")
STATE = "state/superlink.db"
FIRST = (STATE_FILE, LATEST, LOG_FILE)
"""Of a run folder: read before what they point to, which is written before them."""
ENDED = "its server was restored from a backup"


def backup(home: Home, file: Path, *, passphrase: str) -> int:
    """Write a backup; the coordinator may be running.

    The server's state is a snapshot by SQLite's own backup; run folders are copied after it, so that
    a run the snapshot does not know is submitted again from its last round.

    Args:
        home: The coordinator's folder.
        file: New; it is complete or not there, with mode 0600.
        passphrase: At least 12 characters; without it the file is worth nothing.

    Returns:
        Number of files in it.

    Raises:
        RunError: If the passphrase is too short, `file` exists or it cannot be written.
    """
    if file.exists():
        raise RunError(f"{file} exists; a backup is never overwritten: choose another name.")
    try:
        with tempfile.TemporaryDirectory(dir=home.folder) as scratch, _new_file(file) as out:
            sealed = SealedWriter(out, passphrase=passphrase)
            count = 0
            with tarfile.open(fileobj=sealed, mode="w|", format=tarfile.PAX_FORMAT) as archive:
                _add(archive, NOTE, files.canonical_json({"foedus": __version__}).encode(), 0o644)
                if (home.folder / STATE).exists():
                    snapshot = Path(scratch) / "snapshot.db"
                    _snapshot(home.folder / STATE, snapshot)
                    archive.add(snapshot, STATE, filter=_plain)
                    count += 1
                for path in _kept(home.folder):
                    try:
                        content, mode = _content(path), path.stat().st_mode & 0o777
                    except FileNotFoundError:  # removed since it was listed
                        continue
                    _add(archive, path.relative_to(home.folder).as_posix(), content, mode)
                    count += 1
            sealed.finish()
    except OSError as error:
        raise RunError(f"{file} could not be written ({error.strerror or error}); there is none.") from error
    return count


def restore(file: Path, folder: Path, *, passphrase: str) -> Home:
    """A coordinator's folder from a backup, complete or not at all.

    Runs that were under way are ended in the server's state, since it knows the folder they were in;
    `foedus coordinator up` submits them again from their last round.

    Args:
        file: Written by `backup`.
        folder: New or empty.
        passphrase: Of the backup.

    Raises:
        ConfigError: If `folder` is not empty.
        RunError: If the file is damaged, another passphrase's, or holds what a backup does not.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError("--home", [f"{folder} is not empty; restore into a new folder"])
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        with file.open("rb") as source:
            sealed = cast(BinaryIO, io.BufferedReader(SealedReader(source, passphrase=passphrase)))
            _extract(sealed, scratch)
        Home.open(scratch)
        if (scratch / STATE).exists():
            _end_runs(scratch / STATE)
        if folder.exists():
            folder.rmdir()
        scratch.rename(folder)
    except OSError as error:
        raise RunError(f"{error.filename}: {error.strerror}; nothing was restored.") from None
    except tarfile.TarError:
        raise RunError(f"{file} does not hold a backup; nothing was restored.") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Home.open(folder)


def _extract(sealed: BinaryIO, folder: Path) -> None:
    with tarfile.open(fileobj=sealed, mode="r|") as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            known = path.parts[:1] and (path.parts[0] in (*KEPT, NOTE) or member.name == STATE)
            if path.is_absolute() or ".." in path.parts or not known or not member.isreg():
                raise RunError(
                    f"the backup holds '{member.name}', which no backup does; nothing was restored."
                )
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, member.mode & 0o644 | 0o600)
            content = cast(BinaryIO, archive.extractfile(member))  # a regular file has content
            with os.fdopen(handle, "wb") as out:
                shutil.copyfileobj(content, out)
    while sealed.read(1 << 20):
        """To the last chunk: a file that is cut off behind the archive's end is damaged, too."""


def _kept(folder: Path) -> Iterator[Path]:
    """Files in the order they are read."""
    for name in KEPT:
        path = folder / name
        if path.is_file():
            yield path
        elif name == "runs":
            for run in sorted(found for found in path.glob("*") if found.is_dir()):
                first = [run / part for part in FIRST if (run / part).is_file()]
                rest = [found for found in sorted(run.rglob("*")) if _is_data(found) and found not in first]
                yield from (*first, *rest)
        else:
            yield from (found for found in sorted(path.rglob("*")) if _is_data(found))


def _is_data(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and not path.name.startswith(".")


def _content(path: Path) -> bytes:
    """A file's bytes; of one that is appended to, whole lines."""
    content = path.read_bytes()
    return content[: content.rfind(b"\n") + 1] if path.suffix == ".jsonl" else content


def _snapshot(database: Path, to: Path) -> None:
    with (
        closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as live,
        closing(sqlite3.connect(to)) as copy,
    ):
        live.backup(copy)


def _end_runs(database: Path) -> None:
    with closing(sqlite3.connect(database)) as state:
        found = state.execute("PRAGMA integrity_check").fetchone()[0]
        if found != "ok":
            raise RunError(f"the server's state in the backup is damaged ({found}); nothing was restored.")
    engine = sqlalchemy.create_engine(f"sqlite:///{database}")
    ended = {"finished_at": datetime.now(UTC), "sub_status": "failed", "details": ENDED}
    with engine.begin() as connection:
        connection.execute(
            sqlalchemy.update(Task)
            .where(Task.finished_at.is_(None))
            .values(**ended, token=None, active_until=None)
        )
    engine.dispose()


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), mode
    archive.addfile(member, io.BytesIO(content))


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o600
    return member


@contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name only once it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        Path(scratch).rename(path)
    finally:
        Path(scratch).unlink(missing_ok=True)
