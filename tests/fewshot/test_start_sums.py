"""What a shared head is worth at a new site: each way against its definition, and what is refused."""

from typing import Any

import numpy as np
import pytest

from fewshot.episodes import EpisodeSampler
from fewshot.maml.safe import fit_maml
from fewshot.start_sums import WAYS, StartSums
from foedus.errors import ConfigError, FewShotError
from foedus.examples import Examples
from foedus.head import LinearHead

RNG = np.random.default_rng(1)
Y = np.repeat(np.arange(5), 25)
X = (RNG.normal(size=(5, 12))[Y] + RNG.normal(size=(len(Y), 12))).astype(np.float32)
HEAD = LinearHead(RNG.normal(size=(5, 12)).astype(np.float32) / 4, RNG.normal(size=5).astype(np.float32) / 4)
SIZES: dict[str, Any] = {"n_way": 3, "n_shot": 4, "n_query": 5, "episodes": 6, "seed": 2}


def sums(way: Any, head: LinearHead = HEAD, **more: Any) -> StartSums:
    return StartSums(head, way, **SIZES | more)


def by_hand(way: str) -> list[float]:
    """Accuracy of each episode, one after the other."""
    drawn = EpisodeSampler(Y, 3, 4, 5, random_state=2).draw(6)
    labels, truth = np.repeat(np.arange(3), 4), np.repeat(np.arange(3), 5)
    found = []
    for i in range(6):
        weight, bias = HEAD.weight[drawn.classes[i]].astype(float), HEAD.bias[drawn.classes[i]].astype(float)
        support, query = X[drawn.support[i]].astype(float), X[drawn.query[i]].astype(float)
        if way == "adapted":
            heads = fit_maml(support[None], labels, start=(weight, bias))
            found.append(float((heads.scores(query[None])[0].argmax(1) == truth).mean()))
            continue
        for _ in range(4 if way == "stepped" else 0):
            scores = support @ weight.T + bias
            p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
            slope = (p - np.eye(3)[labels]) / len(labels)
            weight, bias = weight - 0.3 * slope.T @ support, bias - 0.3 * slope.sum(0)
        found.append(float(((query @ weight.T + bias).argmax(1) == truth).mean()))
    return found


@pytest.mark.parametrize("way", ["shared", "stepped", "adapted"])
def test_each_way_is_what_it_says_on_every_episode(way: str) -> None:
    statistic = sums(way, n_steps=4, inner_lr=0.3)
    result = statistic.read(statistic.measure(Examples(X, Y)))
    expected = by_hand(way)
    assert result.accuracy == pytest.approx(np.mean(expected))
    assert result.ci95 == pytest.approx(1.96 * np.std(expected, ddof=1) / 6**0.5)


def test_a_good_head_beats_the_support_alone_and_adapting_does_not_spoil_it() -> None:
    wide = Examples(X, Y)
    centres = np.stack([X[c == Y].mean(0) for c in range(5)])
    good = LinearHead(centres, -(centres**2).sum(1) / 2)
    found = {
        way: sums(way, good, episodes=100, n_shot=3).read(
            sums(way, good, episodes=100, n_shot=3).measure(wide)
        )
        for way in WAYS
    }
    assert found["shared"].accuracy > found["local"].accuracy + 0.02
    assert found["adapted"].accuracy > found["local"].accuracy


def test_travels_and_sums() -> None:
    statistic = sums("stepped", n_steps=2, inner_lr=0.1)
    again = StartSums.from_wire(statistic.settings(), statistic.arrays())
    one, other = statistic.measure(Examples(X, Y)), again.measure(Examples(X, Y))
    assert all((one[key] == other[key]).all() for key in one)
    assert set(one) == set(statistic.declare())
    assert statistic.read({key: one[key] + other[key] for key in one}).episodes == 12


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(FewShotError, match="features have length 7 but the head reads 12"):
        sums("shared").measure(Examples(X[:, :7], Y))
    with pytest.raises(ConfigError, match="weight and bias do not fit"):
        StartSums.from_wire(sums("shared").settings(), {"weight": HEAD.weight, "bias": HEAD.bias[:2]})
    with pytest.raises(ConfigError, match="way"):
        StartSums.from_wire({**sums("shared").settings(), "way": "magic"}, HEAD.arrays())
