"""What a site remembers of a run between rounds: its own head, model, norms or control variate. Stays here."""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from foedus import files
from foedus.errors import RunError
from foedus.statistic import Arrays

FOLDER = ".foedus/own"
"""Below the site's folder."""
TRIALS = f"tune-{'[0-9a-f]' * 8}-trial-*"
"""What the trials of any search remember."""


@dataclass(frozen=True)
class Memory:
    """One site's memory of one run.

    A round that is asked for again, after a crash or in a resumed run, finds the memory as it was
    before that round, so it gives the same answer; that is why the last two are kept.

    Attributes:
        folder: The site's folder.
        run: The run's id.
    """

    folder: Path
    run: str

    @property
    def _place(self) -> Path:
        return self.folder / FOLDER / self.run

    def before(self, number: int) -> Arrays:
        """What was kept last before that round; nothing before the first."""
        earlier = [found for found in self._rounds() if found < number]
        return files.read_arrays(self._file(max(earlier))) if earlier else {}

    def latest(self) -> Arrays:
        """What was kept last; nothing before the first round."""
        rounds = self._rounds()
        return files.read_arrays(self._file(max(rounds))) if rounds else {}

    def keep(self, number: int, arrays: Arrays) -> None:
        """Remember `arrays` as of that round, and forget all but the round before it."""
        self._place.mkdir(parents=True, exist_ok=True, mode=0o700)
        files.write_arrays(self._file(number), arrays)
        rounds = self._rounds()
        needed = {number, max((found for found in rounds if found < number), default=number)}
        for found in rounds:
            if found not in needed:
                self._file(found).unlink(missing_ok=True)

    def _rounds(self) -> list[int]:
        names = [re.fullmatch(r"round-(\d+)\.safetensors", path.name) for path in self._place.glob("round-*")]
        return sorted(int(name[1]) for name in names if name)

    def _file(self, number: int) -> Path:
        return self._place / f"round-{number:05d}.safetensors"


@contextmanager
def forgotten(folder: Path, run: str) -> Iterator[None]:
    """While a search runs, its trials may remember at the site in `folder`; afterwards nothing is left.

    What a killed search left goes first. Searches share a lock: whoever gets it alone is the only
    one, so every trial there belongs to none that is running.

    Raises:
        RunError: If the site's folder cannot be written.
    """
    place = folder / FOLDER
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(place / ".search.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise RunError(f"{place} cannot be written ({error.strerror}); make it writable.") from error
    try:
        with suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(place, TRIALS)
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        _remove(place, f"{run}-*")
        os.close(handle)


def _remove(place: Path, pattern: str) -> None:
    for found in place.glob(pattern):
        shutil.rmtree(found, ignore_errors=True)
