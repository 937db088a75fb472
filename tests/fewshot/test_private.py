"""One-round private heads: how far a unit can move them, and that without noise they are the plain ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from fewshot.private import (
    SUMS,
    PrivatePrototypes,
    PrivateRidge,
    _settled,
    prototype_head,
    ridge_head,
    unit_weight,
)
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


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.sampled_from([1e-3, 0.3, 1.0, 1e4]))
def test_a_unit_of_several_labels_moves_ridge_by_no_more_than_its_sensitivity(
    seed: int, dim: int, scale: float
) -> None:
    one = make(seed, dim=dim, scale=scale)
    labels = np.random.default_rng(seed).integers(0, 2, (len(one), 4))
    whole = Examples(one.features, labels, units=one.units)
    assert whole.units is not None
    rest = whole.take(np.flatnonzero(whole.units != whole.units[0]))
    statistic = PrivateRidge.from_wire(PrivateRidge(4, dim, multilabel=True).settings(), {})
    moved = np.linalg.norm(statistic.measure(whole)[SUMS] - statistic.measure(rest)[SUMS])
    sensitivity = statistic.declare()[SUMS].sensitivity or 0.0
    assert moved <= sensitivity
    full = Examples(np.eye(dim, dtype=np.float32)[:1] * 30, labels[:1])
    assert np.linalg.norm(statistic.measure(full)[SUMS]) == pytest.approx(sensitivity, rel=3e-6)
    _, xty = statistic.read(statistic.measure(Examples(whole.features, labels)))
    assert xty.shape == (dim + 1, 4)
    with pytest.raises(FewShotError, match="differ in how many labels a record may have"):
        PrivateRidge(4, dim).measure(whole)


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


def test_without_noise_the_prototype_head_scores_as_the_plain_one_but_for_a_constant() -> None:
    statistic, examples = PrivatePrototypes(N_CLASSES, 6), make(4, unit=True)
    totals = statistic.read(statistic.measure(Examples(examples.features, examples.labels)))
    found, plain = prototype_head(totals, deviation=0.0), totals.head()
    apart = found.scores(examples.features) - plain.scores(examples.features)
    np.testing.assert_allclose(apart, np.broadcast_to(apart[:, :1], apart.shape), atol=1e-5)


def noisy(sums: list[list[float]], counts: list[int], *, deviation: float, seed: int) -> PrototypeTotals:
    """Class sums of length 400 that begin with `sums`, and counts, with the noise of one release."""
    rng, truth = np.random.default_rng(seed), np.zeros((len(counts), 400))
    truth[:, : len(sums[0])] = sums
    found = counts + rng.normal(0, deviation / unit_weight(400), len(counts))
    return PrototypeTotals(truth + rng.normal(0, deviation, truth.shape), np.rint(found).astype(np.int64))


def test_the_prototype_head_takes_off_what_noise_adds_to_the_lengths() -> None:
    """Half and half (400 and 100 examples) at ±0.6 of their mean, 0; the smaller class has more noise."""
    found, plain = [], []
    for seed in range(100):
        totals = noisy([[96.0], [-96.0]], [400, 100], deviation=2.0, seed=seed)
        head = prototype_head(totals, deviation=2.0)
        at_mean = totals.class_sum.sum(axis=0) / totals.class_count.sum()
        for heads, one in ((found, head), (plain, totals.head())):
            scores = one.scores(at_mean[None].astype(np.float32))[0]
            heads.append(float(scores[0] - scores[1]))
    truth = 0.96**2 - 0.24**2  # squared distances of the means, 0.24 and -0.96, to the mean 0
    assert np.mean(found) == pytest.approx(truth, abs=0.03)
    assert np.mean(plain) == pytest.approx(truth + 400 * (0.02**2 - 0.005**2), abs=0.03)


def test_counts_that_differ_by_noise_alone_are_taken_as_equal_and_others_stay() -> None:
    alike = noisy([[0.0]] * 30, [100] * 30, deviation=10.0, seed=0)
    assert np.ptp(alike.class_count) > 100
    assert np.ptp(_settled(alike.class_count, deviation=10.0 / unit_weight(400))) < 60
    counts = np.array([1000, 2000, 4000])
    assert _settled(counts, deviation=20.0).tolist() == pytest.approx(counts, rel=0.001)
    assert _settled(counts, deviation=0.0).tolist() == counts.tolist()
    assert _settled(np.array([500, 500]), deviation=0.0).tolist() == [500, 500]


def test_a_class_lost_in_the_noise_hardly_wins_but_can_still_be_learnt() -> None:
    statistic = PrivatePrototypes(3, 4)
    sums = np.zeros((3, 5))
    sums[0, 0] = sums[1, 1] = 50.0
    sums[:, -1] = np.array([60.0, 60.0, -0.3]) * unit_weight(4)
    head = prototype_head(statistic.read({SUMS: sums}), deviation=1.0)
    assert head.scores(np.eye(4, dtype=np.float32)).argmax(axis=1).tolist()[:2] == [0, 1]
    assert not head.weight[2].any()
    assert -4 < head.bias[2] < min(head.bias[:2])
    nothing = prototype_head(statistic.read({SUMS: np.zeros((3, 5))}), deviation=1.0)
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
