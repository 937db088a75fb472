"""How a site joins: it sends a request, the coordinator answers with a kit, and both compare a fingerprint.

Neither document holds a secret. The request proves that its sender holds the site's identity;
the kit tells the site where to connect, whom to trust there, and who the other sites are.
"""

from pathlib import Path
from typing import Annotated, ClassVar, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key
from pydantic import Field, field_validator

from foedus.errors import ConfigError, SecureSumError
from foedus.secure.roster import Roster, readable
from foedus.secure.wire import Bytes32, Name, Signed, digest

VERSIONS = "/foedus"
"""Path of the server where everyone may read which foedus and flwr it runs."""
Text = Annotated[str, Field(max_length=20_000)]
Version = Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+-]{0,39}$")]


class Document(Signed):
    """What people carry between a site and the coordinator, as a file."""

    @classmethod
    def read(cls, path: Path, *, hint: str) -> Self:
        """The document in a file; blanks that a mail programme put around it do not matter.

        Args:
            path: The file.
            hint: What to give instead.

        Raises:
            ConfigError: If it cannot be read, or holds no such document.
        """
        try:
            return cls.decode(path.read_text(encoding="ascii").strip())
        except SecureSumError as error:
            problem = str(error)
        except OSError as error:
            problem = f"it cannot be read ({error.strerror})"
        except ValueError:
            problem = f"it is no {cls.title}"
        raise ConfigError(str(path), [f"{problem}; {hint}"])


class Request(Document):
    """A site asks to join; signed with its own identity."""

    title: ClassVar[str] = "request"
    label: ClassVar[str] = "enrolment-request"
    site: Name
    identity: Bytes32
    """Ed25519 public key: signs the site's part of every secure sum."""
    node: Text
    """P-384 public key in OpenSSH's format: signs the site in at the server."""
    foedus: Version
    flwr: Version

    @field_validator("node")
    @classmethod
    def _is_a_key(cls, node: str) -> str:
        """One P-384 key in its one spelling: the server takes no other, and a key has no second name."""
        try:
            key = load_ssh_public_key(node.encode())
        except Exception:  # cryptography raises several kinds on a key that is none
            raise ValueError("it is not a public key in OpenSSH's format") from None
        if not isinstance(key, EllipticCurvePublicKey) or key.curve.name != "secp384r1":
            raise ValueError("it is not a P-384 key")
        if key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode() != node:
            raise ValueError("it is a key with something beside it")
        return node

    def fingerprint(self) -> str:
        """For people to compare: the site's administrator reads it to the coordinator."""
        return readable(digest("request", [self.site, self.identity.hex(), self.node]))

    def check(self) -> None:
        """Refuse a request whose sender does not hold the identity it names.

        Raises:
            SecureSumError: If the signature is not the identity's.
        """
        require_signature(self, self.identity, whose=f"site '{self.site}'")


class Kit(Document):
    """What a site needs to join; signed by the coordinator."""

    title: ClassVar[str] = "kit"
    label: ClassVar[str] = "enrolment-kit"
    coordinator: Name
    address: Text
    """host:port, the only place a site connects to."""
    certificate: Text
    """The authority's certificate, PEM: the server must show one that it signed."""
    identity: Bytes32
    """The coordinator's Ed25519 public key."""
    site: Name
    request: Text
    """Fingerprint of the request this kit answers."""
    roster: Roster | None
    """Every site that takes part in secure sums; None while there are fewer than three."""

    def fingerprint(self) -> str:
        """For people to compare; the same for all sites with the same roster."""
        roster = None if self.roster is None else self.roster.digest.hex()
        parts = [self.coordinator, self.address, self.certificate, self.identity.hex(), roster]
        return readable(digest("kit", parts))

    def check(self) -> None:
        """Refuse a kit that the coordinator it names did not sign.

        Raises:
            SecureSumError: If the signature is not its own.
        """
        require_signature(self, self.identity, whose=f"coordinator '{self.coordinator}'")


def require_signature(document: Signed, key: bytes, *, whose: str) -> None:
    """Refuse a document that `key` did not sign.

    Raises:
        SecureSumError: Naming the document and who should have signed it.
    """
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(document.signature, document.signed_bytes())
    except (InvalidSignature, ValueError):
        raise SecureSumError(
            f"the signature on the {document.title} is not that of {whose}; it was altered: ask for it again"
        ) from None
