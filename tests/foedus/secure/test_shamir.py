"""Shamir's sharing: hand-computed shares, any threshold of them, and nothing from fewer."""

import itertools
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foedus.errors import SecureSumError
from foedus.secure import shamir


def test_shares_of_a_known_polynomial(monkeypatch: pytest.MonkeyPatch) -> None:
    """f(x) = 3x^2 + 2x + 5: f(1) = 10, f(2) = 21, f(3) = 38, f(4) = 61."""
    coefficients = iter([3, 2])
    monkeypatch.setattr(secrets, "randbelow", lambda bound: next(coefficients))
    shares = shamir.split((5).to_bytes(32, "big"), threshold=3, shares=4)
    assert [int.from_bytes(share, "big") for share in shares] == [10, 21, 38, 61]
    assert all(len(share) == 66 for share in shares)


def test_weights_are_lagrange_at_zero() -> None:
    """At 1, 2, 3 they are 3, -3, 1; at 1, 3 they are 3/2 and -1/2."""
    assert shamir.weights([1, 2, 3]) == [3, shamir.PRIME - 3, 1]
    half = pow(2, -1, shamir.PRIME)
    assert shamir.weights([1, 3]) == [3 * half % shamir.PRIME, -half % shamir.PRIME]


@given(st.binary(min_size=32, max_size=32), st.integers(1, 7), st.integers(0, 5), st.randoms())
def test_any_threshold_of_the_shares_gives_the_secret(
    secret: bytes, threshold: int, more: int, random: object
) -> None:
    shares = shamir.split(secret, threshold=threshold, shares=threshold + more)
    positions = list(range(1, threshold + more + 1))
    random.shuffle(positions)
    chosen = positions[:threshold]
    assert shamir.combine([shares[x - 1] for x in chosen], shamir.weights(chosen)) == secret


def test_fewer_than_the_threshold_fit_every_secret() -> None:
    """With t - 1 shares, for any other secret there is a last share that gives it."""
    shares = shamir.split(bytes(31) + b"\x07", threshold=3, shares=5)
    weights = shamir.weights([1, 2, 3])
    known = sum(int.from_bytes(s, "big") * w for s, w in zip(shares[:2], weights[:2], strict=True))
    for other in (0, 1, 2**255):
        last = (other - known) * pow(weights[2], -1, shamir.PRIME) % shamir.PRIME
        found = shamir.combine([*shares[:2], last.to_bytes(66, "big")], weights)
        assert int.from_bytes(found, "big") == other


def test_too_few_shares_give_no_secret_by_accident() -> None:
    shares = shamir.split(secrets.token_bytes(32), threshold=4, shares=6)
    for chosen in itertools.combinations(range(1, 7), 3):
        with pytest.raises(SecureSumError, match="the shares do not belong together"):
            shamir.combine([shares[x - 1] for x in chosen], shamir.weights(chosen))


def test_a_share_outside_the_field_is_refused() -> None:
    for share in (shamir.PRIME.to_bytes(66, "big"), bytes(65), b"\xff" * 66):
        with pytest.raises(SecureSumError, match="not an element of the field"):
            shamir.combine([share], [1])


@pytest.mark.parametrize(("size", "threshold"), [(31, 2), (33, 2), (32, 0), (32, 6)])
def test_only_sound_secrets_and_thresholds_are_shared(size: int, threshold: int) -> None:
    with pytest.raises(SecureSumError, match="a secret of 32 bytes and a threshold"):
        shamir.split(bytes(size), threshold=threshold, shares=5)
