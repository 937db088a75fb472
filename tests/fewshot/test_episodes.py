import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot.episodes import EpisodeSampler
from foedus.errors import FewShotError

Y = np.repeat(np.arange(7), [3, 10, 11, 12, 30, 8, 9])


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 4), st.integers(1, 4), st.integers(1, 4), st.integers(0, 1000))
def test_episodes_hold_the_right_classes_and_no_example_twice(
    n_way: int, n_shot: int, n_query: int, seed: int
) -> None:
    episodes = EpisodeSampler(Y, n_way, n_shot, n_query, seed).draw(20)
    assert episodes.support.shape == (20, n_way * n_shot)
    assert episodes.query.shape == (20, n_way * n_query)
    assert (Y[episodes.support] == np.repeat(episodes.classes, n_shot, axis=1)).all()
    assert (Y[episodes.query] == np.repeat(episodes.classes, n_query, axis=1)).all()
    for support, query, classes in zip(episodes.support, episodes.query, episodes.classes, strict=True):
        assert len({*support, *query}) == len(support) + len(query)
        assert len(set(classes)) == n_way


def test_same_seed_same_episodes_other_seed_others() -> None:
    sampler = EpisodeSampler(Y, 3, 2, 2, 5)
    assert (sampler.draw(9).query == sampler.draw(9).query).all()
    assert (sampler.draw(9).query != EpisodeSampler(Y, 3, 2, 2, 6).draw(9).query).any()


def test_every_example_is_equally_likely_in_support_and_query() -> None:
    y = np.repeat([0, 1], 6)
    episodes = EpisodeSampler(y, 2, 2, 2, 0).draw(6000)
    for rows in (episodes.support, episodes.query):
        share = np.bincount(rows.ravel(), minlength=12) / 6000
        np.testing.assert_allclose(share, 1 / 3, atol=0.03)


def test_classes_and_names_can_be_anything() -> None:
    names = np.array([f"c{i}" for i in Y])
    episodes = EpisodeSampler(names, 2, 2, 2, classes=["c1", "c4"]).draw(5)
    assert set(episodes.classes.ravel()) == {"c1", "c4"}


def test_too_few_classes_says_what_to_do() -> None:
    expected = (
        "n_way is 5 but site 'north' has 3 classes with at least 11 examples; lower n_way or add examples"
    )
    with pytest.raises(FewShotError, match=expected):
        EpisodeSampler(Y, 5, 5, 6, site="north").draw(1)
    with pytest.raises(FewShotError, match="but the data have 1 class with at least 4 examples"):
        EpisodeSampler(Y, 2, 2, 2, classes=[0, 1]).draw(1)
    with pytest.raises(FewShotError, match="n_shot is 0, expected at least 1"):
        EpisodeSampler(Y, 2, 0, 2).draw(1)


def test_unequal_shots_fall_to_classes_at_random() -> None:
    sampler = EpisodeSampler(Y, 3, (1, 2, 5), 4)
    episodes = sampler.draw(200)
    assert sampler.support_labels.tolist() == [0, 1, 1, 2, 2, 2, 2, 2]
    assert (Y[episodes.support] == episodes.classes[:, sampler.support_labels]).all()
    assert (Y[episodes.query] == episodes.classes[:, sampler.query_labels]).all()
    for support, query in zip(episodes.support, episodes.query, strict=True):
        assert len({*support, *query}) == 8 + 12
    assert len(set(episodes.classes[:, 0])) == 5


def test_queries_come_from_held_out_rows_and_support_from_the_others() -> None:
    held = np.arange(len(Y)) % 3 == 0
    episodes = EpisodeSampler(Y, 3, 2, 2, held_out=held).draw(50)
    assert held[episodes.query].all()
    assert not held[episodes.support].any()
    assert (Y[episodes.query] == np.repeat(episodes.classes, 2, axis=1)).all()


def test_errors_of_unequal_shots_and_held_out_rows() -> None:
    with pytest.raises(FewShotError, match="n_shot has 2 numbers but n_way is 3; give one for each class"):
        EpisodeSampler(Y, 3, (1, 2), 2).draw(1)
    with pytest.raises(FewShotError, match="4 classes with at least 9 and 1 examples; lower n_way"):
        EpisodeSampler(Y, 5, 9, 1, held_out=np.arange(len(Y)) % 9 == 0).draw(1)
