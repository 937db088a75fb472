"""What every privacy ledger of a site says, at a glance."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foedus.errors import PrivacyError
from foedus.privacy import chain
from foedus.privacy.ledger import COMMIT, RESERVE, Ledger


@dataclass(frozen=True)
class ChainStatus:
    """One chain in a ledger folder, as its last line has it.

    Attributes:
        name: Of its file.
        data: Fingerprint of the data set.
        unit: Who is protected.
        epsilon: Spent, at `delta`.
        delta: Of the last reservation.
        cap: At the last reservation.
        reserved: Reservations.
        committed: Of these, how many were followed by their release.
        last: Time of the last line (UTC, ISO 8601).
        problem: Why the chain cannot be believed; empty when it can.
    """

    name: str
    data: str = ""
    unit: str = ""
    epsilon: float = 0.0
    delta: float = 0.0
    cap: float = 0.0
    reserved: int = 0
    committed: int = 0
    last: str = ""
    problem: str = ""


def status(folder: Path) -> list[ChainStatus]:
    """Every chain in a ledger folder, also those of data that have changed since; oldest first."""
    found = [_status(path) for path in folder.glob("*.jsonl")]
    return sorted(found, key=lambda one: (one.last, one.name))


def heads(folder: Path) -> dict[str, list[str]]:
    """Ledger to the hashes of its lines, oldest first; a ledger that cannot be believed has none."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        try:
            with chain.locked(path, write=False) as file:
                found[path.stem] = [row["hash"] for row in chain.read(file, name=path.stem).rows]
        except PrivacyError:
            found[path.stem] = []
    return found


def exported(folder: Path, *, cap: float, delta: float) -> list[dict[str, Any]]:
    """Every ledger with all its lines, recomputed, for an auditor; see `Ledger.export`.

    Raises:
        PrivacyError: If a chain is broken or empty.
    """
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        with chain.locked(path, write=False) as file:
            rows = chain.read(file, name=path.stem).rows
        if not rows:
            raise PrivacyError(f"ledger {path.stem} was emptied; put back the last good copy")
        ledger = Ledger(path, rows[0]["data"], rows[0]["unit"], cap, delta, "add-remove")
        found.append({"ledger": path.stem, **ledger.export()})
    return found


def _status(path: Path) -> ChainStatus:
    try:
        with chain.locked(path, write=False) as file:
            rows = chain.read(file, name=path.stem).rows
    except PrivacyError as error:
        return ChainStatus(path.stem, problem=str(error))
    if not rows:
        return ChainStatus(path.stem, problem="it holds no line yet")
    reserved = [row for row in rows if row["state"] == RESERVE]
    last = reserved[-1] if reserved else {"epsilon_after": 0.0, "delta": 0.0, "cap": 0.0}
    return ChainStatus(
        name=path.stem,
        data=rows[0]["data"],
        unit=rows[0]["unit"],
        epsilon=last["epsilon_after"],
        delta=last["delta"],
        cap=last["cap"],
        reserved=len(reserved),
        committed=sum(row["state"] == COMMIT for row in rows),
        last=rows[-1]["time"],
    )
