"""Packages of shares: only the receiver reads them, in one session, on one roster, in one direction."""

from dataclasses import replace

import pytest

from foedus.errors import SecureSumError
from foedus.secure import masks
from foedus.secure.packages import Link, package_bytes, seal, unseal

NORTH, SOUTH, EVE = (bytes([i]) * 32 for i in (1, 2, 3))
LINK = Link(session=4, roster=bytes(32), sender="north", receiver="south")
CONTENT = bytes(range(132)) * 2


def opened(package: bytes, link: Link, *, private: bytes = SOUTH, sums: int = 2) -> tuple[bytes, bytes]:
    return unseal(package, link, private=private, public=masks.public_key(NORTH), sums=sums)


def sealed() -> bytes:
    return seal(CONTENT, LINK, private=NORTH, public=masks.public_key(SOUTH))


def test_the_receiver_gets_the_seed_shares_and_the_pair_key_shares() -> None:
    package = sealed()
    assert len(package) == package_bytes(2) == 12 + 4 * 66 + 16
    assert opened(package, LINK) == (CONTENT[:132], CONTENT[132:])
    assert sealed() != package, "the nonce is drawn for each"


@pytest.mark.parametrize(
    "change",
    [{"session": 5}, {"roster": b"1" * 32}, {"receiver": "east"}, {"sender": "south", "receiver": "north"}],
)
def test_a_package_does_not_serve_anywhere_else(change: dict[str, object]) -> None:
    """Both ends share one secret, so without the link in the key a package could be sent back."""
    with pytest.raises(SecureSumError, match=r"the shares of site '(north|south)' were altered on their way"):
        opened(sealed(), replace(LINK, **change))


def test_nobody_else_opens_it_and_no_bit_may_change() -> None:
    package = sealed()
    with pytest.raises(SecureSumError, match="the shares of site 'north' were altered"):
        opened(package, LINK, private=EVE)
    for at in range(0, len(package), 17):
        bent = bytearray(package)
        bent[at] ^= 0x80
        with pytest.raises(SecureSumError, match="the shares of site 'north' were altered"):
            opened(bytes(bent), LINK)


def test_a_package_of_another_number_of_sums_is_refused() -> None:
    with pytest.raises(SecureSumError, match="the shares of site 'north' are not those of 3 sums"):
        opened(sealed(), LINK, sums=3)
