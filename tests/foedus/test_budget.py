"""A private study's plan: every release, composed, is exactly the epsilon that was promised."""

from math import fsum

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foedus.budget import CENTRE, RELEASES, START, TEST, plan, release_of, round_name, statement
from foedus.errors import ConfigError, DoorError
from foedus.privacy.accountant import Gaussian, cross_check, epsilon
from foedus.study import Study, parse_study

STUDY = """
[study]
name = "toy"
classes = ["no", "yes"]
[backbone]
source = "bundled:efficientnet-lite0"
[federation]
start = "{start}"
rounds = {rounds}
[door]
mode = "{mode}"
epsilon = {epsilon}
delta = {delta}
sampling_rate = {rate}
{fairness}
{more}
"""


def study(
    *,
    start: str = "ridge",
    rounds: int = 5,
    epsilon: float = 3.0,
    delta: float = 1e-5,
    fair: bool = False,
    mode: str = "secure+ddp",
    rate: float = 1.0,
    more: str = "",
) -> Study:
    fairness = '[fairness]\npolicy = "policy.toml"' if fair else ""
    given = {"start": start, "rounds": rounds, "epsilon": epsilon, "delta": delta, "mode": mode, "rate": rate}
    return parse_study(STUDY.format(**given, fairness=fairness, more=more))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["ridge", "prototypes", "zero"]),
    st.integers(1, 200),
    st.floats(0.1, 20),
    st.sampled_from([1e-4, 1e-5, 1e-8]),
    st.booleans(),
)
def test_the_releases_of_a_plan_compose_to_exactly_the_epsilon_of_the_study(
    start: str, rounds: int, target: float, delta: float, fair: bool
) -> None:
    found = plan(study(start=start, rounds=rounds, epsilon=target, delta=delta, fair=fair))
    assert fsum(found.shares.values()) == pytest.approx(1, abs=1e-12)
    assert min(found.shares.values()) > 0
    spent = epsilon([Gaussian(found.multiplier(name)) for name in found.shares], delta)
    assert spent == pytest.approx(target, rel=1e-5)


def test_a_second_accountant_agrees_on_the_plan() -> None:
    found = plan(study(fair=True))
    events = [Gaussian(found.multiplier(name)) for name in found.shares]
    assert cross_check(events, 1e-5) == pytest.approx(3.0, rel=0.02)


def test_the_plan_names_every_release_once_in_order() -> None:
    assert list(plan(study(rounds=2)).shares) == ["centre", "start", "round 1", "round 2", "test"]
    assert list(plan(study(rounds=1, start="zero", fair=True)).shares) == [
        "centre",
        "round 1",
        "test",
        "audit",
    ]


def test_shares_by_hand() -> None:
    shares = plan(study(rounds=3)).shares
    assert shares[CENTRE] == 0.05
    assert shares[TEST] == 0.1
    assert shares[START] == pytest.approx(0.85 * 0.4)
    assert shares[round_name(2)] == pytest.approx(0.85 * 0.6 / 3)


def test_without_rounds_the_start_has_their_part() -> None:
    found = plan(study(rounds=0))
    assert list(found.shares) == ["centre", "start", "test"]
    assert found.shares[START] == pytest.approx(0.85)
    assert fsum(found.shares.values()) == pytest.approx(1)


def test_a_release_with_a_quarter_of_the_budget_has_twice_the_noise() -> None:
    found = plan(study())
    for name, share in found.shares.items():
        assert found.multiplier(name) == pytest.approx(found.total / share**0.5)


def test_what_is_spent_grows_with_the_rounds_and_leaves_the_test_its_share() -> None:
    found = plan(study(rounds=4))
    spent = [found.spent_after(number) for number in range(5)]
    assert spent == sorted(spent)
    assert spent[-1] < 3.0


def test_a_release_that_is_not_in_the_plan_stays_at_the_site() -> None:
    found = plan(study(rounds=2, start="zero"))
    for name in ("round 3", "round 0", START, "audit", "", "Centre"):
        with pytest.raises(DoorError, match="is not among the releases of this study's privacy plan"):
            found.multiplier(name)


def test_only_statistics_with_a_bound_have_a_place() -> None:
    assert {release_of(name) for name in RELEASES} == {"centre", "start", "test", "audit"}
    for name in ("moments", "ridge", "prototypes", "episodes"):
        with pytest.raises(DoorError, match=f"'{name}' has no place in a private study; it stays here"):
            release_of(name)


def test_the_statement_promises_what_the_plan_spends() -> None:
    found = statement(study(epsilon=1.0))
    assert found["epsilon"] == pytest.approx(1.0, rel=1e-5)
    assert found["epsilon_prv"] == pytest.approx(1.0, rel=0.02)
    assert list(found["releases"]) == list(plan(study(epsilon=1.0)).shares)


def test_a_study_without_noise_promises_nothing() -> None:
    assert statement(study(mode="open")) == {"mode": "open", "guarantee": None}


@pytest.mark.parametrize(
    ("rate", "rounds", "target", "fair"), [(0.2, 30, 3.0, False), (0.5, 4, 1.0, True), (0.01, 300, 8.0, True)]
)
def test_sampled_rounds_have_the_noise_that_spends_exactly_epsilon(
    rate: float, rounds: int, target: float, fair: bool
) -> None:
    found = plan(study(rounds=rounds, epsilon=target, fair=fair, rate=rate))
    spent = epsilon(found.events, 1e-5)
    assert target - 1e-3 <= spent <= target
    assert cross_check(found.events, 1e-5) == pytest.approx(spent, rel=0.02)
    full = plan(study(rounds=rounds, epsilon=target, fair=fair))
    for name in (CENTRE, START, TEST):
        assert found.event(name) == full.event(name) == Gaussian(full.multiplier(name))
    assert found.event(round_name(1)) == Gaussian(found.multiplier(round_name(1)), rate)
    assert rate < found.multiplier(round_name(1)) / full.multiplier(round_name(1)) < 1


def test_what_is_spent_by_sampled_rounds_grows_to_less_than_epsilon() -> None:
    found = plan(study(rounds=5, rate=0.3))
    spent = [found.spent_after(number) for number in range(6)]
    assert spent == sorted(spent)
    assert spent[-1] < 3.0


@pytest.mark.parametrize("rate", [0.0, -0.5, 1.01])
def test_a_sampling_rate_outside_0_to_1_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match=r"door\.sampling_rate"):
        study(rate=rate)


def test_a_search_counts_on_all_units() -> None:
    with pytest.raises(ConfigError, match=r"door\.sampling_rate: the budget of \[search\]"):
        study(rate=0.5, more="[search]\ntrials = 3")
