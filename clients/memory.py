"""What a site remembers of a run between rounds: its own head, model, norms or control variate. Stays here."""

import re
from dataclasses import dataclass
from pathlib import Path

from foedus import files
from foedus.statistic import Arrays

FOLDER = ".foedus/own"
"""Below the site's folder."""


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
