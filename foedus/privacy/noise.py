"""Noise nobody can predict or repeat: the exact discrete Gaussian on the fixed-point grid.

Floating-point Gaussian noise has gaps that give the true value away (Mironov 2012), and a
seeded generator can be run again. So noise here is whole steps of the grid that sums travel
on, drawn by the exact sampler of Canonne, Kamath and Steinke (2020, algorithms 1 to 3) from
an AES-256-CTR key stream keyed by the operating system.

Two things are decided by random bits: where a uniform number lies between the powers
exp(-k/t), and whether one is below exp(-g), with t whole and g rational. Both are decided in
floating point where that is certain, and with as many further bits and digits as it takes
where it is not (about once in a million), so the outcome is exact and the work vectorised:
0.03 s for 150,000 numbers and 0.2 s for a million, so long vectors need no shortcut.
How long a draw takes depends on the noise alone, never on the data it is added to.
"""

import math
import os
from collections.abc import Callable
from decimal import Context, Decimal, localcontext
from fractions import Fraction

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from foedus.errors import PrivacyError
from foedus.privacy.accountant import distributed_sigma

MAX_SIGMA = 2.0**40
"""Steps; far beyond it a draw would not be exact in float64."""
MIN_STEPS = 256.0
"""Below it the accountant's continuous Gaussian is no longer right to 1e-4 of delta."""
_UNSURE = 2.0**-36
"""Far above the rounding of exp and of its argument (about 2^-48)."""
_CHUNK = 2**20
"""Proposals made at once; 3 in 4 are accepted."""

Words = NDArray[np.uint64]


class KeyStream:
    """AES-256 in counter mode under a fresh key of the operating system.

    Args:
        key: 32 bytes, for tests only; the same key gives the same noise.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._cipher = Cipher(AES(os.urandom(32) if key is None else key), CTR(bytes(16))).encryptor()

    def words(self, count: int) -> Words:
        """(count,), uint64, uniform."""
        return np.frombuffer(self._cipher.update(bytes(8 * count)), np.uint64)


def discrete_gaussian(
    shape: int | tuple[int, ...], sigma: float, *, stream: KeyStream | None = None
) -> NDArray[np.int64]:
    """Independent whole numbers x with probability proportional to exp(-x²/(2 sigma²)).

    Args:
        shape: Of the result.
        sigma: In steps of the grid, above 0 and at most 2^40; taken as the exact rational it is.
        stream: Source of random bits; a fresh one when not given.

    Raises:
        PrivacyError: If sigma is out of range.
    """
    if not 0 < sigma <= MAX_SIGMA:
        raise PrivacyError(f"the noise is {sigma} steps of the grid; expected above 0 and at most 2^40")
    stream = stream or KeyStream()
    size = math.prod(shape) if isinstance(shape, tuple) else shape
    drawn = np.empty(size, np.int64)
    filled = 0
    while filled < size:
        missing = size - filled
        accepted = _attempt(min(64 + 11 * missing // 8, _CHUNK), sigma, stream)[:missing]
        drawn[filled : filled + len(accepted)] = accepted
        filled += len(accepted)
    return drawn.reshape(shape)


def poisson_sample(count: int, probability: float, *, stream: KeyStream | None = None) -> NDArray[np.bool_]:
    """(count,), True where a unit is in the batch: each on its own with `probability`.

    The draw is as secret as the noise: who knows the batch loses the amplification that the
    accountant counts on. Units, not records, are drawn wherever units are what is protected.
    The chance is rounded down to a multiple of 2^-64, so never above what is charged.

    Raises:
        PrivacyError: If the probability is not above 0 and at most 1.
    """
    if not 0 < probability <= 1:
        raise PrivacyError(f"the sampling probability is {probability}; expected above 0 and at most 1")
    if probability == 1:
        return np.ones(count, np.bool_)
    return (stream or KeyStream()).words(count) < np.uint64(int(Fraction(probability) * 2**64))


def sigma_steps(
    noise_multiplier: float, *, sensitivity: float, resolution: float, size: int, honest: int = 1
) -> float:
    """Standard deviation, in steps, of the noise one site adds.

    Any `honest` such shares together have at least `noise_multiplier` times the sensitivity
    of what is sent: rounding a vector of `size` numbers to the grid moves it by at most half
    a step a number, so one unit can move the rounded vector by the sensitivity plus
    sqrt(size) steps.

    Args:
        noise_multiplier: Total noise over sensitivity, as charged to the ledger.
        sensitivity: L2, of the vector before rounding.
        resolution: Step of the grid, in the vector's own unit.
        size: Numbers in the vector.
        honest: Shares that are sure to arrive.

    Raises:
        PrivacyError: If the grid is too coarse for that little noise.
    """
    total = noise_multiplier * (sensitivity / resolution + math.sqrt(size))
    share = distributed_sigma(total, honest)
    if share < MIN_STEPS:
        raise PrivacyError(
            f"the noise would be {share:.3g} steps of {resolution:.3g}, expected at least {MIN_STEPS:.0f}; "
            "send these numbers on a finer grid"
        )
    return share


def _attempt(count: int, sigma: float, stream: KeyStream) -> NDArray[np.int64]:
    """The accepted of `count` proposals (CKS20, algorithm 3)."""
    exact = Fraction(float(sigma)) ** 2
    scale = math.floor(sigma) + 1
    size = _geometric(count, scale, stream)
    negative = np.unpackbits(stream.words(count // 64 + 1).view(np.uint8))[:count].view(np.bool_)
    centre = exact / scale
    exponent = np.asarray((size - float(centre)) ** 2 / (2 * float(exact)), np.float64)
    accepted = _below_exp(exponent, lambda i: (int(size[i]) - centre) ** 2 / (2 * exact), stream)
    accepted &= ~(negative & (size == 0))  # zero has one sign
    return np.asarray(np.where(negative, -size, size)[accepted])


def _geometric(count: int, scale: int, stream: KeyStream) -> NDArray[np.int64]:
    """(count,) whole numbers x >= 0 with probability proportional to exp(-x/scale).

    x is -scale ln(u) rounded down, u uniform: it is at least k if u <= exp(-k/scale).
    """
    words = stream.words(count)
    uniform = (words + 0.5) * 2.0**-64
    spread = -np.log(uniform)
    exact = scale * spread
    found: NDArray[np.int64] = exact.astype(np.int64)
    error = scale * (2.0**-50 * (1 + spread) + 2.0**-64 / uniform)
    for i in np.flatnonzero(np.abs(exact - np.rint(exact)) < error):
        found[i] = _geometric_exactly(int(words[i]), scale, stream)
    return found


def _below_exp(
    exponents: NDArray[np.float64], exact: Callable[[int], Fraction], stream: KeyStream
) -> NDArray[np.bool_]:
    """True with probability exp(-exponent), each on its own: is a uniform number below it?

    Args:
        exponents: (n,), 0 or more, rounded.
        exact: The true exponent of an index, asked for only where rounding could matter.
        stream: Source of random bits.
    """
    words = stream.words(len(exponents))
    gap = np.exp(-exponents) - words * 2.0**-64
    below: NDArray[np.bool_] = gap > 0
    for i in np.flatnonzero(np.abs(gap) < _UNSURE):
        below[i] = _below_exp_exactly(int(words[i]), exact(int(i)), stream)
    return below


def _geometric_exactly(word: int, scale: int, stream: KeyStream) -> int:
    """-scale ln(u) rounded down, for the uniform number u that begins with the 64 bits of `word`."""
    bits = 64
    while True:
        digits = bits // 3 + 30
        with localcontext(Context(prec=digits)):
            rounding = Decimal(10) ** (20 - digits)
            least = scale * (Decimal(2**bits).ln() - Decimal(word + 1).ln()) - rounding
            found = math.floor(max(least, Decimal(0)))
            if word and scale * (Decimal(2**bits).ln() - Decimal(word).ln()) + rounding < found + 1:
                return found
        word, bits = (word << 64) | int(stream.words(1)[0]), bits + 64


def _below_exp_exactly(word: int, exponent: Fraction, stream: KeyStream) -> bool:
    """Whether the uniform number that begins with the 64 bits of `word` is below exp(-exponent)."""
    bits = 64
    while True:
        context = Context(prec=bits // 3 + 30)
        quotient = context.divide(Decimal(-exponent.numerator), Decimal(exponent.denominator))
        limit = Fraction(context.exp(quotient)) * 2**bits
        if word + 1 <= limit - Fraction(1, 1000):
            return True
        if word >= limit + Fraction(1, 1000):
            return False
        word, bits = (word << 64) | int(stream.words(1)[0]), bits + 64
