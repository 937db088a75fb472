"""The roster: at least three distinct identities, one digest, a fingerprint people can compare."""

import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from foedus.errors import SecureSumError
from foedus.secure.roster import Roster, SignedRoster, fingerprint, sign_roster, verify_roster

SITES = {name: bytes([i]) * 32 for i, name in enumerate(["north", "south", "west", "east"], 1)}


@pytest.mark.parametrize(("sites", "threshold"), [(3, 3), (4, 3), (5, 4), (6, 5), (7, 5), (10, 7), (20, 14)])
def test_more_than_two_thirds_make_a_sum(sites: int, threshold: int) -> None:
    roster = Roster.build(sites={f"s{i}": bytes([i]) * 32 for i in range(sites)})
    assert roster.threshold == threshold


def test_order_does_not_matter_and_any_change_does() -> None:
    roster = Roster.build(sites=SITES)
    again = Roster.build(sites=dict(reversed(SITES.items())))
    assert again.digest == roster.digest
    assert again.encode() == roster.encode()
    assert list(roster.positions.items()) == [("east", 1), ("north", 2), ("south", 3), ("west", 4)]
    renamed = {("nord" if name == "north" else name): key for name, key in SITES.items()}
    others = [{**SITES, "north": bytes(32)}, renamed, {**SITES, "up": bytes(32)}]
    digests = {roster.digest, *(Roster.build(sites=sites).digest for sites in others)}
    assert len(digests) == 4


def test_fingerprints_are_readable_and_differ() -> None:
    roster = Roster.build(sites=SITES)
    form = r"([0-9a-f]{4}-){9}[0-9a-f]{4}"
    assert re.fullmatch(form, roster.fingerprint())
    assert re.fullmatch(form, fingerprint(bytes(32)))
    assert fingerprint(bytes(32)) != fingerprint(bytes([1]) * 32)
    assert roster.fingerprint() == "3026-e856-c15d-faf6-0d8a-984d-cc94-d059-4651-8f48"


@pytest.mark.parametrize(
    ("sites", "reason"),
    [
        ({"a": bytes(32), "b": b"1" * 32}, "at least 3 items"),
        ({"a": bytes(32), "b": b"1" * 32, "c": bytes(32)}, "sites 'a' and 'c' have the same key"),
        ({"a": bytes(32), "b": b"1" * 32, "c": bytes(31)}, "at least 32 bytes"),
        ({"a": bytes(32), "b": b"1" * 32, "../c": b"2" * 32}, "should match pattern"),
        ({"a": bytes(32), "b": b"1" * 32, "c\n": b"2" * 32}, "should match pattern"),
        ({f"s{i}": i.to_bytes(32, "big") for i in range(1001)}, "at most 1000 items"),
    ],
)
def test_a_roster_that_cannot_serve_is_refused(sites: dict[str, bytes], reason: str) -> None:
    with pytest.raises(SecureSumError, match=f"the roster cannot be made: .*{reason}"):
        Roster.build(sites=sites)


def test_a_signed_roster_is_only_what_the_named_coordinator_signed() -> None:
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw()
    roster = Roster.build(sites=SITES)
    signed = sign_roster(roster, coordinator="hub", key=key)
    assert verify_roster(signed.encode(), coordinator="hub", key=public) == roster

    with pytest.raises(SecureSumError, match="signed for another coordinator than 'bub'"):
        verify_roster(signed.encode(), coordinator="bub", key=public)
    forged = sign_roster(roster, coordinator="hub", key=other).encode()
    with pytest.raises(SecureSumError, match="the signature on the roster is not that of coordinator 'hub'"):
        verify_roster(forged, coordinator="hub", key=public)
    altered = SignedRoster.build(
        coordinator="hub",
        roster=Roster.build(sites={**SITES, "north": bytes(32)}),
        signature=signed.signature,
    )
    with pytest.raises(SecureSumError, match="is not that of coordinator"):
        verify_roster(altered.encode(), coordinator="hub", key=public)
    with pytest.raises(SecureSumError, match="the signed roster is malformed"):
        verify_roster(roster.encode(), coordinator="hub", key=public)


def test_the_documented_bounds_are_those_of_the_code() -> None:
    """Fewer than 2t - n may collude, and two honest sites must remain in every total."""
    text = (Path(__file__).parents[3] / "docs/security/secure-sum.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", text, flags=re.MULTILINE)
    assert len(rows) == 10
    for n, t, drops, colluders in (tuple(map(int, row)) for row in rows):
        roster = Roster.build(sites={f"s{i}": i.to_bytes(32, "big") for i in range(n)})
        assert t == roster.threshold
        assert drops == n - t
        assert colluders == min(2 * t - n - 1, t - 2)
