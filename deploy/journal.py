"""What monitoring reads: one line a record without its input, and histograms of what went through.

Lines hold the id the client gave, the probabilities and the decision; the file is for the site's own
eyes. Histograms are sums over at least `WINDOW` records, so no file tells of a single one.
"""

import json
import logging
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from deploy.answering import Answers
from foedus import files
from foedus.examples import Examples
from foedus.histograms import UNLABELLED, Histograms
from foedus.journals import PREDICTIONS, WINDOWS
from foedus.statistic import Arrays, add

log = logging.getLogger(__name__)
GATE_FILE = "gate.json"
WINDOW = 500
"""Records in one file of histograms."""


@dataclass
class Journal:
    """A folder that a service writes and `foedus monitor` reads.

    Attributes:
        path: The folder.
    """

    path: Path
    _sums: dict[tuple[str, str], tuple[int, Arrays]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(
        self, model: str, version: str, request_id: str, answers: Answers, histograms: Histograms
    ) -> None:
        """Append a request; a full disk costs the lines, never the answer."""
        if answers.raw is None or answers.standard is None:
            return
        now = datetime.now(UTC)
        n = len(answers.labels)
        lines = [
            {
                "time": now.isoformat(timespec="milliseconds"),
                "id": request_id if n == 1 else f"{request_id}/{i}",
                "version": version,
                "label": answers.labels[i],
                "probabilities": [round(p, 6) for p in answers.raw[i].tolist()],
                "abstain": bool(answers.abstain[i]),
            }
            for i in range(n)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        examples = Examples(answers.standard, np.full(n, UNLABELLED, np.int64))
        sums = histograms.measure(examples)
        with self._lock:
            try:
                self._append(self.path / model / PREDICTIONS / f"{now:%Y-%m-%d}.jsonl", text)
                self._add(model, version, n, sums, now)
            except OSError as error:
                log.warning("the journal in %s cannot be written: %s", self.path, error.strerror)

    def close(self) -> None:
        """Write the windows that are not full."""
        with self._lock:
            for (model, version), (n, sums) in self._sums.items():
                self._write(model, version, n, sums, datetime.now(UTC))
            self._sums.clear()

    def _add(self, model: str, version: str, n: int, sums: Arrays, now: datetime) -> None:
        so_far, total = self._sums.get((model, version), (0, None))
        n, total = so_far + n, sums if total is None else add(total, sums)
        if n < WINDOW:
            self._sums[model, version] = (n, total)
            return
        self._sums.pop((model, version), None)
        self._write(model, version, n, total, now)

    def _write(self, model: str, version: str, n: int, sums: Arrays, now: datetime) -> None:
        name = f"{now:%Y%m%dT%H%M%S.%f}-v{version}-{n}.safetensors"
        files.write_arrays(self.path / model / WINDOWS / name, sums)

    def _append(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        with path.open("a", encoding="utf-8") as file:
            file.write(text)


def read_gate(path: Path, model: str) -> dict[str, Any]:
    """What monitoring decided last about a model: action "none", "warn", "shadow" or "stop", and reasons."""
    file = path / model / GATE_FILE
    return dict(files.read_json(file)) if file.exists() else {"action": "none", "reasons": []}
