import numpy as np
import pytest
from scipy.stats import ttest_rel

from fewshot.closed_form import fit_ridge
from fewshot.comparison import paired
from fewshot.episodes import EpisodeSampler
from fewshot.evaluate import evaluate
from fewshot.heads import PrototypeClassifier, RidgeHead
from fewshot.named import run_named_episodes
from fewshot.scoring import run_episodes
from foedus.errors import FewShotError


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(8), 30)
    return rng.normal(size=(240, 20)) + 0.7 * rng.normal(size=(8, 20))[y], y


def test_differences_are_those_of_the_same_episodes() -> None:
    x, y = data()
    sampler = EpisodeSampler(y, 5, (1, 2, 3, 5, 8), 10)
    heads = {
        "ridge": RidgeHead(),
        "prototypes": PrototypeClassifier(),
        "cosine": PrototypeClassifier("cosine"),
    }
    reports = {name: evaluate(head, x, y, sampler, n_episodes=400) for name, head in heads.items()}
    best = max(reports, key=lambda name: reports[name].mean)
    found = paired(reports)
    assert {each.method for each in found} == heads.keys() - {best}
    for each in found:
        one, other = reports[each.method], reports[best]
        assert each.against == best
        assert each.accuracy == pytest.approx(one.mean - other.mean)
        interval = ttest_rel(one.accuracies, other.accuracies).confidence_interval(0.95)
        assert each.ci95 == pytest.approx((interval.high - interval.low) / 2, rel=0.01)
        assert each.ci95 < one.ci95 + other.ci95
        assert each.nll == pytest.approx(one.nll - other.nll)


def test_a_method_is_level_with_itself() -> None:
    x, y = data()
    one = evaluate(RidgeHead(), x, y, EpisodeSampler(y), n_episodes=20)
    [found] = paired({"a": one, "b": one}, against="b")
    assert (found.accuracy, found.ci95, found.settled) == (0, 0, False)


def test_named_episodes_find_each_class_its_own_weights() -> None:
    x, y = data()
    sampler = EpisodeSampler(y, 4, 1, 10)
    centres = np.stack([x[y == c].mean(0) for c in range(8)])
    named = run_named_episodes(centres, x, sampler, n_episodes=60)
    mixed = run_named_episodes(centres[::-1], x, sampler, n_episodes=60)
    alone = run_episodes(fit_ridge, x, sampler, n_episodes=60)
    assert named.accuracy.mean() > alone.accuracy.mean() + 0.1 > mixed.accuracy.mean()


def test_errors_say_what_was_found() -> None:
    x, y = data()
    reports = {str(n): evaluate(RidgeHead(), x, y, EpisodeSampler(y), n_episodes=n) for n in (3, 4)}
    with pytest.raises(FewShotError, match="different numbers of episodes"):
        paired(reports)
    with pytest.raises(FewShotError, match="there is no report of 'x'; there are 3"):
        paired({"3": reports["3"]}, against="x")
