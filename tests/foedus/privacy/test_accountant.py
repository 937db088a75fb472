"""Epsilon: right by formula, by table and by another accountant."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from foedus.errors import PrivacyError
from foedus.privacy import accountant
from foedus.privacy.accountant import (
    Gaussian,
    calibrate,
    combine,
    cross_check,
    default_delta,
    distributed_sigma,
    epsilon,
)

TABLE = [  # noise, sampling, steps, delta, add-remove, replace: dp-accounting's own defaults
    (1.0, 0.01, 1000, 1e-5, 1.828, 2.843),
    (1.0, 0.0128, 780, 1e-5, 2.119, 3.267),
    (4.0, 0.2, 200, 1e-4, 2.632, 5.741),
    (0.8, 0.05, 200, 1e-5, 7.702, 10.326),
    (10.0, 1.0, 100, 1e-5, 4.377, 9.997),
]
noises = st.floats(0.6, 20)
samplings = st.sampled_from([0.01, 0.1, 0.5, 0.99, 1.0])


@pytest.mark.parametrize(("noise", "sampling", "steps", "delta", "add_remove", "replace"), TABLE)
def test_the_reference_table_comes_out(
    noise: float, sampling: float, steps: int, delta: float, add_remove: float, replace: float
) -> None:
    events = [Gaussian(noise, sampling, steps)]
    assert epsilon(events, delta) == pytest.approx(add_remove, rel=1e-3)
    assert epsilon(events, delta, relation="replace") == pytest.approx(replace, rel=1e-3)
    assert cross_check(events, delta) == pytest.approx(add_remove, rel=0.02)


def test_releases_without_sampling_are_exact() -> None:
    found = epsilon([Gaussian(10, steps=100)], 1e-5)
    assert found == pytest.approx(4.37718, abs=1e-5)
    # Balle and Wang 2018, theorem 8, with one release of noise multiplier 1
    delta = norm.cdf(0.5 - found) - math.exp(found) * norm.cdf(-0.5 - found)
    assert delta == pytest.approx(1e-5, rel=1e-9)


@pytest.mark.parametrize("relation", ["add-remove", "replace"])
@pytest.mark.parametrize("noise", [0.7, 3.0, 25.0])
def test_the_privacy_loss_distribution_equals_the_formula(
    noise: float, relation: accountant.Relation
) -> None:
    loss = accountant._loss(Gaussian(noise), 1e-4, relation)
    exact = epsilon([Gaussian(noise)], 1e-5, relation=relation)
    assert loss.get_epsilon_for_delta(1e-5) == pytest.approx(exact, rel=1e-3)


def test_a_mixed_ledger_agrees_with_the_other_accountant() -> None:
    events = [Gaussian(2, 0.05, 100), Gaussian(20), Gaussian(1.2, 0.01, 300), Gaussian(30, steps=5)]
    assert cross_check(events, 1e-5) == pytest.approx(epsilon(events, 1e-5), rel=0.02)


def test_order_and_grouping_change_nothing() -> None:
    events = [Gaussian(2, 0.1, 3), Gaussian(5), Gaussian(2, 0.1, 4), Gaussian(5)]
    assert combine(events) == (Gaussian(2, 0.1, 7), Gaussian(5, 1.0, 2))
    assert epsilon(events, 1e-5) == epsilon(combine(reversed(events)), 1e-5)


def test_nothing_released_costs_nothing() -> None:
    assert epsilon([], 1e-5) == cross_check([], 1e-5) == 0


@settings(max_examples=8, deadline=None)
@given(noises, samplings, st.integers(1, 40), st.sampled_from([1e-4, 1e-6]))
def test_epsilon_grows_with_steps_and_sampling_and_falls_with_noise_and_delta(
    noise: float, sampling: float, steps: int, delta: float
) -> None:
    found = epsilon([Gaussian(noise, sampling, steps)], delta)
    slack = 1e-3 * found + 1e-9
    assert epsilon([Gaussian(noise, sampling, steps + 5)], delta) >= found - slack
    assert epsilon([Gaussian(noise * 1.2, sampling, steps)], delta) <= found + slack
    assert epsilon([Gaussian(noise, min(1.0, sampling * 1.5), steps)], delta) >= found - slack
    assert epsilon([Gaussian(noise, sampling, steps)], delta / 10) >= found - slack
    assert epsilon([Gaussian(noise, sampling, steps)], delta, relation="replace") >= found - slack


def test_a_hopeless_list_costs_what_it_would_without_sampling() -> None:
    assert epsilon([Gaussian(0.01, 0.5, 1000)], 1e-5) == epsilon([Gaussian(0.01, 1.0, 1000)], 1e-5) > 1000


@pytest.mark.parametrize(
    ("noise", "sampling", "steps"),
    [(0, 1, 1), (math.nan, 1, 1), (math.inf, 1, 1), (1, 0, 1), (1, 1.1, 1), (1, 1, 0)],
)
def test_what_is_no_noisy_release_is_refused(noise: float, sampling: float, steps: int) -> None:
    with pytest.raises(PrivacyError, match="describe no noisy release"):
        Gaussian(noise, sampling, steps)


@pytest.mark.parametrize("delta", [0.0, 1.0, math.nan])
def test_a_delta_outside_0_and_1_is_refused(delta: float) -> None:
    with pytest.raises(PrivacyError, match="delta is"):
        epsilon([Gaussian(1)], delta)


def test_the_gdp_accountant_is_refused_by_name() -> None:
    with pytest.raises(PrivacyError, match=r"'gdp' accountant is refused: .* less epsilon than is spent"):
        cross_check([Gaussian(1, 0.01, 1000)], 1e-5, accountant="gdp")
    with pytest.raises(PrivacyError, match="'rdp' cannot confirm"):
        cross_check([Gaussian(1)], 1e-5, accountant="rdp")


def test_opacus_gdp_does_report_less_than_is_spent() -> None:
    from opacus.accountants import GaussianAccountant

    with pytest.warns(UserWarning, match="underestimate"):
        gdp = GaussianAccountant()
    gdp.history = [(1.0, 0.01, 1000)]
    assert gdp.get_epsilon(1e-5) < 0.9 * epsilon([Gaussian(1, 0.01, 1000)], 1e-5)


def test_accountants_that_disagree_are_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    true = epsilon([Gaussian(5)], 1e-5)
    for wrong in (1.021 * true, 0.979 * true, math.nan):
        monkeypatch.setattr(accountant, "_opacus_prv", lambda *_, wrong=wrong, **__: wrong)
        with pytest.raises(PrivacyError, match="differ by more than 2 %"):
            cross_check([Gaussian(5)], 1e-5)


@settings(max_examples=4, deadline=None)
@given(st.floats(0.1, 8), st.sampled_from([0.02, 0.3, 1.0]), st.integers(1, 60))
def test_calibrated_noise_spends_the_target_and_no_more(target: float, sampling: float, steps: int) -> None:
    noise = calibrate(target, 1e-5, steps=steps, sampling=sampling)
    assert target * 0.995 < epsilon([Gaussian(noise, sampling, steps)], 1e-5) <= target


@pytest.mark.parametrize("sampling", [0.1, 1.0])
def test_calibration_leaves_room_for_what_was_spent_before(sampling: float) -> None:
    earlier = [Gaussian(10, steps=10)]
    noise = calibrate(3, 1e-5, steps=10, sampling=sampling, earlier=earlier)
    assert 2.99 < epsilon([*earlier, Gaussian(noise, sampling, 10)], 1e-5) <= 3


def test_calibration_for_replacement_needs_twice_the_noise() -> None:
    assert calibrate(3, 1e-5, relation="replace") == pytest.approx(2 * calibrate(3, 1e-5))


@pytest.mark.parametrize("target", [0.0, 1.0, math.nan, math.inf])
def test_calibration_refuses_when_nothing_is_left(target: float) -> None:
    with pytest.raises(PrivacyError, match="nothing is left"):
        calibrate(target, 1e-5, earlier=[Gaussian(2)])


def test_distributed_shares_reach_the_total() -> None:
    share = distributed_sigma(3.0, 7)
    assert math.sqrt(7 * share**2) == pytest.approx(3.0)
    with pytest.raises(PrivacyError, match="cannot reach any total"):
        distributed_sigma(3.0, 0)


def test_default_delta_is_small_beside_one_in_n() -> None:
    assert [default_delta(n) for n in (0, 100, 10_000, 10**6)] == [1e-5, 1e-5, 1e-5, 1e-7]
