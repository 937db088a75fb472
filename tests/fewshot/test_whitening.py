import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.estimator_checks import check_estimator

from fewshot.ridge import RidgeSums
from fewshot.whitening import MEAN, TRANSFORM, Whitening
from foedus.errors import FewShotError
from foedus.examples import Examples
from foedus.statistic import add


def make(seed: int = 0, n: int = 80) -> Examples:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 4
    mixing = rng.normal(size=(6, 6))
    centres = rng.normal(size=(4, 6)) * 3
    return Examples((rng.normal(size=(n, 6)) @ mixing + centres[labels]).astype(np.float32), labels)


def test_check_estimator_passes_without_exemption() -> None:
    check_estimator(Whitening(), on_skip=None)


def test_without_shrinkage_the_within_class_covariance_becomes_identity() -> None:
    examples = make()
    white = Whitening(shrinkage=0, normalise=False).fit_transform(examples.features, examples.labels)
    centred = np.concatenate(
        [white[examples.labels == c] - white[examples.labels == c].mean(0) for c in range(4)]
    )
    np.testing.assert_allclose(centred.T @ centred / (80 - 4), np.eye(6), atol=1e-3)


def test_full_shrinkage_is_centring_and_l2_normalisation() -> None:
    examples = make()
    white = Whitening(shrinkage=1).fit_transform(examples.features, examples.labels)
    centred = examples.features - examples.features.mean(0)
    np.testing.assert_allclose(white, centred / np.linalg.norm(centred, axis=1, keepdims=True), atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=80, max_size=80))
def test_from_totals_of_any_partition_equals_fit_on_the_pool(sites: list[int]) -> None:
    examples = make()
    statistic = RidgeSums(4, 6)
    total = statistic.measure(examples.take(np.flatnonzero(np.array(sites) == 0)))
    for s in (2, 3, 1):
        total = add(total, statistic.measure(examples.take(np.flatnonzero(np.array(sites) == s))))
    federated = Whitening.from_totals(statistic.read(total))
    central = Whitening().fit(examples.features, examples.labels)
    np.testing.assert_allclose(federated.transform_, central.transform_, atol=1e-6)
    np.testing.assert_allclose(federated.mean_, central.mean_, atol=1e-6)


def test_arrays_bring_the_same_transform_back() -> None:
    examples = make()
    whitening = Whitening(normalise=False).fit(examples.features, examples.labels)
    again = Whitening.from_arrays(whitening.arrays())
    assert again.normalise is False
    assert (again.transform(examples.features) == whitening.transform(examples.features)).all()


def test_unstandardised_reads_raw_features() -> None:
    examples = make()
    mean, scale = np.arange(6.0), np.arange(1.0, 7.0)
    whitening = Whitening().fit(examples.features, examples.labels)
    raw = (examples.features * scale + mean).astype(np.float32)
    np.testing.assert_allclose(
        whitening.unstandardised(mean, scale).transform(raw),
        whitening.transform(examples.features),
        atol=1e-5,
    )


def test_constant_features_stay_finite() -> None:
    examples = make()
    features = np.hstack([examples.features, np.ones((80, 2), np.float32)])
    for shrinkage in (0.0, 0.5):
        assert np.isfinite(Whitening(shrinkage).fit_transform(features, examples.labels)).all()


@pytest.mark.filterwarnings("ignore:The number of unique classes")
def test_errors_say_what_was_found() -> None:
    examples = make()
    with pytest.raises(FewShotError, match="no base class has 2 examples"):
        Whitening().fit(examples.features, np.arange(80))
    with pytest.raises(FewShotError, match=r"shrinkage is 2, expected 0\.\.1"):
        Whitening(shrinkage=2).fit(examples.features, examples.labels)
    arrays = Whitening().fit(examples.features, examples.labels).arrays()
    with pytest.raises(FewShotError, match="the whitening lacks whitening-mean"):
        Whitening.from_arrays({key: value for key, value in arrays.items() if key != MEAN})
    with pytest.raises(FewShotError, match=r"shapes \(6,\), \(5, 6\) and \(1,\)"):
        Whitening.from_arrays(arrays | {TRANSFORM: arrays[TRANSFORM][:5]})
    with pytest.raises(FewShotError, match="not finite"):
        Whitening.from_arrays(arrays | {MEAN: arrays[MEAN] * np.nan})


def test_carried_weights_give_the_same_scores_of_whitened_features_up_to_a_constant() -> None:
    examples = make()
    whitening = Whitening(normalise=False).fit(examples.features, examples.labels)
    weight = np.random.default_rng(1).normal(size=(3, 6))
    apart = (
        whitening.transform(examples.features) @ whitening.carried(weight).T - examples.features @ weight.T
    )
    np.testing.assert_allclose(apart, np.broadcast_to(apart[0], apart.shape), atol=1e-3)
