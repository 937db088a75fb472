"""The roster: every site's name and Ed25519 identity, the same at all of them, compared by fingerprint."""

from functools import cached_property
from typing import Annotated, ClassVar, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, model_validator

from foedus.errors import SecureSumError
from foedus.secure.wire import MAX_SITES, Bytes32, Message, Name, Signed, digest

MIN_SITES = 3
Sites = Annotated[dict[Name, Bytes32], Field(min_length=MIN_SITES, max_length=MAX_SITES)]


class Roster(Message):
    """Who may take part: 3 to 1000 sites, each with its own key.

    `Roster.build(sites={name: key})` makes one, `encode` and `decode` carry it; both raise
    SecureSumError on fewer than 3 sites, a repeated key or a name that is not plain.
    """

    title: ClassVar[str] = "roster"
    sites: Sites

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        owners: dict[bytes, str] = {}
        for name, key in self.sites.items():
            if key in owners:
                raise ValueError(f"sites '{owners[key]}' and '{name}' have the same key; each needs its own")
            owners[key] = name
        return self

    def __len__(self) -> int:
        return len(self.sites)

    @property
    def threshold(self) -> int:
        """Fewest sites behind a sum: more than two thirds of the roster, as an active coordinator needs."""
        return 2 * len(self.sites) // 3 + 1

    @cached_property
    def positions(self) -> dict[str, int]:
        """Name to the site's x in secret sharing, 1..n by name."""
        return {name: x for x, name in enumerate(sorted(self.sites), 1)}

    @cached_property
    def digest(self) -> bytes:
        """32 bytes that stand for the whole roster."""
        return digest("roster", {name: key.hex() for name, key in self.sites.items()})

    def fingerprint(self) -> str:
        """For people to compare, e.g. over the telephone."""
        return readable(self.digest)

    def verify(self, message: Signed, *, site: str) -> None:
        """Refuse a message that `site` did not sign.

        Raises:
            SecureSumError: If the site is not on the roster or the signature is not its own.
        """
        if site not in self.sites:
            raise SecureSumError(f"site '{site}' is not on the roster; its {message.title} is refused")
        if not _verifies(self.sites[site], message):
            raise SecureSumError(f"the signature on the {message.title} of site '{site}' is not valid")


class SignedRoster(Signed):
    """A roster as the coordinator hands it out at enrolment."""

    title: ClassVar[str] = "signed roster"
    label: ClassVar[str] = "roster"
    coordinator: Name
    roster: Roster


def sign_roster(roster: Roster, *, coordinator: str, key: Ed25519PrivateKey) -> SignedRoster:
    """The roster under the coordinator's signature."""
    draft = SignedRoster.build(coordinator=coordinator, roster=roster, signature=bytes(64))
    return draft.model_copy(update={"signature": key.sign(draft.signed_bytes())})


def verify_roster(text: str, *, coordinator: str, key: bytes) -> Roster:
    """The roster in `text`.

    Args:
        text: An encoded SignedRoster.
        coordinator: Who must have signed it.
        key: Its Ed25519 public key, 32 bytes.

    Raises:
        SecureSumError: If it is malformed, or another coordinator's, or its signature is not valid.
    """
    signed = SignedRoster.decode(text)
    if signed.coordinator != coordinator:
        raise SecureSumError(f"the roster is signed for another coordinator than '{coordinator}'")
    if not _verifies(key, signed):
        raise SecureSumError(f"the signature on the roster is not that of coordinator '{coordinator}'")
    return signed.roster


def fingerprint(key: bytes) -> str:
    """One identity's fingerprint, for people to compare: ten groups of four digits, 160 bits."""
    return readable(digest("identity", key.hex()))


def readable(found: bytes) -> str:
    """32 bytes for people to compare: ten groups of four digits, 160 bits."""
    text = found.hex()[:40]
    return "-".join(text[start : start + 4] for start in range(0, 40, 4))


def _verifies(key: bytes, message: Signed) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(message.signature, message.signed_bytes())
    except (InvalidSignature, ValueError):
        return False
    return True
