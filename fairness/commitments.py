"""A site's commitment to the counts it gave to an audit: what an auditor on site can hold it to.

The site keeps its own tensor, as it was summed (in a private study with its noise), and a random
salt; only the salted sha256 leaves, which tells nothing about the tensor, and with the site's
signature where it has a key on a roster. Whoever is let into the site can compare the two.
"""

import hashlib
import secrets
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, ValidationError

from foedus import files
from foedus.config import Section
from foedus.door import KEYS_FOLDER
from foedus.errors import ApprovalError, SecureSumError
from foedus.secure.keystore import IDENTITY, Keystore
from foedus.secure.roster import Roster
from foedus.secure.wire import Bytes32, Message, Name, Signed, canonical
from foedus.statistic import Arrays

DOMAIN = b"foedus audit commitment v1\0"
REPORTS_FOLDER = ".foedus/reports"
"""Below the site's folder; the openings of a run's commitments lie in the run's folder there, and never leave."""
NO_SIGNATURE = bytes(64)


class Commitment(Signed):
    """What leaves a site beside its counts."""

    title: ClassVar[str] = "commitment"
    label: ClassVar[str] = "audit-commitment"
    site: Name
    run: Name
    request: Bytes32
    """Stands for everything that was asked: the model, the groups, the bins."""
    commitment: Bytes32
    signed: bool
    """False where the site has no key; the signature is then 64 zero bytes."""


class Missing(Message):
    """A site in the sum without a valid commitment."""

    title: ClassVar[str] = "entry"
    site: str
    reason: str


class Commitments(Message):
    """commitments.json: what each site in the audit's sum committed to."""

    title: ClassVar[str] = "commitments.json"
    format: Literal["foedus-commitments/1"] = "foedus-commitments/1"
    run: Name
    audit_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    roster: Roster | None
    """The keys the sites sign with; null where there are no masks."""
    sites: list[Commitment]
    missing: list[Missing]

    def to_json(self) -> str:
        """As it is written."""
        return files.canonical_json(self.model_dump(mode="json"))

    @classmethod
    def read(cls, path: Path) -> Self:
        """The file.

        Raises:
            ApprovalError: If it is missing, or not as it was written.
        """
        try:
            content = path.read_text(encoding="utf-8")
            found = cls.model_validate_json(content)
        except OSError as error:
            raise ApprovalError(f"{path} cannot be read ({error.strerror})") from None
        except (ValidationError, ValueError):
            raise ApprovalError(f"{path} holds no commitments; it was altered or cut off") from None
        if found.to_json() != content:
            raise ApprovalError(f"{path} is not as it was written; it was altered")
        return found

    def problems(self) -> list[str]:
        """Signatures that do not hold."""
        found = []
        for each in self.sites:
            try:
                check(each, run=self.run, site=each.site, roster=self.roster)
            except SecureSumError as error:
                found.append(str(error))
        return found


class Opening(Section):
    """audit-commitment.json at the site: everything the commitment was made from."""

    site: str
    run: str
    request: str
    salt: str
    """32 random bytes, hexadecimal; without it nothing about the counts can be tried out."""
    arrays: dict[str, Any]
    """Name to dtype, shape and values, as they were summed."""

    def commitment(self) -> bytes:
        """sha256 over the salt and everything else."""
        return hashlib.sha256(DOMAIN + canonical(self.model_dump())).digest()


def commit(folder: Path, arrays: Arrays, *, site: str, run: str, request: bytes) -> Commitment:
    """Keep `arrays` at the site and commit to them; asked again for the same, the answer is the same.

    Args:
        folder: The site's.
        arrays: As they go into the sum.
        site: Its name.
        run: The run's id.
        request: 32 bytes that stand for what was asked.

    Raises:
        RunError: If the site's disk is full.
        SecureSumError: If its keystore cannot be opened.
    """
    path = kept_file(folder, run, request)
    plain = {name: _plain(value) for name, value in sorted(arrays.items())}
    opening = Opening(site=site, run=run, request=request.hex(), salt=secrets.token_hex(32), arrays=plain)
    before = _kept(path)
    if before is not None and before.model_copy(update={"salt": opening.salt}) == opening:
        opening = before
    else:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        files.write_bytes(path, canonical(opening.model_dump()), mode=0o600)
    has_key = (folder / KEYS_FOLDER / IDENTITY).exists()
    draft = Commitment(
        site=site,
        run=run,
        request=request,
        commitment=opening.commitment(),
        signed=has_key,
        signature=NO_SIGNATURE,
    )
    return Keystore(folder / KEYS_FOLDER).sign(draft) if has_key else draft


def check(found: Commitment, *, run: str, site: str, roster: Roster | None) -> None:
    """Refuse a commitment that is not this site's for this run.

    Raises:
        SecureSumError: Naming what does not fit.
    """
    if (found.site, found.run) != (site, run):
        raise SecureSumError(f"the commitment of site '{site}' is for '{found.site}' in run '{found.run}'")
    if roster is not None:
        roster.verify(found, site=site)


def kept_file(folder: Path, run: str, request: bytes) -> Path:
    """Where a site keeps what it answered to one request of a run: every audit of it has its own."""
    return folder / REPORTS_FOLDER / run / f"audit-commitment-{request.hex()[:16]}.json"


def open_at_site(folder: Path, published: Commitments, *, site: str) -> list[str]:
    """What does not fit between what a site kept and what was published; empty if all does.

    Raises:
        ApprovalError: If the site keeps nothing of this run.
    """
    for found in published.sites:
        if found.site != site:
            continue
        path = kept_file(folder, published.run, found.request)
        opening = _kept(path)
        if opening is None:
            raise ApprovalError(
                f"{path} does not exist or was altered; this site keeps nothing of that audit"
            )
        asked = (site, published.run, found.request.hex())
        same = (
            found.commitment == opening.commitment() and (opening.site, opening.run, opening.request) == asked
        )
        problems = [] if same else ["the counts kept here are not those this site committed to"]
        return problems + _signature_problems(folder, found)
    return [f"the published list holds no commitment of site '{site}'"]


def _signature_problems(folder: Path, found: Commitment) -> list[str]:
    """Against the roster this site itself has pinned."""
    if not found.signed:
        return []
    try:
        Keystore(folder / KEYS_FOLDER).roster().verify(found, site=found.site)
    except SecureSumError as error:
        return [str(error)]
    return []


def _kept(path: Path) -> Opening | None:
    try:
        return Opening.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _plain(value: np.ndarray[Any, Any]) -> dict[str, Any]:
    return {"dtype": str(value.dtype), "shape": list(value.shape), "values": value.ravel().tolist()}
