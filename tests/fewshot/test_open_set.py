import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from fewshot.episodes import EpisodeSampler
from fewshot.heads import PrototypeClassifier, RidgeHead
from fewshot.open_set import NONE_OF_THESE, Rejection
from fewshot.whitening import Whitening
from foedus.errors import FewShotError


def test_usual_distances_are_those_of_cases_left_out() -> None:
    """Two cases a class: the own squared distance is tripled, (n + 1)/(n - 1)."""
    found = Rejection.of(np.array([[0.0], [2.0], [10.0], [14.0]]), np.array([0, 0, 1, 1]))
    np.testing.assert_allclose(found.usual, [3, 3, 12, 12])
    np.testing.assert_allclose(found.distances(np.array([[4.0], [12.0]])), [9, 0])


def test_threshold_is_the_conformal_quantile() -> None:
    found = Rejection(np.zeros((1, 1)), np.arange(1.0, 20.0))
    assert found.threshold(0.05) == 19
    assert found.threshold(0.1) == 18
    assert Rejection(np.zeros((1, 1)), np.arange(1.0, 6.0)).threshold(0.05) == 5


def test_held_out_digit_is_farther_and_known_digits_are_rarely_rejected() -> None:
    digits = load_digits()
    x, y = digits.data, digits.target
    base = y >= 5
    x = (x - x[base].mean(0)) / (x[base].std(0) + 1)
    white = Whitening().fit(x[base], y[base]).transform(x)
    sampler = EpisodeSampler(y, 5, 5, 15, 0, classes=range(5))
    drawn, known = sampler.draw(150), sampler.support_labels < 4
    strange = sampler.query_labels == 4
    areas, false = [], []
    for s, q in zip(drawn.support, drawn.query, strict=True):
        found = Rejection.of(white[s][known], sampler.support_labels[known])
        areas.append(roc_auc_score(strange, found.distances(white[q])))
        false.append(found.rejects(white[q][~strange]).mean())
    assert np.mean(areas) > 0.8
    assert np.mean(false) < 0.06


@pytest.mark.parametrize("head", [RidgeHead(), PrototypeClassifier()])
def test_predict_with_rejection_says_none_of_these(head: RidgeHead) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 5)) + 6 * np.eye(5)[np.arange(20) % 2], np.arange(20) % 2
    head.fit(x, y)
    query = np.vstack([x[:1], np.full((1, 5), 50.0)])
    assert list(head.predict(query, reject=True)) == [0, NONE_OF_THESE]
    assert head.predict(query).dtype == y.dtype
    assert head.novelty(query)[0] < 1 < head.novelty(query)[1]


def test_one_case_of_each_class_cannot_reject() -> None:
    head = RidgeHead().fit(np.eye(2), [0, 1])
    with pytest.raises(FewShotError, match="no class has 2 cases"):
        head.predict(np.eye(2), reject=True)
    with pytest.raises(FewShotError, match="rate is 0, expected a number between 0 and 1"):
        RidgeHead().fit(np.eye(4), [0, 0, 1, 1]).predict(np.eye(4), reject=True, rate=0)
