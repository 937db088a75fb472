"""Ed25519 keys of the people who answer for an audit, and their signatures over sha256 digests.

A signature is detached: it says who signed which digest, when, and as what. What it is for (a
policy, an approval) is part of what is signed, so none can be passed off as another.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from pydantic import Field, ValidationError

from foedus import files
from foedus.config import Section
from foedus.errors import ApprovalError
from foedus.secure.roster import fingerprint
from foedus.secure.wire import canonical
from foedus.study import NAME

Purpose = Literal["foedus policy v1", "foedus approval v1", "foedus bundle v1", "foedus release v1"]
"""What a signature is for; the first bytes that are signed."""
ROLE = r"^[a-z][a-z0-9_-]{0,31}$"
HEX32, HEX64 = r"^[0-9a-f]{64}$", r"^[0-9a-f]{128}$"
PRIVATE_SUFFIX, PUBLIC_SUFFIX, SIGNATURE_SUFFIX = ".key", ".pub", ".sig"
SectionT = TypeVar("SectionT", bound=Section)


class PublicKey(Section):
    """NAME.pub: who someone is, for others to pin."""

    format: Literal["foedus-key/1"] = "foedus-key/1"
    name: str = Field(pattern=NAME)
    role: str = Field(pattern=ROLE)
    public_key: str = Field(pattern=HEX32)
    """32 bytes, hexadecimal."""

    @property
    def fingerprint(self) -> str:
        """For people to compare, e.g. over the telephone."""
        return fingerprint(bytes.fromhex(self.public_key))


class Signature(Section):
    """Who signed which digest, when, and for what."""

    signer: str = Field(pattern=NAME)
    role: str = Field(pattern=ROLE)
    public_key: str = Field(pattern=HEX32)
    time: str
    """When, by the signer's clock (ISO 8601, UTC)."""
    digest: str = Field(pattern=HEX32)
    purpose: Purpose
    signature: str = Field(pattern=HEX64)

    def signed_bytes(self) -> bytes:
        """What the signature covers: the purpose and every other field."""
        return self.purpose.encode() + b"\0" + canonical(self.model_dump(exclude={"signature"}))

    @property
    def fingerprint(self) -> str:
        """Of the key it was made with."""
        return fingerprint(bytes.fromhex(self.public_key))


@dataclass(frozen=True)
class Signer:
    """Someone with a private key."""

    public: PublicKey
    key: Ed25519PrivateKey

    def sign(self, digest: str, *, purpose: Purpose) -> Signature:
        """A signature over a sha256 digest (hexadecimal), dated now."""
        draft = Signature(
            signer=self.public.name,
            role=self.public.role,
            public_key=self.public.public_key,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            digest=digest,
            purpose=purpose,
            signature="0" * 128,
        )
        return draft.model_copy(update={"signature": self.key.sign(draft.signed_bytes()).hex()})


def create_key(folder: Path, *, name: str, role: str, passphrase: str | None) -> PublicKey:
    """A new key pair: NAME.key (0600) and NAME.pub in `folder`.

    Args:
        folder: Made if it is not there.
        name: Of the signer.
        role: As policies ask for, e.g. "auditor".
        passphrase: Encrypts the private key; None leaves it in the clear.

    Raises:
        ApprovalError: If there is a key of that name, or the name or role is not plain.
        RunError: If the folder cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    try:
        public = PublicKey(name=name, role=role, public_key=key.public_key().public_bytes_raw().hex())
    except ValidationError:
        raise ApprovalError(
            f"'{name}' ({role}) cannot be a signer; use letters, digits, dot, dash and underscore, "
            "and a role in lower case"
        ) from None
    path = folder / f"{name}{PRIVATE_SUFFIX}"
    if path.exists():
        raise ApprovalError(f"{path} exists; a key is never replaced, so choose another name or folder")
    encryption = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    files.write_bytes(path, content, mode=0o600)
    files.write_json(path.with_suffix(PUBLIC_SUFFIX), public.model_dump())
    return public


def load_signer(path: Path, *, passphrase: Callable[[], str]) -> Signer:
    """The signer whose private key is `path`; the public key lies beside it.

    Args:
        path: NAME.key.
        passphrase: Asked only if the key is encrypted.

    Raises:
        ApprovalError: If either file is missing, not a key, or readable by others, or the passphrase is wrong.
    """
    public = load_public(path.with_suffix(PUBLIC_SUFFIX))
    try:
        if path.stat().st_mode & 0o077:
            raise ApprovalError(f"{path} can be read by others on this machine; run chmod 600 on it")
        content = path.read_bytes()
    except OSError as error:
        raise ApprovalError(f"{path} cannot be read ({error.strerror}); see foedus auditor init") from None
    key = _private(content, path, passphrase)
    if key.public_key().public_bytes_raw().hex() != public.public_key:
        raise ApprovalError(f"{path} does not belong to the {PUBLIC_SUFFIX} file beside it")
    return Signer(public, key)


def load_public(path: Path) -> PublicKey:
    """The public key in NAME.pub.

    Raises:
        ApprovalError: If it is missing or not one.
    """
    return read(path, PublicKey, "a public key")


def read(path: Path, kind: type[SectionT], what: str) -> SectionT:
    """The one value of `kind` in a JSON file; every byte of the file counts.

    Raises:
        ApprovalError: If the file is missing, holds anything else, or is not as Foedus writes it.
    """
    try:
        content = path.read_bytes()
        found = kind.model_validate_json(content)
    except OSError as error:
        raise ApprovalError(f"{path} cannot be read ({error.strerror})") from None
    except ValidationError:
        raise ApprovalError(f"{path} is not {what}; it was altered or cut off") from None
    if files.canonical_json(found.model_dump()).encode() != content:
        raise ApprovalError(f"{path} is not as it was written; it was altered")
    return found


def verify(signature: Signature, *, digest: str, purpose: Purpose, key: PublicKey | None = None) -> None:
    """Refuse a signature that is not over `digest` and for `purpose`.

    Args:
        signature: As it was found.
        digest: sha256 (hexadecimal) of what should have been signed.
        purpose: What it should have been signed for.
        key: Who must have signed, known from elsewhere; None believes the signature itself.

    Raises:
        ApprovalError: Naming what does not fit.
    """
    who = f"the signature of {signature.signer}"
    if signature.purpose != purpose:
        raise ApprovalError(f'{who} is for "{signature.purpose}", not for "{purpose}"')
    if signature.digest != digest:
        raise ApprovalError(f"{who} is over something else: it was altered since")
    if key is not None and not made_by(signature, key):
        raise ApprovalError(f"{who} is not by {key.name} ({key.role}, {key.fingerprint})")
    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signature.public_key))
        public.verify(bytes.fromhex(signature.signature), signature.signed_bytes())
    except (InvalidSignature, ValueError):
        raise ApprovalError(f"{who} is not valid") from None


def made_by(signature: Signature, key: PublicKey) -> bool:
    """Whether it names this key, with its name and role."""
    named = (signature.signer, signature.role, signature.public_key)
    return named == (key.name, key.role, key.public_key)


def digest_of(value: Any) -> str:
    """sha256 (hexadecimal) of plain JSON values in their one canonical form."""
    return hashlib.sha256(canonical(value)).hexdigest()


def signature_file(path: Path) -> Path:
    """Where the signature of a file lies: beside it."""
    return path.with_name(path.name + SIGNATURE_SUFFIX)


def sign_file(path: Path, signer: Signer, *, purpose: Purpose) -> Signature:
    """Sign a file's bytes; the signature is written beside it."""
    signature = signer.sign(files.sha256_file(path), purpose=purpose)
    files.write_json(signature_file(path), signature.model_dump())
    return signature


def file_signature(path: Path, *, purpose: Purpose) -> Signature | None:
    """The signature beside a file; None if there is none.

    Raises:
        ApprovalError: If it does not fit the file.
    """
    beside = signature_file(path)
    if not beside.exists():
        return None
    signature = read(beside, Signature, "a signature")
    try:
        verify(signature, digest=files.sha256_file(path), purpose=purpose)
    except ApprovalError as error:
        raise ApprovalError(f"{beside}: {error}; sign the file again") from None
    return signature


def signature_text(path: Path) -> str | None:
    """The text of a policy's signature, checked; None if it has none.

    Raises:
        ApprovalError: If it does not fit the policy.
    """
    signature = file_signature(path, purpose="foedus policy v1")
    return None if signature is None else files.canonical_json(signature.model_dump())


def _private(content: bytes, path: Path, passphrase: Callable[[], str]) -> Ed25519PrivateKey:
    try:
        try:
            key = load_pem_private_key(content, None)
        except TypeError:  # it is encrypted
            key = load_pem_private_key(content, passphrase().encode())
    except ValueError:
        raise ApprovalError(f"{path} cannot be opened: the passphrase is wrong, or it is no key") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ApprovalError(f"{path} is not an Ed25519 key; see foedus auditor init")
    return key
