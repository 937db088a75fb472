"""One-round private heads: how far a unit can move them, and that without noise they are the plain ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from fewshot.private import SUMS, PrivatePrototypes, PrivateRidge, prototype_head, ridge_head, unit_weight
from fewshot.prototypical import PrototypeTotals
from foedus.errors import ConfigError, FewShotError, PrivacyError
from foedus.examples import Examples

N_CLASSES = 3


def make(seed: int, *, n: int = 40, dim: int = 6, scale: float = 1.0, unit: bool = False) -> Examples:
    """Records of 12 patients; `unit` brings every row to length one."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, N_CLASSES, n)
    features = scale * (rng.normal(size=(n, dim)) + 2 * rng.normal(size=(N_CLASSES, dim))[labels])
    if unit:
        features /= np.linalg.norm(features, axis=1, keepdims=True)
    return Examples(features.astype(np.float32), labels, units=rng.integers(0, 12, n).astype(str))


def statistics(dim: int) -> list[PrivatePrototypes | PrivateRidge]:
    return [PrivatePrototypes(N_CLASSES, dim), PrivateRidge(N_CLASSES, dim)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.sampled_from([1e-3, 0.3, 1.0, 1e4]))
def test_a_unit_with_many_records_moves_what_leaves_by_no_more_than_the_sensitivity(
    seed: int, dim: int, scale: float
) -> None:
    whole = make(seed, dim=dim, scale=scale)
    assert whole.units is not None
    rest = whole.take(np.flatnonzero(whole.units != whole.units[0]))
    for statistic in statistics(dim):
        moved = np.linalg.norm(statistic.measure(whole)[SUMS] - statistic.measure(rest)[SUMS])
        assert moved <= (statistic.declare()[SUMS].sensitivity or 0.0)


@pytest.mark.parametrize("statistic", statistics(4), ids=lambda found: found.name)
@pytest.mark.parametrize("row", [[1.0, 0, 0, 0], [0.5, -0.5, 0.5, 0.5], [30.0, 0, 40.0, 0]])
def test_one_record_of_full_length_reaches_the_sensitivity_whatever_its_direction(
    statistic: PrivatePrototypes | PrivateRidge, row: list[float]
) -> None:
    alone = statistic.measure(Examples(np.array([row], np.float32), np.array([1])))
    assert np.linalg.norm(alone[SUMS]) == pytest.approx(statistic.declare()[SUMS].sensitivity, rel=3e-6)


def test_the_sensitivities_by_hand_are_below_those_of_the_plain_sums() -> None:
    assert unit_weight(16) == 0.5
    prototypes, ridge = (statistic.declare()[SUMS].sensitivity for statistic in statistics(16))
    assert prototypes == pytest.approx(np.sqrt(1.25), rel=2e-6)  # against sqrt(2)
    assert ridge == pytest.approx(np.sqrt(1.25**2 / 2 + 1.25), rel=2e-6)  # against sqrt(6)


def test_without_noise_prototypes_read_the_plain_class_sums_and_counts() -> None:
    examples = make(0, unit=True)
    alone = Examples(examples.features, examples.labels)
    statistic = PrivatePrototypes(N_CLASSES, 6)
    found = statistic.read(statistic.measure(alone))
    expected = np.stack([alone.features[alone.labels == c].sum(axis=0) for c in range(N_CLASSES)])
    np.testing.assert_allclose(found.class_sum, expected, rtol=1e-5, atol=1e-6)
    assert found.class_count.tolist() == np.bincount(alone.labels, minlength=N_CLASSES).tolist()


def test_without_noise_ridge_reads_the_plain_gram_matrix_and_class_sums() -> None:
    examples = make(1, unit=True)
    alone = Examples(examples.features, examples.labels)
    statistic = PrivateRidge(N_CLASSES, 6)
    gram, xty = statistic.read(statistic.measure(alone))
    z = np.column_stack([alone.features.astype(np.float64), np.full(len(alone), unit_weight(6))])
    np.testing.assert_allclose(gram, z.T @ z, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(xty, z.T @ np.eye(N_CLASSES)[alone.labels], rtol=1e-5, atol=1e-6)


def test_sums_of_two_sites_are_the_sums_of_their_records_together() -> None:
    whole = make(2)
    whole = Examples(whole.features, whole.labels)
    parts = [whole.take(np.arange(15)), whole.take(np.arange(15, 40))]
    for statistic in statistics(6):
        added = sum(statistic.measure(part)[SUMS] for part in parts)
        np.testing.assert_allclose(added, statistic.measure(whole)[SUMS], atol=1e-12)


def test_without_noise_the_ridge_head_is_ordinary_ridge_with_a_penalised_intercept() -> None:
    examples = make(3, unit=True)
    alone = Examples(examples.features, examples.labels)
    statistic = PrivateRidge(N_CLASSES, 6)
    gram, xty = statistic.read(statistic.measure(alone))
    head = ridge_head(gram, xty, deviation=0.0, penalty=0.7)
    z = np.column_stack([alone.features, np.full(len(alone), unit_weight(6))])
    expected = Ridge(alpha=0.7, fit_intercept=False).fit(z, np.eye(N_CLASSES)[alone.labels]).coef_
    np.testing.assert_allclose(head.weight, expected[:, :-1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(head.bias, expected[:, -1] * unit_weight(6), rtol=1e-4, atol=1e-5)


def test_noise_on_the_gram_matrix_is_symmetric_and_larger_on_the_diagonal_by_the_root_of_two() -> None:
    statistic, rng = PrivateRidge(2, 60), np.random.default_rng(0)
    (size,) = statistic.declare()[SUMS].shape
    noise, _ = statistic.read({SUMS: rng.normal(size=size)})
    assert (noise == noise.T).all()
    assert noise[np.triu_indices(61, 1)].std() == pytest.approx(1, rel=0.05)
    assert np.diagonal(noise).std() == pytest.approx(np.sqrt(2), rel=0.25)
    assert np.abs(np.linalg.eigvalsh(noise)).max() == pytest.approx(2 * np.sqrt(61), rel=0.1)


def test_a_noisy_ridge_head_is_penalised_by_what_the_noise_can_be() -> None:
    gram, xty = np.diag([5.0, -3.0, 5.0]), np.ones((3, 2))
    head = ridge_head(gram, xty, deviation=2.0)
    strength = 2 * np.sqrt(3)
    np.testing.assert_allclose(head.weight[0], [1 / (5 + strength), 1 / strength], rtol=1e-6)


def test_without_noise_the_prototype_head_is_the_plain_one() -> None:
    statistic = PrivatePrototypes(N_CLASSES, 6)
    examples = make(4)
    totals = statistic.read(statistic.measure(Examples(examples.features, examples.labels)))
    found, plain = prototype_head(totals, deviation=0.0), totals.head()
    np.testing.assert_array_equal(found.weight, plain.weight)
    np.testing.assert_allclose(found.bias, plain.bias, rtol=1e-6)


def test_the_prototype_head_takes_off_what_noise_adds_to_the_lengths_on_average() -> None:
    rng, deviation = np.random.default_rng(5), 2.0
    truth = np.zeros((2, 400))
    truth[0, 0], truth[1, 1] = 60.0, 28.0  # means of length 0.6 and 0.7
    count = np.array([100, 40])
    totals = [PrototypeTotals(truth + rng.normal(0, deviation, truth.shape), count) for _ in range(300)]
    bias = np.mean([prototype_head(total, deviation=deviation).bias for total in totals], axis=0)
    plain = np.mean([total.head().bias for total in totals], axis=0)
    assert bias == pytest.approx([-0.36, -0.49], abs=0.02)
    assert plain == pytest.approx([-0.36 - 400 * 0.02**2, -0.49 - 400 * 0.05**2], abs=0.03)


def test_a_class_whose_count_the_noise_has_eaten_never_wins_and_without_any_the_head_is_zero() -> None:
    sums = np.ones((2, 5))
    sums[1, -1] = -0.3
    statistic = PrivatePrototypes(2, 4)
    head = prototype_head(statistic.read({SUMS: sums}), deviation=1.0)
    assert head.scores(np.zeros((1, 4), np.float32)).argmax() == 0
    sums[0, -1] = 0.0
    nothing = prototype_head(statistic.read({SUMS: sums}), deviation=1.0)
    assert not nothing.weight.any()
    assert not nothing.bias.any()


@pytest.mark.parametrize("kind", [PrivatePrototypes, PrivateRidge])
def test_what_travels_makes_the_same_statistic_and_nothing_else_is_taken(
    kind: type[PrivatePrototypes] | type[PrivateRidge],
) -> None:
    asked = kind(3, 6)
    assert kind.from_wire(asked.settings(), asked.arrays()) == asked
    with pytest.raises(ConfigError, match="extra is not a known array"):
        kind.from_wire(asked.settings(), {"extra": np.zeros(1)})
    with pytest.raises(ConfigError, match="clip"):
        kind.from_wire({**asked.settings(), "clip": 100.0}, {})
    with pytest.raises(ConfigError, match="n_classes"):
        kind.from_wire({"n_classes": 1, "dim": 6}, {})
    with pytest.raises(ConfigError, match="dim"):
        kind.from_wire({"n_classes": 3}, {})


@pytest.mark.parametrize("statistic", statistics(5), ids=lambda found: found.name)
def test_features_of_another_width_or_not_finite_are_refused(
    statistic: PrivatePrototypes | PrivateRidge,
) -> None:
    with pytest.raises(FewShotError, match=r"shape \(40, 6\), expected \(n, 5\)"):
        statistic.measure(make(6))
    odd = make(7, dim=5)
    odd.features[0, 0] = np.nan
    with pytest.raises(PrivacyError, match="not finite"):
        statistic.measure(odd)
