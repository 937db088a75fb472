"""Spaces, draws and brackets: the same for the same seed, inside the space, and halved as the paper says."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foedus.errors import ConfigError
from foedus.search import SPACE, Choices, Drawn, SearchSection, Values, draw, kept
from foedus.study import Study, parse_study, study_from_json

STUDY = """
[study]
name = "toy"
classes = ["no", "yes"]
[door]
mode = "{mode}"
[search]
{search}
[search.space]
{space}
"""


def study(space: str = "", *, search: str = "", mode: str = "open") -> Study:
    return parse_study(STUDY.format(mode=mode, search=search, space=space))


def section(space: str = "", *, search: str = "", mode: str = "open") -> SearchSection:
    found = study(space, search=search, mode=mode).search
    assert found is not None
    return found


def drawn(search: SearchSection, seed: int = 7, *, private: bool = False) -> Drawn:
    return draw(search, seed=seed, private=private, refusal=lambda values: None)


def test_the_same_seed_draws_the_same_trials_and_another_seed_others() -> None:
    search = section()
    assert drawn(search) == drawn(search)
    assert drawn(search).trials != drawn(search, 8).trials
    assert len(drawn(search).trials) == 12


def test_a_study_that_travelled_draws_the_same_trials() -> None:
    space = '"federation.lr" = { low = 0.01, high = 1, scale = "log" }\n"federation.batch_size" = [16, 32]'
    sent = study(space)
    received = study_from_json(sent.to_json()).search
    assert received == sent.search
    assert received is not None
    assert drawn(received) == drawn(section(space))


def test_the_default_space_is_drawn_from_where_there_is_none() -> None:
    trials = drawn(SearchSection()).trials
    assert all(set(values) == set(SPACE) for values in trials)
    assert all(0.005 <= float(str(values["federation.lr"])) <= 0.5 for values in trials)
    assert {values["federation.strategy"] for values in trials} <= {"fedavg", "fedprox", "fedadam"}


def test_a_trial_is_never_drawn_twice() -> None:
    search = section('"federation.local_epochs" = [1, 2, 3, 4]', search="trials = 4")
    trials = drawn(search).trials
    assert sorted(int(str(values["federation.local_epochs"])) for values in trials) == [1, 2, 3, 4]


@given(st.integers(1, 50), st.integers(1, 50), st.sampled_from(["linear", "log"]), st.integers(0, 99))
def test_whole_ends_draw_whole_numbers_between_them(low: int, more: int, scale: Any, seed: int) -> None:
    search = SearchSection(
        space={"federation.batch_size": Choices(low=low, high=low + more, scale=scale)}, trials=2
    )
    for values in drawn(search, seed).trials:
        found = values["federation.batch_size"]
        assert type(found) is int
        assert low <= found <= low + more


@given(st.floats(1e-6, 1), st.floats(1.1, 1e4), st.sampled_from(["linear", "log"]), st.integers(0, 99))
def test_a_number_stays_in_its_range(low: float, factor: float, scale: Any, seed: int) -> None:
    search = SearchSection(
        space={"federation.lr": Choices(low=low, high=low * factor, scale=scale)}, trials=2
    )
    for values in drawn(search, seed).trials:
        assert low <= float(str(values["federation.lr"])) <= low * factor


def test_a_log_scale_draws_every_decade_as_often() -> None:
    search = SearchSection(space={"federation.lr": Choices(low=0.001, high=1.0, scale="log")}, trials=600)
    found = [float(str(values["federation.lr"])) for values in drawn(search).trials]
    assert 170 < sum(rate < 0.01 for rate in found) < 230


@pytest.mark.parametrize(
    ("settings", "rungs"),
    [
        ({}, [(12, 2, 2), (4, 6, 4)]),
        ({"trials": 27, "rounds": 1}, [(27, 1, 1), (9, 3, 2), (3, 9, 6)]),
        ({"trials": 16, "rounds": 3, "eta": 2}, [(16, 3, 3), (8, 6, 3), (4, 12, 6), (2, 24, 12)]),
        ({"trials": 5}, [(5, 2, 2)]),
    ],
)
def test_rungs_by_hand(settings: dict[str, int], rungs: list[tuple[int, int, int]]) -> None:
    search = SearchSection(**settings)  # type: ignore[arg-type]
    assert [(rung.trials, rung.rounds, rung.new) for rung in search.bracket] == rungs
    assert search.releases == sum(trials * (new + 1) for trials, _, new in rungs)


def test_the_best_go_on_and_of_equals_the_earlier() -> None:
    scores = {1: 0.5, 2: None, 3: 0.2, 4: 0.5, 5: 0.9}
    assert kept(scores, 3, metric="log_loss") == [3, 1, 4]
    assert kept(scores, 3, metric="accuracy") == [5, 1, 4]
    assert kept({1: None}, 1, metric="accuracy") == []


@pytest.mark.parametrize(
    "key", ["door.epsilon", "federation.rounds", "study.seed", "backbone.source", "nope"]
)
def test_what_is_not_training_is_refused_with_what_can_be_searched(key: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"{key} cannot be searched; what can is federation\.lr, .*everything in"
    ):
        study(f'"{key}" = [1, 2]', search="trials = 2")


@pytest.mark.parametrize(
    ("space", "problem"),
    [
        ('"federation.lr" = [0.1, 0.0]', r"search\.space\.federation\.lr: .*greater than 0 \(found 0"),
        (
            '"federation.lr" = { low = 0.1, high = 500 }',
            r"search\.space\.federation\.lr: .*less than or equal to 100",
        ),
        ('"federation.strategy" = ["fedavg", "fedbest"]', r"found 'fedbest'"),
        ('"federation.local_epochs" = { low = 0.5, high = 3 }', r"local_epochs: .*integer"),
        ('"tuning.rnak" = [4, 8]', r"rnak is not a known key; did you mean 'rank'"),
        ('"federation.lr" = { low = 0.1, hihg = 1 }', r"hihg is not a known key; did you mean 'high'"),
        ('"federation.lr" = { low = 2, high = 1 }', r"a range takes low and a higher high"),
        ('"federation.lr" = { low = 0, high = 1, scale = "log" }', r"a log scale begins above 0"),
        ('"federation.lr" = [0.1, 0.1]', r"give a list of different values"),
        ('"federation.lr" = []', r"give a list of different values"),
        (
            '"federation.local_epochs" = [1, 2]',
            r"search\.trials is 12 but search\.space holds 2 combinations",
        ),
    ],
)
def test_a_bad_space_is_refused_with_the_key(space: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        study(space)


def test_a_last_rung_of_too_many_rounds_is_refused() -> None:
    with pytest.raises(ConfigError, match="the last rung has 25000 rounds, the most is 10000"):
        study(search="trials = 64\nrounds = 1000\neta = 5")


def test_combinations_that_are_no_study_are_drawn_again_and_counted() -> None:
    space = '"federation.strategy" = ["fedavg", "krum"]\n"federation.lr" = { low = 0.01, high = 0.1 }'

    def refusal(values: Values) -> str | None:
        return "krum reads single updates" if values["federation.strategy"] == "krum" else None

    found = draw(section(space), seed=1, private=False, refusal=refusal)
    assert len(found.trials) == 12
    assert {values["federation.strategy"] for values in found.trials} == {"fedavg"}
    assert found.refused
    assert all(reason == "krum reads single updates" for _, reason in found.refused)


def test_a_space_without_enough_valid_combinations_names_one_that_is_not() -> None:
    search = section('"federation.strategy" = ["fedavg", "krum"]', search="trials = 2")

    def refusal(values: Values) -> str | None:
        return "it reads single updates" if values["federation.strategy"] == "krum" else None

    with pytest.raises(
        ConfigError, match=r"gave 1 .* federation.strategy = krum is not one: it reads single updates"
    ):
        draw(search, seed=1, private=False, refusal=refusal)


def test_a_private_study_searches_what_its_noisy_rounds_read_and_ranks_by_counts() -> None:
    search = section(mode="local-dp")
    assert set(search.searched(private=True)) == {"federation.lr", "federation.strategy"}
    assert search.ranks_by(private=True) == "accuracy"
    with pytest.raises(
        ConfigError, match=r"federation\.local_epochs would not change a private study's rounds"
    ):
        study('"federation.local_epochs" = { low = 1, high = 99 }', mode="local-dp")
    with pytest.raises(ConfigError, match='releases counts only; use "accuracy"'):
        study(search='metric = "log_loss"', mode="local-dp")


def test_a_study_without_a_search_travels_without_one() -> None:
    plain = parse_study('[study]\nname = "toy"\nclasses = ["no", "yes"]\n')
    assert json.loads(plain.to_json())["search"] is None
    assert study_from_json(plain.to_json()) == plain
