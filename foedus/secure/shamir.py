"""Shamir's secret sharing over GF(2^521 - 1) (Shamir 1979), for secrets of 32 bytes.

Python's integers do not take constant time; see docs/security/secure-sum.md.
"""

import secrets
from collections.abc import Sequence

from foedus.errors import SecureSumError
from foedus.secure.wire import SHARE_BYTES

PRIME = 2**521 - 1
SECRET_BYTES = 32


def split(secret: bytes, *, threshold: int, shares: int) -> list[bytes]:
    """Shares of `secret` at x = 1..shares; any `threshold` of them give it back, fewer tell nothing.

    Args:
        secret: 32 bytes.
        threshold: 1..shares.
        shares: How many to make.

    Returns:
        66 bytes each, big-endian; item i belongs to x = i + 1.
    """
    if len(secret) != SECRET_BYTES or not 1 <= threshold <= shares:
        raise SecureSumError("a secret of 32 bytes and a threshold of 1 to the number of shares are needed")
    coefficients = [secrets.randbelow(PRIME) for _ in range(threshold - 1)]
    coefficients.append(int.from_bytes(secret, "big"))
    return [_evaluate(coefficients, x).to_bytes(SHARE_BYTES, "big") for x in range(1, shares + 1)]


def weights(positions: Sequence[int]) -> list[int]:
    """Lagrange's weights at 0 for distinct positions: the secret is the weighted sum of their shares."""
    found = []
    for x in positions:
        above, below = 1, 1
        for other in positions:
            if other != x:
                above = above * other % PRIME
                below = below * (other - x) % PRIME
        found.append(above * pow(below, -1, PRIME) % PRIME)
    return found


def combine(shares: Sequence[bytes], weights: Sequence[int]) -> bytes:
    """The secret behind as many shares as its threshold.

    Args:
        shares: 66 bytes each.
        weights: From `weights`, of the same positions in the same order.

    Returns:
        32 bytes.

    Raises:
        SecureSumError: If a share is not an element of the field, or what they give is no secret.
    """
    total = 0
    for share, weight in zip(shares, weights, strict=True):
        value = int.from_bytes(share, "big")
        if len(share) != SHARE_BYTES or value >= PRIME:
            raise SecureSumError("a share is not an element of the field")
        total = (total + value * weight) % PRIME
    if total >> (8 * SECRET_BYTES):
        raise SecureSumError("the shares do not belong together")
    return total.to_bytes(SECRET_BYTES, "big")


def _evaluate(coefficients: Sequence[int], x: int) -> int:
    """The polynomial at x, highest coefficient first."""
    value = 0
    for coefficient in coefficients:
        value = (value * x + coefficient) % PRIME
    return value
