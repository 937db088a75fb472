from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve

from foedus.attacks.gaussian import mu_of
from foedus.attacks.heads import Training
from foedus.attacks.lira import draw_members, evaluate, infer_membership, likelihood_ratios
from foedus.attacks.release import Release
from foedus.errors import AuditError
from foedus.examples import Examples

ROUNDS = 60


def attack(digits: Examples, epsilon: float | None, gaussian: Callable[..., Release]):
    """LiRA on heads trained for 60 rounds at (epsilon, 1e-4), or without protection."""
    rng = np.random.default_rng(0)
    if epsilon is None:
        return infer_membership(digits, n_classes=10, training=Training(ROUNDS, 10.0), rng=rng)
    deviation = np.sqrt(ROUNDS) / mu_of(epsilon, 1e-4)
    training = Training(ROUNDS, lr=4.0, clip_norm=1.0)
    release = gaussian(deviation, seed=1)
    return infer_membership(digits, n_classes=10, training=training, rng=rng, release=release)


def test_heads_without_protection_give_members_away(
    digits: Examples, gaussian: Callable[..., Release]
) -> None:
    found = attack(digits, None, gaussian)
    assert (found.n_units, found.n_heads) == (300, 128)
    assert 0.74 < found.auc.low < found.auc.value < found.auc.high < 0.83
    assert 0.10 < found.tpr_at_1_percent.low < found.tpr_at_1_percent.value < 0.20
    assert 0.04 < found.tpr_at_01_percent.value < 0.12


@pytest.mark.parametrize(("epsilon", "auc", "rate"), [(8.0, 0.68, 0.05), (1.0, 0.56, 0.015)])
def test_noise_hides_members(
    digits: Examples, gaussian: Callable[..., Release], epsilon: float, auc: float, rate: float
) -> None:
    found = attack(digits, epsilon, gaussian)
    assert 0.5 < found.auc.value < auc
    assert found.tpr_at_1_percent.value < rate


def test_a_seed_repeats_the_attack(digits: Examples, gaussian: Callable[..., Release]) -> None:
    few = digits.take(np.arange(0, 300, 5))
    found = [
        infer_membership(
            few,
            n_classes=10,
            training=Training(5, 4.0, 1.0),
            rng=np.random.default_rng(3),
            release=gaussian(1.0, seed=2),
            n_heads=16,
        )
        for _ in range(2)
    ]
    assert found[0] == found[1]


def test_every_record_is_in_half_of_the_heads() -> None:
    members = draw_members(10, 7, np.random.default_rng(0))
    assert members.sum(axis=0).tolist() == [5] * 7


def test_ratios_are_those_of_gaussians_fitted_to_the_other_heads() -> None:
    rng = np.random.default_rng(0)
    confidences, members = rng.normal(5.0, 2.0, (12, 4)), draw_members(12, 4, rng)
    ratios = likelihood_ratios(confidences, members)
    for h in range(12):
        others = np.arange(12) != h
        for i in range(4):
            sides = [confidences[others & side, i] for side in (members[:, i], ~members[:, i])]
            inside, outside = (norm.logpdf(confidences[h, i], side.mean(), side.std()) for side in sides)
            assert ratios[h, i] == pytest.approx(inside - outside)


def test_figures_agree_with_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    members = draw_members(20, 50, rng)
    ratios = rng.normal(size=members.shape) + members
    found = evaluate(ratios, members, rng=rng)
    assert found.auc.value == pytest.approx(roc_auc_score(members.ravel(), ratios.ravel()))
    false, true, _ = roc_curve(members.ravel(), ratios.ravel(), drop_intermediate=False)
    assert found.tpr_at_1_percent.value == pytest.approx(true[false <= 0.01].max())
    assert found.tpr_at_01_percent.value == pytest.approx(true[false <= 0.001].max())
    assert found.auc.low < found.auc.value < found.auc.high


def test_a_guess_is_worth_a_guess() -> None:
    rng = np.random.default_rng(2)
    members = draw_members(64, 200, rng)
    found = evaluate(rng.normal(size=members.shape), members, rng=rng)
    assert found.auc.low < 0.5 < found.auc.high
    assert found.tpr_at_1_percent.value == pytest.approx(0.01, abs=0.006)


def test_too_few_heads_are_refused(digits: Examples) -> None:
    with pytest.raises(AuditError, match="7 shadow heads"):
        infer_membership(
            digits, n_classes=10, training=Training(1, 1.0), rng=np.random.default_rng(0), n_heads=7
        )


def test_a_unit_of_many_records_is_found_more_often_than_a_record(digits: Examples) -> None:
    """With noise that hides one record but not five."""
    rng = np.random.default_rng(4)
    units = rng.permutation(np.repeat(np.arange(60), 5)).astype(np.str_)
    by_unit = Examples(digits.features, digits.labels, {}, units)
    training = Training(ROUNDS, 10.0)
    settings = {"n_classes": 10, "training": training, "n_heads": 64}
    alone = infer_membership(digits, rng=np.random.default_rng(0), **settings)  # type: ignore[arg-type]
    together = infer_membership(by_unit, rng=np.random.default_rng(0), **settings)  # type: ignore[arg-type]
    assert (alone.n_units, together.n_units) == (300, 60)
    assert together.auc.value > alone.auc.value + 0.05


def test_noise_for_units_hides_units(digits: Examples, gaussian: Callable[..., Release]) -> None:
    units = np.repeat(np.arange(60), 5).astype(np.str_)
    by_unit = Examples(digits.features, digits.labels, {}, units)
    found = attack(by_unit, 1.0, gaussian)
    assert found.n_units == 60
    assert found.auc.value < 0.58
