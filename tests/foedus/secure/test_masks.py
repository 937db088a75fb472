"""Masks: published vectors of what they are made of; they cancel, and look like noise."""

import hashlib
import hmac
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foedus.errors import SecureSumError
from foedus.secure import masks
from foedus.secure.lanes import Lanes


def lanes(narrow: int, wide: int) -> Lanes:
    return Lanes(np.zeros(narrow, "<u4"), np.zeros(wide, "<u8"))


def test_the_keystream_is_aes_256_ctr() -> None:
    """Zero key, blocks 0, 1 and 2 (McGrew and Viega, GCM specification, test cases 13 and 14)."""
    stream = masks.keystream(bytes(32)).update(bytes(48)).hex()
    assert stream[:32] == "dc95c078a2408989ad48a21492842087"
    assert stream[32:64] == "530f8afbc74536b9a963b4f1c4cb738b"
    assert stream[64:] == "cea7403d4d606b6e074ec5d3baf39d18"


def test_agreement_is_x25519() -> None:
    """RFC 7748, section 6.1."""
    alice = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    bob = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
    shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert masks.agree(alice, bob, site="bob").hex() == shared
    public = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert masks.public_key(alice).hex() == public


def test_derivation_is_hkdf_sha256() -> None:
    """Against RFC 5869 written out with the standard library."""
    secret = bytes(range(32))
    info = json.dumps(["foedus/secure-sum/1/pair", 7, 0, "a", "b"], separators=(",", ":")).encode()
    key = hmac.digest(bytes(32), secret, hashlib.sha256)
    assert masks.derive(secret, "pair", 7, 0, "a", "b") == hmac.digest(key, info + b"\x01", hashlib.sha256)


def test_a_mask_does_not_change_between_versions() -> None:
    found = lanes(2, 1)
    masks.apply(found, [masks.self_seed(bytes(32), session=1, number=0, site="north")])
    assert (found.narrow.tobytes() + found.wide.tobytes()).hex() == "6fc5ea18ef6b68e6c7a67ce6600c635b"


def test_no_two_uses_share_a_key() -> None:
    secret = bytes(32)
    keys = [
        masks.self_seed(secret, session=1, number=0, site="a")[0],
        masks.self_seed(secret, session=2, number=0, site="a")[0],
        masks.self_seed(secret, session=1, number=1, site="a")[0],
        masks.self_seed(secret, session=1, number=0, site="b")[0],
        masks.seed_check(secret, session=1, number=0, site="a"),
        masks.pair_seed(secret, session=1, number=0, site="a", other="b", asked=bytes(64))[0],
        masks.pair_seed(secret, session=1, number=0, site="a", other="c", asked=bytes(64))[0],
        masks.pair_seed(secret, session=1, number=1, site="a", other="b", asked=bytes(64))[0],
        masks.pair_seed(secret, session=2, number=0, site="a", other="b", asked=bytes(64))[0],
        masks.pair_seed(secret, session=1, number=0, site="a", other="b", asked=bytes(63) + b"1")[0],
        masks.derive(secret, "narrow"),
        masks.derive(secret, "wide"),
    ]
    assert len(set(keys)) == len(keys)


def test_a_pair_derives_one_seed_with_opposite_signs() -> None:
    first = masks.pair_seed(bytes(32), session=3, number=2, site="a", other="b", asked=bytes(64))
    second = masks.pair_seed(bytes(32), session=3, number=2, site="b", other="a", asked=bytes(64))
    assert first[0] == second[0]
    assert (first[1], second[1]) == (True, False)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 130), st.integers(1, 9))
def test_masks_come_off_as_they_went_on_whatever_the_chunks(
    narrow: int, wide: int, seeds: int, words: int
) -> None:
    put = [(bytes([i]) * 32, i % 3 == 0) for i in range(seeds)]
    whole, chunked = lanes(narrow, wide), lanes(narrow, wide)
    masks.apply(whole, put)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks, "CHUNK_BYTES", 8 * words)
        masks.apply(chunked, put)
    assert np.array_equal(whole.narrow, chunked.narrow)
    assert np.array_equal(whole.wide, chunked.wide)
    masks.apply(chunked, masks.opposite(put))
    assert not chunked.narrow.any()
    assert not chunked.wide.any()


def test_masked_zeros_have_uniform_bytes() -> None:
    """Chi-square with 255 degrees of freedom: mean 255, deviation 22.6; 8 deviations never happen."""
    found = lanes(2**18, 2**17)
    seeds = [
        masks.pair_seed(bytes(32), session=1, number=0, site="a", other=o, asked=bytes(64))
        for o in ("b", "c")
    ]
    masks.apply(found, seeds)
    for lane in (found.narrow, found.wide):
        seen = np.bincount(np.frombuffer(lane.tobytes(), np.uint8), minlength=256)
        expected = lane.nbytes / 256
        assert abs(((seen - expected) ** 2 / expected).sum() - 255) < 8 * 22.6


def test_a_degenerate_public_key_is_refused_by_the_name_of_its_site() -> None:
    with pytest.raises(SecureSumError, match="site 'north' sent a degenerate public key"):
        masks.agree(bytes(range(32)), bytes(32), site="north")
