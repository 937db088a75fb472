"""Noise: the exact distribution, from bits nobody can repeat."""

import math
import time
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chisquare

from foedus.errors import PrivacyError
from foedus.privacy import noise
from foedus.privacy.noise import KeyStream, discrete_gaussian, poisson_sample, sigma_steps

KEY = bytes(range(32))


class Fixed(KeyStream):
    """A stream that says what it is told."""

    def __init__(self, *words: int) -> None:
        self._words = list(words)

    def words(self, count: int) -> NDArray[np.uint64]:
        return np.array([self._words.pop(0) for _ in range(count)], np.uint64)


def test_the_key_stream_is_aes_256_in_counter_mode() -> None:
    published = bytes.fromhex("dc95c078a2408989ad48a21492842087")  # AES-256, zero key, zero block
    assert KeyStream(bytes(32)).words(2).tobytes() == published


def test_two_draws_differ_and_a_given_key_repeats() -> None:
    assert (discrete_gaussian(50, 1e6) != discrete_gaussian(50, 1e6)).any()
    first, second = (discrete_gaussian(50, 1e6, stream=KeyStream(KEY)) for _ in range(2))
    assert first.tolist() == second.tolist()


@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.5, 40.25])
def test_draws_follow_the_discrete_gaussian_by_chi_square(sigma: float) -> None:
    drawn = discrete_gaussian(200_000, sigma, stream=KeyStream(KEY))
    reach = int(3 * sigma) + 1
    support = np.arange(-reach * 8, reach * 8 + 1)
    chance = np.exp(-(support**2) / (2 * sigma**2))
    chance /= chance.sum()
    clipped = np.clip(drawn, -reach, reach)
    inside = np.clip(support, -reach, reach)
    observed = [int((clipped == x).sum()) for x in range(-reach, reach + 1)]
    expected = [float(chance[inside == x].sum()) * len(drawn) for x in range(-reach, reach + 1)]
    assert chisquare(observed, expected).pvalue > 0.01


def test_draws_at_a_real_scale_follow_the_gaussian_by_chi_square() -> None:
    drawn = discrete_gaussian((500, 300), 5.5e5, stream=KeyStream(KEY)).ravel()
    edges = np.array([-math.inf, *np.linspace(-3, 3, 61) * 5.5e5, math.inf])
    area = np.array([0.5 * (1 + math.erf(e / 5.5e5 / math.sqrt(2))) for e in edges])
    observed = np.histogram(drawn, edges)[0]
    assert chisquare(observed, np.diff(area) * len(drawn)).pvalue > 0.01
    assert abs(float(drawn.std()) / 5.5e5 - 1) < 0.01


def test_the_vectorised_comparison_equals_the_exact_one_on_the_same_bits() -> None:
    words = KeyStream(KEY).words(300)
    exponents = [Fraction(int(w >> np.uint64(33)), 2**29) for w in KeyStream(bytes(32)).words(300)]
    rounded = np.array([float(e) for e in exponents])
    fast = noise._below_exp(rounded, lambda i: exponents[i], Fixed(*words.tolist()))
    exact = [noise._below_exp_exactly(int(w), e, Fixed()) for w, e in zip(words, exponents, strict=True)]
    assert fast.tolist() == exact


@pytest.mark.parametrize(("offset", "below"), [(-1, True), (1, False)])
def test_a_tie_in_the_first_64_bits_is_decided_by_the_next(offset: int, below: bool) -> None:
    with localcontext() as context:
        context.prec = 60
        digits = int(Decimal(-1).exp() * 2**128)
    first, second = divmod(digits, 2**64)
    found = noise._below_exp(np.ones(1), lambda _: Fraction(1), Fixed(first, second + offset, 2**63))
    assert found.tolist() == [below]


def test_a_tie_takes_as_many_bits_as_it_needs() -> None:
    with localcontext() as context:
        context.prec = 90
        digits = int(Decimal(-1).exp() * 2**192)
    words = [(digits >> shift) % 2**64 for shift in (128, 64, 0)]
    words[2] += 5
    assert noise._below_exp(np.ones(1), lambda _: Fraction(1), Fixed(*words)).tolist() == [False]


@pytest.mark.parametrize("scale", [1, 7, 10**6, 2**40])
def test_vectorised_rounding_down_equals_the_exact_one_on_the_same_bits(scale: int) -> None:
    words = KeyStream(KEY).words(300)
    fast = noise._geometric(300, scale, Fixed(*words.tolist(), *[2**63] * 9))
    assert fast.tolist() == [noise._geometric_exactly(int(w), scale, Fixed(2**63)) for w in words]


@pytest.mark.parametrize(("offset", "found"), [(-1, 3), (1, 2)])
def test_rounding_down_at_a_tie_is_decided_by_the_next_bits(offset: int, found: int) -> None:
    """u = exp(-3) to 64 bits: -ln(u) is at least 3 only if the rest of u is not above that of exp(-3)."""
    with localcontext() as context:
        context.prec = 60
        first, second = divmod(int(Decimal(-3).exp() * 2**128), 2**64)
    assert noise._geometric(1, 1, Fixed(first, second + offset)).tolist() == [found]


def test_the_ends_of_the_uniform_range_are_no_trouble() -> None:
    assert noise._geometric(1, 5, Fixed(2**64 - 1)).tolist() == [0]
    # u is about 2^-65: -5 ln(u) = 225.3
    assert noise._geometric(1, 5, Fixed(0, 2**63)).tolist() == [225]


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf, 2.0**41])
def test_a_sigma_that_cannot_be_drawn_is_refused(sigma: float) -> None:
    with pytest.raises(PrivacyError, match="expected above 0 and at most"):
        discrete_gaussian(3, sigma)


def test_an_empty_vector_gets_empty_noise() -> None:
    assert discrete_gaussian((0, 4), 3.0).shape == (0, 4)


def test_150_000_numbers_take_less_than_a_second() -> None:
    begun = time.process_time()
    discrete_gaussian(150_000, 1e5)
    assert time.process_time() - begun < 1


def test_each_unit_is_sampled_with_its_probability() -> None:
    taken = poisson_sample(100_000, 0.03, stream=KeyStream(KEY))
    assert abs(int(taken.sum()) - 3000) < 4 * math.sqrt(100_000 * 0.03 * 0.97)
    assert poisson_sample(5, 1.0).all()
    with pytest.raises(PrivacyError, match="expected above 0 and at most 1"):
        poisson_sample(5, 0.0)


def test_sigma_in_steps_covers_rounding_and_the_honest_shares() -> None:
    # sensitivity 1 is 2^16 steps; 100 numbers may each be rounded: 10 steps more
    assert sigma_steps(2, sensitivity=1, resolution=2.0**-16, size=100, honest=4) == pytest.approx(65_546)


def test_noise_too_fine_for_its_grid_is_refused() -> None:
    with pytest.raises(PrivacyError, match="send these numbers on a finer grid"):
        sigma_steps(3, sensitivity=1, resolution=1, size=10)


def test_honest_shares_add_up_to_the_total() -> None:
    stream = KeyStream(KEY)
    share = sigma_steps(1.5, sensitivity=1, resolution=2.0**-20, size=1, honest=7)
    total = sum(discrete_gaussian(40_000, share, stream=stream) for _ in range(7))
    assert float(np.std(total)) / 2**20 == pytest.approx(1.5, rel=0.02)
