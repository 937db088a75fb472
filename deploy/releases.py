"""Releases of one model: numbered bundles, and a signed, hash-chained log of what became of each.

candidate → audited → approved → released → withdrawn. What is served is the version released last;
a rollback releases an earlier one again. Lines are signed by the coordinator and never rewritten.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from deploy.bundle import COORDINATOR
from fairness import signing
from fairness.signing import PublicKey, Signature, Signer
from foedus.config import Section
from foedus.errors import ApprovalError, ReleaseError

LOG_FILE = "log.jsonl"
State = Literal["candidate", "audited", "approved", "released", "withdrawn"]
STEPS: tuple[State, ...] = ("candidate", "audited", "approved", "released")


class Entry(Section):
    """One line of log.jsonl without its signature."""

    model: str
    version: int = Field(ge=1)
    state: State
    time: str
    reason: str | None = None
    evidence: str | None = None
    """sha256 of what the state rests on: model, audit, approval, manifest."""
    previous: str
    """sha256 of the line before; zeros in the first."""


class Line(Section):
    """One line of log.jsonl."""

    entry: Entry
    signature: Signature


@dataclass(frozen=True)
class Releases:
    """The releases of one model.

    Attributes:
        path: Folder with log.jsonl and one folder a version.
    """

    path: Path

    def bundle(self, version: int) -> Path:
        """Where a version lies."""
        return self.path / f"{version:04d}"

    def next_version(self) -> int:
        """The number of the next release."""
        return max((entry.version for entry in self.entries()), default=0) + 1

    def record(
        self,
        state: State,
        signer: Signer,
        *,
        model: str,
        version: int,
        reason: str | None = None,
        evidence: str | None = None,
    ) -> Entry:
        """Append a signed line, durably."""
        entry = Entry(
            model=model,
            version=version,
            state=state,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            reason=reason,
            evidence=evidence,
            previous=self._head(),
        )
        signature = signer.sign(signing.digest_of(entry.model_dump()), purpose="foedus release v1")
        line = json.dumps(Line(entry=entry, signature=signature).model_dump(), sort_keys=True) + "\n"
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / LOG_FILE).open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        return entry

    def entries(self, keys: Sequence[PublicKey] = ()) -> list[Entry]:
        """The log, checked; oldest first.

        Args:
            keys: Whose signatures count (those of the role coordinator), known from elsewhere; empty believes
                the signatures themselves.

        Raises:
            ReleaseError: Naming the first line that was altered, or that none of the keys signed.
        """
        path, coordinators = self.path / LOG_FILE, [key for key in keys if key.role == COORDINATOR]
        raw = path.read_bytes().splitlines() if path.exists() else []
        previous, found = "0" * 64, []
        for number, text in enumerate(raw, start=1):
            try:
                line = Line.model_validate_json(text)
                digest = signing.digest_of(line.entry.model_dump())
                signing.verify(line.signature, digest=digest, purpose="foedus release v1")
            except (ValidationError, ApprovalError) as error:
                problem = str(error).splitlines()[0]
                raise ReleaseError(f"{path}: line {number} is not as it was written: {problem}") from None
            if line.entry.previous != previous:
                raise ReleaseError(f"{path}: line {number} does not follow from the one before")
            if keys and not any(signing.made_by(line.signature, key) for key in coordinators):
                raise ReleaseError(f"{path}: line {number} is signed by a key that was not given")
            previous = hashlib.sha256(text).hexdigest()
            found.append(line.entry)
        return found

    def states(self, keys: Sequence[PublicKey] = ()) -> dict[int, State]:
        """The last state of every version."""
        return {entry.version: entry.state for entry in self.entries(keys)}

    def current(self, keys: Sequence[PublicKey] = ()) -> int:
        """The version that is to be served: the one released last.

        Raises:
            ReleaseError: If there is none, or it was withdrawn.
        """
        entries, states = self.entries(keys), self.states(keys)
        released = [entry.version for entry in entries if entry.state == "released"]
        if not released:
            raise ReleaseError(f"nothing was released in {self.path}; see foedus release")
        if states[released[-1]] == "withdrawn":
            raise ReleaseError(
                f"version {released[-1]} in {self.path} was withdrawn; release another, or go back to an earlier one "
                "with foedus release --rollback"
            )
        return released[-1]

    def withdraw(self, signer: Signer, *, version: int, reason: str) -> Entry:
        """Say that a version must not be served any more.

        Raises:
            ReleaseError: If it was never released, or is withdrawn already.
        """
        entry = self._released(version)
        return self.record("withdrawn", signer, model=entry.model, version=version, reason=reason)

    def rollback(self, signer: Signer, *, version: int | None, reason: str) -> Entry:
        """Release an earlier version again: `version`, or the one before the one that is served.

        Raises:
            ReleaseError: If there is none, or it was withdrawn.
        """
        if version is None:
            order = [entry.version for entry in self.entries() if entry.state == "released"]
            states = self.states()
            usable = [v for v in order if v != order[-1] and states[v] == "released"]
            if not usable:
                raise ReleaseError(f"{self.path} has no earlier version that was not withdrawn")
            version = usable[-1]
        entry = self._released(version)
        return self.record(
            "released", signer, model=entry.model, version=version, reason=reason, evidence=entry.evidence
        )

    def _released(self, version: int) -> Entry:
        found = [entry for entry in self.entries() if entry.version == version]
        if not found or found[-1].state != "released":
            state = found[-1].state if found else "not there"
            raise ReleaseError(f"version {version} in {self.path} is {state}, not released")
        return found[-1]

    def _head(self) -> str:
        path = self.path / LOG_FILE
        lines = path.read_bytes().splitlines() if path.exists() else []
        return hashlib.sha256(lines[-1]).hexdigest() if lines else "0" * 64


def find_current(path: Path, keys: Sequence[PublicKey]) -> Path:
    """The bundle that `path` stands for: itself, or the version its release log says is current.

    Raises:
        ReleaseError: If there is none, or it was withdrawn.
    """
    if (path / LOG_FILE).exists():
        releases = Releases(path)
        return releases.bundle(releases.current(keys))
    log = Releases(path.parent)
    listed = (log.path / LOG_FILE).exists() and path.name.isdigit()
    if listed and log.states(keys).get(int(path.name)) == "withdrawn":
        raise ReleaseError(f"{path} was withdrawn; it is not served")
    return path
