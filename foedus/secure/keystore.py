"""A site's keys, pinned roster, session counter and session in progress, in a folder only it can read.

Every change is on disk before the answer it belongs to leaves, so a process that dies between
two legs forgets nothing and repeats nothing.
"""

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field

from foedus import files
from foedus.errors import RunError, SecureSumError
from foedus.secure.roster import Roster, fingerprint
from foedus.secure.state import State
from foedus.secure.wire import MAX_SESSION, Bytes32, Message, Signed

IDENTITY, ROSTER, COUNTER, SESSION, SUMMED, LOCK = (
    "identity.json",
    "roster.json",
    "counter.json",
    "session.json",
    "summed.json",
    ".lock",
)
MOST_AHEAD = 24 * 3600 * 1_000_000
"""Microseconds that a session's number may be ahead of this site's clock."""
MessageT = TypeVar("MessageT", bound=Message)
SignedT = TypeVar("SignedT", bound=Signed)


class Identity(Message):
    """A site's Ed25519 private key."""

    title: ClassVar[str] = "identity.json in the site's keystore"
    private: Bytes32


class Counter(Message):
    """The last session this site took part in."""

    title: ClassVar[str] = "counter.json in the site's keystore"
    session: int = Field(ge=0, le=MAX_SESSION)


class Summed(Message):
    """Requests whose noised answers this site helped to unmask: what was asked (hex) to the digest of the survivors."""

    title: ClassVar[str] = "summed.json in the site's keystore"
    requests: dict[str, Bytes32] = {}


class Keystore:
    """The folder. Open it again in every process; hold `locked()` while reading and then writing.

    Args:
        folder: Mode 0700; the files in it have mode 0600.

    Raises:
        SecureSumError: If there is no identity in it, or others can read it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            _refuse_others(folder)
            for path in folder.glob("*.json"):
                with suppress(FileNotFoundError):  # another process has finished its session
                    _refuse_others(path)
        except OSError as error:
            raise SecureSumError(f"the site's keystore cannot be opened ({error.strerror})") from None
        self._key = Ed25519PrivateKey.from_private_bytes(self._required(IDENTITY, Identity).private)
        self.public_key = self._key.public_key().public_bytes_raw()

    @classmethod
    def create(cls, folder: Path) -> "Keystore":
        """The keystore in `folder`, with a new identity if it has none; an existing one is kept."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _refuse_others(folder)
            with _lock(folder):
                if not (folder / IDENTITY).exists():
                    private = Ed25519PrivateKey.generate().private_bytes_raw()
                    _write(folder / COUNTER, Counter(session=0))
                    _write(folder / IDENTITY, Identity(private=private))
        except OSError as error:
            raise SecureSumError(f"the site's keystore cannot be made ({error.strerror})") from None
        return cls(folder)

    def fingerprint(self) -> str:
        """This site's identity, for people to compare."""
        return fingerprint(self.public_key)

    def sign(self, draft: SignedT) -> SignedT:
        """`draft` under this site's signature."""
        return draft.model_copy(update={"signature": self._key.sign(draft.signed_bytes())})

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone with the folder: two legs at once could otherwise answer from the same state."""
        with _lock(self._folder):
            for left_behind in self._folder.glob(".*.json.*"):  # by a process killed while writing
                _erase(left_behind)
            yield

    def pin(self, roster: Roster, *, replace: bool = False) -> None:
        """Keep `roster` as the one this site takes part in; a session in progress ends if it changes.

        Raises:
            SecureSumError: If this site's key is not on it, or another is pinned and not `replace`.
        """
        if self.public_key not in roster.sites.values():
            raise SecureSumError(
                f"the roster does not hold this site's key ({self.fingerprint()}); enrol this site first"
            )
        with self.locked():
            pinned = self._read(ROSTER, Roster)
            if pinned is not None and pinned.digest == roster.digest:
                return
            if pinned is not None and not replace:
                raise SecureSumError(
                    f"another roster is pinned ({pinned.fingerprint()}) than the one offered "
                    f"({roster.fingerprint()}); compare fingerprints with the other sites, then pin it anew"
                )
            self.save(None)
            _write(self._folder / ROSTER, roster)

    def roster(self) -> Roster:
        """The pinned roster.

        Raises:
            SecureSumError: If none is pinned.
        """
        return self._required(ROSTER, Roster)

    def name(self) -> str:
        """This site's name on the pinned roster."""
        names = [name for name, key in self.roster().sites.items() if key == self.public_key]
        if not names:
            raise SecureSumError("the pinned roster does not hold this site's key; pin the right one")
        return names[0]

    def last_session(self) -> int:
        """The last session this site took part in; 0 before the first."""
        return self._required(COUNTER, Counter).session

    def advance(self, session: int) -> None:
        """Move the counter, and forget the session before.

        Raises:
            SecureSumError: If the number was used or passed before, or is from the future: numbers are microseconds
                since 1970 and only go up, so one of a year to come would be this site's last.
        """
        last = self.last_session()
        if session > time.time_ns() // 1000 + MOST_AHEAD:
            raise SecureSumError(
                f"session {session} is more than a day ahead of this site's clock, and numbers only go up; set the "
                "clocks of both sides"
            )
        if session <= last:
            raise SecureSumError(
                f"session {session} was used before (the last was {last}); numbers only go up: begin a new one"
            )
        _write(self._folder / COUNTER, Counter(session=session))
        self.save(None)

    def load(self) -> State | None:
        """The session in progress."""
        return self._read(SESSION, State)

    def save(self, state: State | None) -> None:
        """Replace the session in progress; None, or one with no sum left, erases it."""
        if state is not None and not state.finished:
            _write(self._folder / SESSION, state)
        else:
            _erase(self._folder / SESSION)

    def check_summed(self, request: bytes, survivors: bytes) -> None:
        """Refuse a second sum of the same noised answers over other sites.

        Args:
            request: 32 bytes that stand for everything that was asked.
            survivors: 32 bytes that stand for the sites.

        Raises:
            SecureSumError: If this site helped to unmask one already.
        """
        before = self._summed().get(request.hex(), survivors)
        if before != survivors:
            raise SecureSumError(
                "these noised contributions were summed before over other sites; the difference of the two sums "
                "would be one site's own, with less noise than was promised: ask again when the same sites answer, "
                "or begin a new run"
            )

    def note_summed(self, request: bytes, survivors: bytes) -> None:
        """Remember that this site helps to unmask the answers to `request`, over these sites and no others.

        Raises:
            SecureSumError: As `check_summed`, or if it cannot be written.
        """
        self.check_summed(request, survivors)
        if request.hex() not in (known := self._summed()):
            _write(self._folder / SUMMED, Summed(requests={**known, request.hex(): survivors}))

    def _summed(self) -> Mapping[str, bytes]:
        found = self._read(SUMMED, Summed)
        return {} if found is None else found.requests

    def _required(self, name: str, kind: type[MessageT]) -> MessageT:
        found = self._read(name, kind)
        if found is None:
            raise SecureSumError(f"the site's keystore holds no {name}; create it, then pin the roster")
        return found

    def _read(self, name: str, kind: type[MessageT]) -> MessageT | None:
        path = self._folder / name
        try:
            _refuse_others(path)
            return kind.decode(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SecureSumError(f"{name} in the site's keystore cannot be read ({error.strerror})") from None


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    try:
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise SecureSumError(f"the site's keystore cannot be locked ({error.strerror})") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _write(path: Path, message: Message) -> None:
    try:
        files.write_bytes(path, message.encode().encode("ascii"), mode=0o600)
    except RunError as error:
        raise SecureSumError(
            f"{path.name} in the site's keystore cannot be written; nothing was sent"
        ) from error


def _erase(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise SecureSumError(
            f"a file in the site's keystore cannot be erased ({error.strerror}); nothing was sent"
        ) from None


def _refuse_others(path: Path) -> None:
    if path.stat().st_mode & 0o077:
        what, wanted = ("folder", "700") if path.is_dir() else (path.name, "600")
        raise SecureSumError(
            f"the site's keystore ({what}) can be read by others on its machine; run chmod {wanted} on it"
        )
