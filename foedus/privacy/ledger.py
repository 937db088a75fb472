"""The site's privacy ledger: what its data have already given away, and the cap that ends it.

One chain of lines per data set and unit, on the site's own disk. Whoever wants to release
something reserves first: under a lock, the ledger adds the new releases to everything ever
reserved, and either refuses or has the line on the disk before anything is computed. A commit
afterwards is for the record only; a crash in between counts as spent. No coordinator can
raise the cap: it is an argument of the site's own process.
"""

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from foedus.errors import PrivacyError
from foedus.privacy import chain
from foedus.privacy.accountant import Gaussian, Relation, combine, cross_check, epsilon
from foedus.privacy.chain import Chain, Row

log = logging.getLogger(__name__)

OPEN, RESERVE, COMMIT = "open", "reserve", "commit"


@dataclass(frozen=True)
class Reservation:
    """Leave to make some releases; they count as made from now on.

    Attributes:
        seq: Number of its line.
        epsilon: Spent by all reservations up to this one.
        hash: Of its line.
    """

    seq: int
    epsilon: float
    hash: str


@dataclass(frozen=True)
class Ledger:
    """One chain; `open` makes it."""

    path: Path
    data: str
    unit: str
    cap: float
    delta: float
    relation: Relation

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        data: str,
        unit: str,
        cap_epsilon: float,
        delta: float,
        relation: Relation = "add-remove",
    ) -> "Ledger":
        """The ledger of one data set, begun if there is none.

        Args:
            folder: Where the site keeps its ledgers; made the owner's alone.
            data: Fingerprint of the data set. Other data begin another chain.
            unit: Who is protected: "record", or the column of the patient or customer id.
            cap_epsilon: Most that may ever be spent; a lower one than before holds at once.
            delta: Of the guarantee.
            relation: Of the guarantee.

        Raises:
            PrivacyError: If the cap is not a positive number, or the chain is broken.
        """
        if not 0 < cap_epsilon < float("inf"):
            raise PrivacyError(f"the cap on epsilon is {cap_epsilon}; expected a positive number, such as 8")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
        except OSError as error:
            raise PrivacyError(
                f"the ledger folder cannot be used ({error.strerror}); make it writable"
            ) from error
        others = len(list(folder.glob("*.jsonl")))
        ledger = cls(folder / f"{_key(data, unit)}.jsonl", data, unit, cap_epsilon, delta, relation)
        with chain.locked(ledger.path, write=True, create=True) as file:
            found = chain.read(file, name=ledger.path.stem)
            if not found.rows:
                row = {"time": _now(), "state": OPEN, "data": data, "unit": unit}
                chain.append(file, found, row, name=ledger.path.stem)
                _sync(folder)
                if others:
                    log.warning(
                        "the data changed: a new ledger begins beside %d earlier; see their status", others
                    )
        return ledger

    def reserve(
        self, study: str, run: str, what: str, events: Sequence[Gaussian], *, confirm: bool = False
    ) -> Reservation:
        """Charge `events` for good, before they happen.

        Args:
            study: Who asks.
            run: In which run.
            what: For what, e.g. "round 3" or "audit counts".
            events: The releases to come.
            confirm: Have the second accountant agree first (takes a second or so).

        Raises:
            PrivacyError: If the cap would be exceeded, the accountants disagree, or the ledger
                is broken or cannot be written. Nothing is charged then, and nothing may leave.
        """
        if not events:
            raise PrivacyError(f"'{what}' of study '{study}' names no release to charge")
        with chain.locked(self.path, write=True) as file:
            found = self._begun(file)
            before = _events(found)
            after = epsilon([*before, *events], self.delta, relation=self.relation)
            if not after <= self.cap:
                raise self._over_cap(study, what, before, after)
            confirmed = cross_check([*before, *events], self.delta) if confirm else None
            row: Row = {
                "time": _now(),
                "state": RESERVE,
                "study": study,
                "run": run,
                "what": what,
                "events": [{"mechanism": "gaussian", **asdict(event)} for event in events],
                "unit": self.unit,
                "relation": self.relation,
                "delta": self.delta,
                "cap": self.cap,
                "epsilon_after": after,
                "prv_epsilon_after": confirmed,
            }
            grown = chain.append(file, found, row, name=self.path.stem)
        return Reservation(len(found.rows), after, grown.head)

    def require(self, study: str, run: str, releases: Mapping[str, Gaussian]) -> None:
        """Refuse a run that could not make all its releases, before it makes the first. Charges nothing.

        Args:
            study: Who asks.
            run: Releases it has made already are not counted twice.
            releases: All it will ever make, by name.

        Raises:
            PrivacyError: If the cap would be exceeded, or the ledger is broken.
        """
        found = self._read()
        made = {row["what"] for row in found.rows if row["state"] == RESERVE and row["run"] == run}
        before = _events(found)
        after = epsilon(
            [*before, *(event for name, event in releases.items() if name not in made)],
            self.delta,
            relation=self.relation,
        )
        if not after <= self.cap:
            raise self._over_cap(study, "all releases", before, after)

    def commit(self, reservation: Reservation) -> None:
        """Note that what was reserved was released.

        Raises:
            PrivacyError: If the reservation is not in this ledger, or the ledger is broken.
        """
        with chain.locked(self.path, write=True) as file:
            found = self._begun(file)
            known = {row["seq"]: row["hash"] for row in found.rows if row["state"] == RESERVE}
            if known.get(reservation.seq) != reservation.hash:
                raise PrivacyError(
                    f"ledger {self.path.stem} holds no such reservation (line {reservation.seq + 1})"
                )
            if any(row["state"] == COMMIT and row["reserve"] == reservation.seq for row in found.rows):
                return
            row = {"time": _now(), "state": COMMIT, "reserve": reservation.seq}
            chain.append(file, found, row, name=self.path.stem)

    def events(self) -> tuple[Gaussian, ...]:
        """Everything ever reserved, equal releases counted together."""
        return combine(_events(self._read()))

    def spent(self) -> float:
        """Epsilon of everything ever reserved."""
        return epsilon(self.events(), self.delta, relation=self.relation)

    def verify(self, *, head: str | None = None) -> Chain:
        """The chain, every line checked.

        Args:
            head: A hash that someone else (an auditor) was given earlier; it must still be here,
                or the ledger was cut back or replaced.

        Raises:
            PrivacyError: Naming the first broken line, or that the head is gone.
        """
        found = self._read()
        if head is not None and all(row["hash"] != head for row in found.rows):
            raise PrivacyError(
                f"ledger {self.path.stem} no longer holds the line whose hash is {head[:12]}…: "
                "it was cut back or replaced; put back the last good copy"
            )
        return found

    def export(self) -> dict[str, Any]:
        """Everything an auditor needs to recompute it, and to see later that nothing was taken back.

        Keys: data, unit, relation, delta, cap, epsilon, prv_epsilon (the second accountant's,
        add-remove; None when it does not confirm, and `problem` then says why), head, rows.

        Raises:
            PrivacyError: If the chain is broken.
        """
        found = self._read()
        spent = _events(found)
        confirmed, problem = None, ""
        try:
            confirmed = cross_check(spent, self.delta)
        except PrivacyError as error:
            problem = str(error)
        return {
            "data": self.data,
            "unit": self.unit,
            "relation": self.relation,
            "delta": self.delta,
            "cap": self.cap,
            "epsilon": epsilon(spent, self.delta, relation=self.relation),
            "prv_epsilon": confirmed,
            "problem": problem,
            "head": found.head,
            "rows": list(found.rows),
        }

    def _read(self) -> Chain:
        with chain.locked(self.path, write=False) as file:
            return self._begun(file)

    def _begun(self, file: int) -> Chain:
        found = chain.read(file, name=self.path.stem)
        if not found.rows:
            raise PrivacyError(f"ledger {self.path.stem} was emptied; put back the last good copy")
        return found

    def _over_cap(self, study: str, what: str, before: list[Gaussian], after: float) -> PrivacyError:
        spent = epsilon(before, self.delta, relation=self.relation)
        return PrivacyError(
            f"these data may give away epsilon {self.cap:g} (delta {self.delta:g}) for each {self.unit}; "
            f"{spent:.3f} is spent and '{what}' of study '{study}' would make it {after:.3f}. Ask for fewer "
            "rounds or more noise, or ask whoever answers for these data to raise this site's cap."
        )


def _events(found: Chain) -> list[Gaussian]:
    return [
        Gaussian(event["noise_multiplier"], event["sampling"], event["steps"])
        for row in found.rows
        if row["state"] == RESERVE
        for event in row["events"]
    ]


def _key(data: str, unit: str) -> str:
    return hashlib.sha256(f"{data}\n{unit}".encode()).hexdigest()[:16]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _sync(folder: Path) -> None:
    """Make the folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
