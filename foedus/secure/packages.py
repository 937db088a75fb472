"""Shares on their way from one site to another, unreadable to the coordinator that carries them."""

import secrets
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from foedus.errors import SecureSumError
from foedus.secure.masks import agree, derive
from foedus.secure.wire import SHARE_BYTES

NONCE_BYTES, TAG_BYTES = 12, 16


def package_bytes(sums: int) -> int:
    """Size of a package with the shares of so many sums."""
    return NONCE_BYTES + 2 * SHARE_BYTES * sums + TAG_BYTES


@dataclass(frozen=True)
class Link:
    """One direction between two sites, in one session; every link has its own key."""

    session: int
    roster: bytes
    sender: str
    receiver: str

    def key(self, shared: bytes) -> bytes:
        """ChaCha20-Poly1305's key, which binds the package to session, roster and direction."""
        return derive(shared, "package", self.session, self.roster.hex(), self.sender, self.receiver)


def seal(content: bytes, link: Link, *, private: bytes, public: bytes) -> bytes:
    """`content` for the receiver alone: nonce and ChaCha20-Poly1305 ciphertext (RFC 8439)."""
    key = link.key(agree(private, public, site=link.receiver))
    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, content, None)


def unseal(package: bytes, link: Link, *, private: bytes, public: bytes, sums: int) -> tuple[bytes, bytes]:
    """The seed shares and the pair-key shares in a package, 66 bytes for each sum.

    Raises:
        SecureSumError: Naming the sender, if the package was altered, is another's or has another size.
    """
    key = link.key(agree(private, public, site=link.sender))
    try:
        content = ChaCha20Poly1305(key).decrypt(package[:NONCE_BYTES], package[NONCE_BYTES:], None)
    except InvalidTag:
        raise SecureSumError(f"the shares of site '{link.sender}' were altered on their way") from None
    if len(content) != 2 * SHARE_BYTES * sums:
        raise SecureSumError(f"the shares of site '{link.sender}' are not those of {sums} sums")
    half = SHARE_BYTES * sums
    return content[:half], content[half:]
