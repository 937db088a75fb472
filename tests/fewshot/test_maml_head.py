"""MAMLHead: gradient steps from a start, as many as leave-one-out allows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.utils.estimator_checks import check_estimator

from fewshot.adapt import AdaptedHead, adapt
from fewshot.calibration import smoothed_nll
from fewshot.episode_sums import EpisodeSums
from fewshot.episodes import EpisodeSampler
from fewshot.evaluate import evaluate
from fewshot.heads import MAMLHead, PrototypeClassifier
from fewshot.maml.safe import FALLBACK_STEPS, MULTIPLIERS, SOFTNESS, STEPS, fit_maml
from foedus.errors import FewShotError
from foedus.examples import Examples
from foedus.study import Method, parse_study


def support(
    n_shot: int, dim: int, *, n_way: int = 3, seed: int = 0, spread: float = 1.5
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n_way), n_shot)
    return 5 + rng.normal(size=(n_way, dim))[labels] + spread * rng.normal(size=(len(labels), dim)), labels


@pytest.mark.parametrize("head", [MAMLHead(), MAMLHead("zero"), MAMLHead(n_steps=3)])
def test_check_estimator_passes_without_exemption(head: MAMLHead) -> None:
    check_estimator(head, on_skip=None)


def descended(weight: Any, bias: Any, x: Any, y: Any, *, n_steps: int, rate: float, shift: float) -> Any:
    """Plain gradient descent on weights and bias, one step after the other."""
    targets = np.eye(weight.shape[0])[y]
    for _ in range(n_steps):
        pull = targets - softmax(x @ weight.T + bias, axis=1)
        weight, bias = weight + rate * pull.T @ x, bias + shift * pull.sum(0)
    return weight, bias


@pytest.mark.parametrize("dim", [40, 4])
@pytest.mark.parametrize("start", ["zero", "prototype", "given"])
def test_steps_equal_plain_gradient_descent(dim: int, start: str) -> None:
    """40 features go through the kernel, 4 through the features."""
    x, y = support(5, dim)
    rng = np.random.default_rng(1)
    given = (0.1 * rng.normal(size=(3, dim)), 0.1 * rng.normal(size=3))
    head = MAMLHead(given if start == "given" else start, n_steps=7, inner_lr=2.0, temperature=1.0).fit(x, y)
    mean, unit = x.mean(0), 1.0
    if start == "prototype":
        oracle, unit = PrototypeClassifier().fit(x - mean, y), SOFTNESS
        weight, bias = SOFTNESS * oracle.coef_, SOFTNESS * oracle.intercept_
    else:
        weight, bias = given if start == "given" else (np.zeros((3, dim)), np.zeros(3))
        bias = bias + weight @ mean
    largest = np.linalg.eigvalsh((x - mean) @ (x - mean).T)[-1]
    weight, bias = descended(weight, bias, x - mean, y, n_steps=7, rate=2 / largest, shift=2 / len(x))
    query = rng.normal(size=(6, dim)) + 5
    expected = ((query - mean) @ weight.T + bias) / unit
    np.testing.assert_allclose(head._scores(query), expected, atol=1e-8)


def test_steps_and_temperature_are_what_brute_force_leave_one_out_chooses() -> None:
    """From zeros, where refitting without a case is plain: same rate, one case fewer."""
    x, y = support(4, 30, spread=2.0)
    mean = x.mean(0)
    rate = 3 / np.linalg.eigvalsh((x - mean) @ (x - mean).T)[-1]
    best = (np.inf, 0, 0.0)
    for n_steps in STEPS:
        scores = []
        for i in range(len(x)):
            rows = np.arange(len(x)) != i
            weight, bias = descended(
                np.zeros((3, 30)),
                np.zeros(3),
                (x - mean)[rows],
                y[rows],
                n_steps=n_steps,
                rate=rate,
                shift=3 / len(x),
            )
            scores.append((x[i] - mean) @ weight.T + bias)
        for multiplier in MULTIPLIERS:
            nll = float(smoothed_nll(multiplier * np.stack(scores), y))
            best = min(best, (nll, int(n_steps), float(multiplier)))
    head = MAMLHead("zero").fit(x, y)
    assert (head.n_steps_, head.temperature_) == (best[1], pytest.approx(best[2]))


@pytest.mark.parametrize(("n_shot", "n_steps"), [(1, None), (2, None), (5, 0)])
def test_without_a_step_the_head_is_the_prototypes(n_shot: int, n_steps: int | None) -> None:
    """At 1 and 2 cases leave-one-out says too little for a step to be taken."""
    x, y = support(n_shot, 60, spread=0.8)
    head, prototypes = MAMLHead(n_steps=n_steps).fit(x, y), PrototypeClassifier().fit(x, y)
    assert head.n_steps_ == 0
    query = np.random.default_rng(2).normal(size=(9, 60)) + 5
    np.testing.assert_allclose(head.predict_proba(query), prototypes.predict_proba(query), atol=1e-9)


def test_other_starts_take_the_documented_steps_at_one_case() -> None:
    assert MAMLHead("zero").fit(*support(1, 10)).n_steps_ == FALLBACK_STEPS


def test_never_worse_than_its_start_and_better_where_classes_are_long() -> None:
    """Classes that vary most along one direction: prototypes lose there, steps learn to look away."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(5), 60)
    x = 0.7 * rng.normal(size=(5, 40))[y] + rng.normal(size=(300, 40))
    sampler = EpisodeSampler(y, 5, 5, 15)
    for along, gains in ((0.0, False), (6.0, True)):
        features = x + along * rng.normal(size=(300, 1)) * np.eye(40)[0]
        ours, start = (
            evaluate(head, features, y, sampler, n_episodes=200)
            for head in (MAMLHead(), PrototypeClassifier())
        )
        gap = ours.accuracies - start.accuracies
        half = 1.96 * gap.std(ddof=1) / np.sqrt(200)
        assert gap.mean() > -half
        if gains:
            assert gap.mean() > 0.02 + half
            assert ours.nll < start.nll


def test_many_episodes_at_once_equal_one_by_one() -> None:
    labels = np.repeat(np.arange(3), 4)
    batch = np.stack([support(4, 15, seed=s)[0] for s in range(6)])
    together = fit_maml(batch, labels)
    assert len(set(together.steps.tolist())) > 1
    for i in range(6):
        alone = fit_maml(batch[i : i + 1], labels)
        np.testing.assert_allclose(together.weight[i], alone.weight[0], atol=1e-9)
        np.testing.assert_allclose(together.bias[i], alone.bias[0], atol=1e-9)


def test_large_and_unequal_supports_are_left_out_in_groups() -> None:
    x, y = support(60, 10)
    rows = np.flatnonzero((y != 0) | (np.arange(len(y)) < 4))
    head = MAMLHead().fit(x[rows], y[rows])
    assert np.isfinite(head.predict_proba(x)).all()
    assert head.score(x, y) > 0.6


def test_constant_support_gives_finite_even_probabilities() -> None:
    probabilities = MAMLHead().fit(np.ones((6, 4)), [0, 0, 0, 1, 1, 1]).predict_proba(np.ones((1, 4)))
    np.testing.assert_allclose(probabilities, [[0.5, 0.5]], atol=1e-6)


def test_a_new_class_by_partial_fit_equals_a_refit() -> None:
    x, y = support(5, 20)
    first = y < 2
    grown = MAMLHead().fit(x[first], y[first]).partial_fit(x[~first], y[~first])
    np.testing.assert_allclose(grown.predict_proba(x), MAMLHead().fit(x, y).predict_proba(x), atol=1e-12)


def test_the_method_maml_fits_saves_loads_and_sums(tmp_path: Path) -> None:
    x, y = support(30, 8)
    examples = Examples(x.astype(np.float32), y)
    adapt(examples, "maml", classes=["ape", "bee", "cat"]).save(tmp_path / "head.safetensors")
    head = AdaptedHead.load(tmp_path / "head.safetensors")
    assert head.method == "maml"
    expected = MAMLHead().fit(examples.features, y).predict_proba(x)
    np.testing.assert_allclose(head.predict_proba(examples.features), expected, atol=1e-4)
    method: Method = "maml"
    sums = EpisodeSums(method, 3, 5, 5, 20)
    report = evaluate(MAMLHead(), examples.features, y, EpisodeSampler(y, 3, 5, 5), n_episodes=20)
    assert sums.read(sums.measure(examples)).accuracy == pytest.approx(report.mean)
    study = '[study]\nname = "t"\nclasses = ["a", "b"]\n[door]\nmode = "open"\n[fewshot]\nn_way = 2\n'
    assert parse_study(study + 'methods = ["prototypical", "ridge", "maml"]\n').fewshot is not None


def test_bad_parameters_are_named() -> None:
    x, y = support(3, 4)
    for bad, message in (
        ({"start": "ones"}, r"start is 'ones', expected 'prototype', 'zero', or \(weight, bias\)"),
        (
            {"start": (np.zeros((2, 4)), np.zeros(2))},
            r"weight \(2, 4\) and bias \(2,\), expected \(3, 4\) and \(3,\)",
        ),
        ({"n_steps": -1}, "n_steps is -1, expected 0 or more"),
        ({"inner_lr": 5.0}, "inner_lr is 5.0, expected above 0 and at most 4"),
    ):
        with pytest.raises(FewShotError, match=message):
            MAMLHead(**bad).fit(x, y)
