import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foedus.demos.partition import dirichlet_counts, divide


def test_divide_by_hand() -> None:
    assert divide(10, np.array([0.25, 0.25, 0.5])).tolist() == [2, 3, 5]


@given(st.integers(0, 10_000), st.lists(st.floats(0.01, 1.0), min_size=1, max_size=8))
def test_parts_add_up_and_are_within_one_of_their_share(n: int, weights: list[float]) -> None:
    shares = np.array(weights) / sum(weights)
    parts = divide(n, shares)
    assert parts.sum() == n
    assert (parts >= 0).all()
    assert np.abs(parts - shares * n).max() <= 1.0 + 1e-6


def test_counts_keep_every_example_and_the_smallest_site_has_enough() -> None:
    shares, counts = dirichlet_counts([400] * 10, 4, alpha=0.3, min_per_site=200, seed=1)
    assert counts.shape == (10, 4)
    assert counts.sum(axis=1).tolist() == [400] * 10
    assert counts.sum(axis=0).min() >= 200
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)


def test_a_division_that_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="no draw gives each of 4 sites 200 of 100 examples"):
        dirichlet_counts([100], 4, alpha=0.3, min_per_site=200, seed=0)
