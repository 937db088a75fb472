import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from foedus.backbones import Moments, Standardiser
from foedus.errors import BackboneError, ConfigError
from foedus.examples import Examples
from foedus.statistic import Arrays
from foedus.sums import ExactSum

NAN = float("nan")


def _examples(features: NDArray[np.float32]) -> Examples:
    return Examples(features, np.zeros(len(features), np.int64))


def _total(*parts: NDArray[np.float32]) -> Arrays:
    moments = Moments(dim=parts[0].shape[1])
    running = ExactSum(moments.declare())
    for part in parts:
        running.add(moments.measure(_examples(part)))
    return running.total()


def _read(*parts: NDArray[np.float32]) -> Standardiser:
    return Moments(dim=parts[0].shape[1]).read(_total(*parts))


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(2, 30), st.integers(1, 4)),
        elements=st.one_of(st.floats(-1e4, 1e4, width=32), st.just(NAN)),
    ),
    st.integers(0, 30),
    st.integers(0, 30),
)
def test_sums_over_split_parts_equal_the_pooled_ones(features: NDArray[np.float32], a: int, b: int) -> None:
    first, second = sorted((min(a, len(features)), min(b, len(features))))
    parts = [features[:first], features[first:second], features[second:]]
    split, pooled = _read(*parts), _read(features)
    size = np.nanmax(np.abs(features), axis=0, initial=1.0)
    np.testing.assert_allclose(split.mean, pooled.mean, atol=1e-9 * float(size.max()))
    np.testing.assert_allclose(split.scale, pooled.scale, rtol=1e-3, atol=1e-4 * float(size.max()))
    shuffled = _total(*parts[::-1])
    for name, value in _total(*parts).items():
        np.testing.assert_array_equal(value, shuffled[name])


def test_mean_and_scale_equal_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(200, 5)) * [1e-3, 1, 10, 1e3, 1e5] + [0, 3, -5, 0, 2e5]).astype(np.float32)
    features[rng.random((200, 5)) < 0.1] = NAN
    oracle = StandardScaler().fit(features.astype(np.float64))
    found = _read(features[:50], features[50:70], features[70:])
    np.testing.assert_allclose(found.mean, oracle.mean_, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(found.scale, oracle.scale_, rtol=1e-6)
    expected = np.nan_to_num(oracle.transform(features.astype(np.float64)), nan=0.0)
    applied = found.apply(features)
    assert applied.dtype == np.float32
    np.testing.assert_allclose(applied, expected, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.3, -1e-4, 12345.678, 1e9])
def test_constant_feature_has_scale_1_however_many_sites(value: float) -> None:
    parts = [np.full((7, 1), value, np.float32) for _ in range(9)]
    found = _read(*parts)
    assert found.scale.tolist() == [1.0]
    assert found.mean[0] == pytest.approx(np.float32(value), rel=1e-9, abs=1e-11)


def test_feature_nobody_has_is_left_at_0() -> None:
    found = _read(np.array([[NAN, 1.0], [NAN, 3.0]], np.float32))
    assert (found.mean.tolist(), found.scale.tolist()) == ([0.0, 2.0], [1.0, 1.0])
    np.testing.assert_array_equal(found.apply(np.array([[NAN, NAN]], np.float32)), [[0.0, 0.0]])


def test_amounts_of_money_fit_the_grid_and_keep_their_spread() -> None:
    rng = np.random.default_rng(0)
    amounts = (rng.lognormal(13, 1.5, size=(5000, 1))).astype(np.float32)
    found = _read(amounts[:2000], amounts[2000:])
    assert found.scale[0] == pytest.approx(amounts.astype(np.float64).std(), rel=1e-9)


def test_small_spread_is_not_mistaken_for_a_constant() -> None:
    features = np.array([[1e-5], [3e-5]] * 50, np.float32)
    assert _read(features).scale[0] == pytest.approx(1e-5, rel=1e-2)


def test_features_too_large_to_sum_are_refused() -> None:
    with pytest.raises(BackboneError, match="too large to be summed; use smaller units"):
        Moments(dim=1).measure(_examples(np.array([[1e11]], np.float32)))


def test_features_of_another_width_are_refused() -> None:
    with pytest.raises(BackboneError, match=r"shape \(2, 3\), expected \(n, 4\)"):
        Moments(dim=4).measure(_examples(np.zeros((2, 3), np.float32)))
    with pytest.raises(BackboneError, match=r"shape \(2, 3\), expected \(n, 1\)"):
        Standardiser(np.zeros(1), np.ones(1)).apply(np.zeros((2, 3), np.float32))


def test_measure_returns_exactly_what_is_declared() -> None:
    moments = Moments(dim=3)
    measured = moments.measure(_examples(np.ones((4, 3), np.float32)))
    assert set(measured) == set(moments.declare())
    assert measured["feature-count"].dtype == np.int64
    assert measured["feature-sum"].dtype == np.float64


def test_request_travels_and_anything_unexpected_is_refused() -> None:
    moments = Moments(dim=3)
    assert Moments.from_wire(moments.settings(), moments.arrays()) == moments
    with pytest.raises(ConfigError, match="extra is not a known key"):
        Moments.from_wire({"dim": 3, "extra": 1}, {})
    with pytest.raises(ConfigError, match="dim"):
        Moments.from_wire({"dim": 0}, {})
    with pytest.raises(ConfigError, match="x is not a known array"):
        Moments.from_wire({"dim": 3}, {"x": np.zeros(1)})


def test_standardiser_travels_beside_a_head() -> None:
    standardiser = Standardiser(np.array([1.0, 2.0]), np.array([0.5, 1.0]))
    arrays = {**standardiser.arrays(), "weight": np.zeros((2, 2), np.float32)}
    back = Standardiser.from_arrays(arrays)
    np.testing.assert_array_equal(back.mean, standardiser.mean)
    np.testing.assert_array_equal(back.scale, standardiser.scale)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"feature-mean": np.zeros(2)}, "feature-scale is missing"),
        ({"feature-mean": np.zeros(2), "feature-scale": np.ones(3)}, "of one length"),
        ({"feature-mean": np.zeros(2), "feature-scale": np.array([1.0, 0.0])}, "above 0"),
        ({"feature-mean": np.array([NAN]), "feature-scale": np.ones(1)}, "must be finite"),
    ],
)
def test_standardiser_that_cannot_be_one_is_refused(given: Arrays, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Standardiser.from_arrays(given)
