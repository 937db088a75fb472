"""Masks: AES-256-CTR keystreams of seeds that cancel or are given back (Bonawitz et al. 2017, section 4).

The counter starts at zero for every stream because no two streams share a key: each is derived
for one session, one sum, one pair (or one site) and one lane.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from foedus.errors import SecureSumError
from foedus.secure.lanes import Lanes
from foedus.secure.wire import DOMAIN, canonical

CHUNK_BYTES = 2**20
STREAMS_AT_ONCE = 64
Seed = tuple[bytes, bool]
"""32 bytes, and True where the mask is added, False where it is taken away."""


def derive(secret: bytes, label: str, *context: str | int) -> bytes:
    """32 bytes of HKDF-SHA256 (RFC 5869); the label and context are encoded so that none can be mistaken."""
    info = canonical([f"{DOMAIN}/{label}", *context])
    return HKDF(hashes.SHA256(), 32, None, info).derive(secret)


def agree(private: bytes, public: bytes, *, site: str) -> bytes:
    """X25519's shared secret (RFC 7748).

    Raises:
        SecureSumError: Naming the site whose public key is degenerate.
    """
    try:
        return X25519PrivateKey.from_private_bytes(private).exchange(
            X25519PublicKey.from_public_bytes(public)
        )
    except ValueError:
        raise SecureSumError(f"site '{site}' sent a degenerate public key; leave it out") from None


def public_key(private: bytes) -> bytes:
    """X25519's public key, 32 bytes."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def self_seed(secret: bytes, *, session: int, number: int, site: str) -> Seed:
    """The mask a site puts on its own contribution against answers that arrive late."""
    return derive(secret, "self", session, number, site), True


def seed_check(secret: bytes, *, session: int, number: int, site: str) -> bytes:
    """A commitment to a self-mask seed: independent of the mask, as both are HKDF outputs."""
    return derive(secret, "check", session, number, site)


def pair_seed(shared: bytes, *, session: int, number: int, site: str, other: str, asked: bytes) -> Seed:
    """The mask `site` and `other` agree on: the first by name adds it, the second takes it away.

    `asked` stands for what each of them was asked: where that differs, so do the masks, and do not cancel.
    """
    first, second = sorted((site, other))
    return derive(shared, "pair", session, number, first, second, asked.hex()), site == first


def apply(lanes: Lanes, seeds: Iterable[Seed]) -> None:
    """Put masks on both lanes, in place, a chunk at a time; memory does not grow with the seeds."""
    source = iter(seeds)
    while group := list(islice(source, STREAMS_AT_ONCE)):
        _apply(lanes.narrow, group, "narrow")
        _apply(lanes.wide, group, "wide")


def opposite(seeds: Iterable[Seed]) -> Iterator[Seed]:
    """The same masks, taken away where they were added."""
    return ((seed, not added) for seed, added in seeds)


def keystream(key: bytes) -> CipherContext:
    """AES-256-CTR from a counter of zero; encrypting zeros gives the stream."""
    return Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()


def _apply(lane: NDArray[np.unsignedinteger], seeds: Sequence[Seed], name: str) -> None:
    if lane.size == 0:
        return
    size_bytes = min(CHUNK_BYTES, lane.nbytes)
    zeros, buffer = memoryview(bytes(size_bytes)), bytearray(size_bytes)
    stream = np.frombuffer(buffer, lane.dtype)
    streams = [(keystream(derive(seed, name)), added) for seed, added in seeds]
    for start in range(0, lane.size, stream.size):
        part = lane[start : start + stream.size]
        for cipher, added in streams:
            cipher.update_into(zeros[: part.nbytes], buffer)
            (np.add if added else np.subtract)(part, stream[: part.size], out=part)
