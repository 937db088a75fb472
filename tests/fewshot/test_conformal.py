import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge

from fewshot.conformal import PENALTY, ConformalSets, unit_rows
from fewshot.episodes import EpisodeSampler
from fewshot.heads import MAMLHead, PrototypeClassifier, RidgeHead
from fewshot.whitening import Whitening
from foedus.errors import FewShotError


def cases(n_shot: int, *, n_way: int = 3, dim: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n_way), n_shot)
    return rng.normal(size=(len(labels), dim)) + rng.normal(size=(n_way, dim))[labels], labels


@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize(("n_shot", "dim"), [(4, 20), (4, 3), (1, 20)])
def test_p_values_equal_refitting_without_every_case_for_every_class(
    n_shot: int, dim: int, per_class: bool
) -> None:
    x, y = cases(n_shot, dim=dim)
    query = np.random.default_rng(5).normal(size=(4, dim))
    found = ConformalSets.of(x, y).p_values(query, per_class=per_class)
    for row, q in enumerate(unit_rows(query)):
        for candidate in range(3):
            features, labels = np.vstack([unit_rows(x), q]), np.append(y, candidate)
            targets = np.eye(3)[labels]
            margins = []
            for i in range(len(labels)):
                left = Ridge(alpha=PENALTY).fit(np.delete(features, i, 0), np.delete(targets, i, 0))
                scores = left.predict(features[i : i + 1])[0]
                margins.append(max(np.delete(scores, labels[i])) - scores[labels[i]])
            among = labels == candidate if per_class else np.ones(len(labels), bool)
            worse = np.array(margins)[among] >= margins[-1] - 1e-9
            assert found[row, candidate] == pytest.approx(worse.mean())


def episodes(n_shot: int, n_episodes: int, *, seed: int = 0) -> list[tuple[np.ndarray, ...]]:
    """Supports and queries of novel digits, whitened by the others."""
    digits = load_digits()
    x, y = digits.data, digits.target
    base = y >= 5
    x = (x - x[base].mean(0)) / (x[base].std(0) + 1)
    white = Whitening().fit(x[base], y[base]).transform(x)
    sampler = EpisodeSampler(y, 5, n_shot, 10, seed, classes=range(5))
    drawn = sampler.draw(n_episodes)
    return [
        (white[s], sampler.support_labels, white[q], sampler.query_labels)
        for s, q in zip(drawn.support, drawn.query, strict=True)
    ]


@pytest.mark.parametrize("alpha", [0.1, 0.2])
def test_sets_cover_the_truth_over_many_episodes(alpha: float) -> None:
    """Queries of an episode share a support, so the error is that of independent episodes."""
    covered = []
    for support, labels, query, truth in episodes(5, 200):
        sets = ConformalSets.of(support, labels).sets(query, alpha=alpha)
        covered.append(sets[np.arange(len(truth)), truth].mean())
    error = np.std(covered) / np.sqrt(len(covered))
    assert np.mean(covered) >= 1 - alpha - 2 * error


def test_sets_of_each_class_by_itself_follow_their_law() -> None:
    """With 5 cases p is a multiple of 1/6, so alpha = .2 covers 5 in 6, and alpha = .1 rules nothing out."""
    covered = []
    for support, labels, query, truth in episodes(5, 200):
        conformal = ConformalSets.of(support, labels)
        sets = conformal.sets(query, alpha=0.2, per_class=True)
        covered.append(sets[np.arange(len(truth)), truth].mean())
        assert conformal.sets(query, alpha=0.1, per_class=True).all()
    error = np.std(covered) / np.sqrt(len(covered))
    assert abs(np.mean(covered) - 5 / 6) < 3 * error


def test_below_the_smallest_alpha_every_class_is_in_the_set() -> None:
    x, y = cases(3)
    conformal, query = ConformalSets.of(x, y), np.random.default_rng(1).normal(size=(5, 20))
    assert conformal.sets(query, alpha=1 / 10 - 1e-6).all()
    assert not conformal.sets(x * 9, alpha=1 / 10).all()


def test_a_batch_of_queries_equals_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = cases(4)
    query = np.random.default_rng(1).normal(size=(7, 20))
    together = ConformalSets.of(x, y).p_values(query)
    monkeypatch.setattr("fewshot.conformal._BATCH_FLOATS", 1)
    np.testing.assert_array_equal(ConformalSets.of(x, y).p_values(query), together)
    assert ConformalSets.of(x, y).p_values(query[:0]).shape == (0, 3)


@pytest.mark.parametrize(
    "head", [RidgeHead(), PrototypeClassifier(), PrototypeClassifier("cosine"), MAMLHead()]
)
def test_every_head_gives_sets_of_its_classes(head: RidgeHead) -> None:
    x, y = cases(6)
    names = np.array(["a", "b", "c"])[y]
    sets = head.fit(x, names).predict_set(x, alpha=0.2)
    assert sets.shape == (18, 3)
    assert sets[np.arange(18), y].mean() > 0.8


def test_alpha_out_of_range_is_named() -> None:
    with pytest.raises(FewShotError, match=r"alpha is 1\.5, expected a number between 0 and 1"):
        RidgeHead().fit(*cases(3)).predict_set(np.zeros((1, 20)), 1.5)
