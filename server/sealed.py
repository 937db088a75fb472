"""A file under a passphrase: scrypt (RFC 7914) for the key, AES-256-GCM in chunks for the content.

Each chunk is bound to the file's header, its place and whether it is the last (Hoang et al. 2015,
the STREAM construction), so that one that is altered, moved, missing or cut off is noticed.
"""

import io
import secrets
import struct
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from foedus.errors import RunError

MAGIC = b"foedus-sealed-1\n"
SCRYPT_LOG_N, SCRYPT_R, SCRYPT_P = 17, 8, 1
"""128 MiB and about half a second for each guess of the passphrase."""
MOST_LOG_N = 20
SALT_BYTES, TAG_BYTES, CHUNK_BYTES = 16, 16, 1 << 20
SHORTEST_PASSPHRASE = 12


class SealedWriter(io.RawIOBase):
    """Encrypts what is written; `finish` writes the last chunk, without which a file is not valid.

    Args:
        file: Open for writing.
        passphrase: At least 12 characters.

    Raises:
        RunError: If the passphrase is shorter.
    """

    def __init__(self, file: BinaryIO, *, passphrase: str) -> None:
        super().__init__()
        if len(passphrase) < SHORTEST_PASSPHRASE:
            raise RunError(
                f"the passphrase has {len(passphrase)} characters; choose {SHORTEST_PASSPHRASE} or more: "
                "it alone protects the keys in the file."
            )
        salt = secrets.token_bytes(SALT_BYTES)
        self._header = MAGIC + bytes([SCRYPT_LOG_N]) + salt
        self._file, self._cipher = file, _cipher(passphrase, salt, log_n=SCRYPT_LOG_N)
        self._index, self._rest = 0, bytearray()
        file.write(self._header)

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, content: bytes) -> int:  # type: ignore[override]
        """Encrypt and write; all of it is taken."""
        self._rest += content
        while len(self._rest) > CHUNK_BYTES:
            self._chunk(bytes(self._rest[:CHUNK_BYTES]), last=False)
            del self._rest[:CHUNK_BYTES]
        return len(content)

    def finish(self) -> None:
        """Write the last chunk."""
        self._chunk(bytes(self._rest), last=True)

    def _chunk(self, content: bytes, *, last: bool) -> None:
        nonce, bound = _place(self._header, self._index, last=last)
        self._file.write(self._cipher.encrypt(nonce, content, bound))
        self._index += 1


class SealedReader(io.RawIOBase):
    """Decrypts what is read; nothing is handed out before it is verified.

    Args:
        file: Open for reading.
        passphrase: As it was sealed with.

    Raises:
        RunError: Here or while reading, if the passphrase is another or the file is not as it was written.
    """

    def __init__(self, file: BinaryIO, *, passphrase: str) -> None:
        super().__init__()
        self._header = file.read(len(MAGIC) + 1 + SALT_BYTES)
        log_n = self._header[len(MAGIC)] if len(self._header) > len(MAGIC) else 0
        if not self._header.startswith(MAGIC) or not 0 < log_n <= MOST_LOG_N:
            raise RunError("the file is no backup of Foedus, or its first bytes are damaged.")
        salt = self._header[len(MAGIC) + 1 :]
        if len(salt) < SALT_BYTES:
            raise RunError("the backup is cut off; take another copy of it.")
        self._file, self._cipher = file, _cipher(passphrase, salt, log_n=log_n)
        self._index, self._ready, self._ahead = 0, b"", file.read(CHUNK_BYTES + TAG_BYTES)
        self._done = False

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill a buffer; 0 at the end of a file that was read and verified to its last chunk."""
        while not self._ready and not self._done:
            self._ready = self._chunk()
        n = min(len(buffer), len(self._ready))
        buffer[:n], self._ready = self._ready[:n], self._ready[n:]
        return n

    def _chunk(self) -> bytes:
        sealed, self._ahead = self._ahead, self._file.read(CHUNK_BYTES + TAG_BYTES)
        nonce, bound = _place(self._header, self._index, last=not self._ahead)
        try:
            content = self._cipher.decrypt(nonce, sealed, bound)
        except InvalidTag:
            reason = (
                "the passphrase is another, or the backup is damaged"
                if self._index == 0
                else "the backup is damaged or cut off"
            )
            raise RunError(f"{reason}; nothing was restored.") from None
        self._index, self._done = self._index + 1, not self._ahead
        return content


def _cipher(passphrase: str, salt: bytes, *, log_n: int) -> AESGCM:
    key = Scrypt(salt=salt, length=32, n=2**log_n, r=SCRYPT_R, p=SCRYPT_P).derive(passphrase.encode())
    return AESGCM(key)


def _place(header: bytes, index: int, *, last: bool) -> tuple[bytes, bytes]:
    """Nonce (12 bytes) and associated data of a chunk; the key is the file's own, so a counter serves."""
    place = struct.pack(">QB", index, last)
    return place.rjust(12, b"\0"), header + place
