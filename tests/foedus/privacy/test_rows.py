"""Clipped class sums and Gram matrices: what they hold, and how far one unit can move them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fewshot.ridge import RidgeSums
from foedus.errors import PrivacyError
from foedus.examples import Examples
from foedus.privacy.rows import clipped_prototypes, clipped_ridge, prototype_sensitivity, ridge_sensitivity

Case = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.str_]]


def _case(seed: int, *, n: int = 30, scale: float = 1.0) -> Case:
    rng = np.random.default_rng(seed)
    features = (scale * rng.normal(size=(n, 5))).astype(np.float32)
    return features, rng.integers(0, 3, n), np.array([f"p{i}" for i in rng.integers(0, 8, n)])


def test_sensitivities_by_hand() -> None:
    assert prototype_sensitivity(1) == pytest.approx(math.sqrt(2), rel=2e-6)
    assert ridge_sensitivity(1) == pytest.approx(math.sqrt(6), rel=2e-6)
    assert ridge_sensitivity(2) == pytest.approx(math.sqrt(30), rel=2e-6)
    assert ridge_sensitivity(1, n_labels=5) == pytest.approx(math.sqrt(14), rel=2e-6)


def test_without_clipping_the_sums_are_those_of_the_open_statistics() -> None:
    features, labels, _ = _case(0)
    open_sums = RidgeSums(n_classes=3, dim=5).measure(Examples(features, labels))
    ridge = clipped_ridge(features, labels, n_classes=3, clip=100)
    np.testing.assert_allclose(ridge.gram, open_sums["gram"], rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(ridge.xty, open_sums["xty"], rtol=1e-5, atol=1e-4)
    prototypes = clipped_prototypes(features, labels, n_classes=3, clip=100)
    np.testing.assert_allclose(prototypes.sums, ridge.xty[:-1].T, rtol=1e-9)
    assert prototypes.counts.tolist() == np.bincount(labels, minlength=3).tolist()


def test_long_rows_are_scaled_and_short_ones_stay() -> None:
    features = np.array([[3.0, 4.0], [0.3, 0.4]], np.float32)
    found = clipped_prototypes(features, np.array([0, 1]), n_classes=2, clip=1)
    np.testing.assert_allclose(found.sums, [[0.6, 0.8], [0.3, 0.4]], rtol=2e-6)


def test_a_unit_counts_as_one_however_many_records_it_has() -> None:
    features = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], np.float32)
    units = np.array(["a", "a", "b"])
    found = clipped_prototypes(features, np.array([0, 1, 1]), n_classes=2, clip=5, units=units)
    np.testing.assert_allclose(found.sums, [[0.5, 0], [0.5, 1.0]], rtol=2e-6)
    assert found.counts.tolist() == [0.5, 1.5]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 10), st.sampled_from([1e-3, 1.0, 1e4]), st.booleans())
def test_removing_a_unit_moves_all_arrays_together_by_no_more_than_the_sensitivity(
    seed: int, clip: float, scale: float, by_unit: bool
) -> None:
    features, labels, names = _case(seed, scale=scale)
    units = names if by_unit else np.arange(30).astype(str)
    rest = units != units[0]
    for measure, keys in ((clipped_prototypes, ("sums", "counts")), (clipped_ridge, ("gram", "xty"))):
        whole = measure(features, labels, n_classes=3, clip=clip, units=units)
        less = measure(features[rest], labels[rest], n_classes=3, clip=clip, units=units[rest])
        moved = math.hypot(*(float(np.linalg.norm(getattr(whole, k) - getattr(less, k))) for k in keys))
        assert moved <= whole.sensitivity


def test_the_sensitivity_is_reached_so_it_is_not_too_large() -> None:
    features, labels = np.array([[8.0, 6.0]], np.float32), np.array([1])
    prototypes = clipped_prototypes(features, labels, n_classes=2, clip=2)
    ridge = clipped_ridge(features, labels, n_classes=2, clip=2)
    reached = math.hypot(float(np.linalg.norm(prototypes.sums)), float(np.linalg.norm(prototypes.counts)))
    assert reached == pytest.approx(prototypes.sensitivity, rel=1e-5)
    reached = math.hypot(float(np.linalg.norm(ridge.gram)), float(np.linalg.norm(ridge.xty)))
    assert reached == pytest.approx(ridge.sensitivity, rel=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 10), st.sampled_from([1e-3, 1.0, 1e4]))
def test_a_unit_of_several_labels_moves_the_sums_by_no_more_than_their_sensitivity(
    seed: int, clip: float, scale: float
) -> None:
    features, _, units = _case(seed, scale=scale)
    labels, rest = np.random.default_rng(seed).integers(0, 2, (30, 4)), units != units[0]
    whole = clipped_ridge(features, labels, n_classes=4, clip=clip, units=units)
    less = clipped_ridge(features[rest], labels[rest], n_classes=4, clip=clip, units=units[rest])
    moved = math.hypot(
        *(float(np.linalg.norm(getattr(whole, k) - getattr(less, k))) for k in ("gram", "xty"))
    )
    assert moved <= whole.sensitivity
    one = clipped_ridge(np.array([[8.0, 6.0]], np.float32), labels[:1], n_classes=4, clip=2)
    reached = math.hypot(float(np.linalg.norm(one.gram)), float(np.linalg.norm(one.xty)))
    assert reached == pytest.approx(one.sensitivity, rel=1e-5)


def test_several_labels_are_signs_in_ridge_and_refused_elsewhere() -> None:
    features, _, _ = _case(2)
    labels = np.random.default_rng(2).integers(0, 2, (30, 4))
    z = np.column_stack([features.astype(np.float64), np.ones(30)])
    found = clipped_ridge(features, labels, n_classes=4, clip=100)
    np.testing.assert_allclose(found.xty, z.T @ (2 * labels - 1), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(found.gram, z.T @ z, rtol=1e-5, atol=1e-4)
    with pytest.raises(PrivacyError, match=r"a label is outside 0\.\.3"):
        clipped_prototypes(features, labels, n_classes=4, clip=1)
    with pytest.raises(PrivacyError, match="labels are not 3 columns of 0 and 1"):
        clipped_ridge(features, labels, n_classes=3, clip=1)


def test_no_records_sum_to_zero() -> None:
    nothing = np.zeros((0, 5), np.float32), np.zeros(0, np.int64)
    assert not clipped_prototypes(*nothing, n_classes=3, clip=1).sums.any()
    assert not clipped_ridge(*nothing, n_classes=3, clip=1, units=np.zeros(0, str)).gram.any()


def test_what_would_leave_the_sums_unbounded_is_refused() -> None:
    features, labels, _ = _case(1)
    with pytest.raises(PrivacyError, match="the clip on features is 0"):
        clipped_prototypes(features, labels, n_classes=3, clip=0)
    with pytest.raises(PrivacyError, match=r"a label is outside 0\.\.1"):
        clipped_ridge(features, labels, n_classes=2, clip=1)
    features[0, 0] = np.inf
    with pytest.raises(PrivacyError, match="not finite"):
        clipped_ridge(features, labels, n_classes=3, clip=1)
