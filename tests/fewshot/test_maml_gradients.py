"""The closed engine, torch.func and learn2learn give one meta-gradient; learn2learn is the oracle."""

from typing import Any

import numpy as np
import pytest

from fewshot.episodes import EpisodeSampler
from foedus.errors import FewShotError

torch = pytest.importorskip("torch")
from fewshot.maml.closed import LinearLearner  # noqa: E402
from fewshot.maml.exact import second_derivatives  # noqa: E402
from fewshot.maml.functional import NetworkLearner  # noqa: E402
from fewshot.maml.tasks import Inner, Learner, Tasks, query_loss, take_tasks  # noqa: E402

DIM, WAYS = 40, 3
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Of the largest entry of the oracle's gradient."""
ORDERS = [pytest.param(False, id="second-order"), pytest.param(True, id="first-order")]
TYPES = [torch.float32, torch.float64]


def tasks(dtype: Any = torch.float32, *, n_shot: int = 4, n_episodes: int = 3) -> Tasks:
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(6), 20)
    x = (rng.normal(size=(6, DIM)) / 3)[y] + rng.normal(size=(len(y), DIM)) / 3
    sampler = EpisodeSampler(y, WAYS, n_shot, 5, random_state=3)
    return take_tasks((x.astype(str(dtype).removeprefix("torch.")),), sampler, n_episodes=n_episodes)


def gradients(learner: Learner, episodes: Tasks) -> dict[str, Any]:
    for parameter in learner.parameters.values():
        parameter.grad = None
    learner.descend(episodes)
    return {name: p.grad.detach().clone() for name, p in learner.parameters.items()}


def assert_equal(found: dict[str, Any], expected: dict[str, Any], dtype: Any) -> None:
    assert found.keys() == expected.keys()
    largest = max(float(value.abs().max()) for value in expected.values())
    assert largest > 1e-4
    for name, value in expected.items():
        assert float((found[name] - value).abs().max()) <= TOLERANCE[dtype] * largest, name


def oracle(module: Any, inner: Inner, adapts: list[str] | None = None) -> Learner:
    pytest.importorskip("learn2learn")
    from fewshot.maml.modules import ModuleLearner

    return ModuleLearner(module, inner, adapts=adapts)


def linear_like(learner: LinearLearner, dtype: Any) -> Any:
    module = torch.nn.Linear(DIM, WAYS, dtype=dtype)
    with torch.no_grad():
        module.weight.copy_(learner.parameters["weight"])
        module.bias.copy_(learner.parameters["bias"])
    return module


def network(dtype: Any, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(DIM, 16), torch.nn.Tanh(), torch.nn.Linear(16, WAYS)).to(dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("first_order", ORDERS)
@pytest.mark.parametrize("rates", ["fixed", "steps", "parameters"])
def test_linear_maml_and_meta_sgd_equal_learn2learn(dtype: Any, first_order: bool, rates: Any) -> None:
    check_linear(tasks(dtype), Inner(5, 0.3, first_order, rates), dtype)


@pytest.mark.parametrize("first_order", ORDERS)
def test_linear_maml_with_more_examples_than_features_equals_learn2learn(first_order: bool) -> None:
    check_linear(tasks(torch.float64, n_shot=14), Inner(5, 0.3, first_order), torch.float64)


def check_linear(episodes: Tasks, inner: Inner, dtype: Any) -> None:
    closed = LinearLearner(DIM, WAYS, inner=inner, dtype=dtype, seed=1)
    expected = gradients(oracle(linear_like(closed, dtype), inner), episodes)
    assert_equal(gradients(closed, episodes), expected, dtype)
    together = NetworkLearner(linear_like(closed, dtype), inner)
    assert_equal(gradients(together, episodes), expected, dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("first_order", ORDERS)
@pytest.mark.parametrize("rates", ["fixed", "steps", "parameters"])
@pytest.mark.parametrize("adapts", [None, ["2.weight", "2.bias"]], ids=["maml", "anil"])
def test_network_maml_anil_and_meta_sgd_equal_learn2learn(
    dtype: Any, first_order: bool, rates: Any, adapts: list[str] | None
) -> None:
    episodes, inner = tasks(dtype), Inner(4, 0.2, first_order, rates)
    expected = gradients(oracle(network(dtype), inner, adapts), episodes)
    together = NetworkLearner(network(dtype), inner, adapts=adapts)
    assert_equal(gradients(together, episodes), expected, dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("first_order", ORDERS)
def test_closed_engine_behind_an_embedding_is_anil(dtype: Any, first_order: bool) -> None:
    episodes, inner = tasks(dtype), Inner(4, 0.2, first_order)
    whole = network(dtype)
    expected = gradients(oracle(whole, inner, ["2.weight", "2.bias"]), episodes)
    closed = LinearLearner(16, WAYS, inner=inner, embedding=network(dtype)[:2], dtype=dtype)
    with torch.no_grad():
        closed.parameters["weight"].copy_(whole[2].weight)
        closed.parameters["bias"].copy_(whole[2].bias)
    found = gradients(closed, episodes)
    renamed = {"weight": "2.weight", "bias": "2.bias"}
    assert_equal({renamed.get(k, k.removeprefix("embedding.")): v for k, v in found.items()}, expected, dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("first_order", ORDERS)
def test_proto_maml_equals_learn2learn_from_prototypes(dtype: Any, first_order: bool) -> None:
    learn2learn = pytest.importorskip("learn2learn")
    episodes, inner = tasks(dtype), Inner(4, 0.2, first_order)
    closed = LinearLearner(DIM, WAYS, inner=inner, start="prototype", dtype=dtype)
    found = gradients(closed, episodes)["temperature"]
    heat = torch.tensor(10.0 / DIM, dtype=dtype, requires_grad=True)
    total = torch.zeros((), dtype=dtype)
    for support, query in zip(episodes.support[0], episodes.query[0], strict=True):
        maml = learn2learn.algorithms.MAML(torch.nn.Linear(DIM, WAYS, dtype=dtype), 0.2, first_order)
        learner = maml.clone()
        centres = torch.stack([support[episodes.labels == c].mean(0) for c in range(WAYS)])
        learner.module._parameters["weight"] = 2 * heat * centres
        learner.module._parameters["bias"] = -heat * (centres**2).sum(1)
        for _ in range(4):
            learner.adapt(torch.nn.functional.cross_entropy(learner(support), episodes.labels))
        total = total + torch.nn.functional.cross_entropy(learner(query), episodes.query_labels) / 3
    (expected,) = torch.autograd.grad(total, [heat])
    assert float((found - expected).abs()) <= TOLERANCE[dtype] * float(expected.abs())


def test_meta_gradient_is_the_slope_of_the_loss() -> None:
    episodes = tasks(torch.float64)
    learner = LinearLearner(DIM, WAYS, inner=Inner(3, 0.5, rates="steps"), dtype=torch.float64)
    found = gradients(learner, episodes)
    for name, place in (("weight", (1, 7)), ("bias", (2,)), ("rates.steps", (1,))):
        losses = []
        for shift in (1e-5, -1e-5):
            with torch.no_grad():
                learner.parameters[name][place] += shift
            losses.append(float(query_loss(learner.scores(episodes), episodes.query_labels)))
            with torch.no_grad():
                learner.parameters[name][place] -= shift
        assert float(found[name][place]) == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-5)


def test_an_operation_without_second_derivative_is_named() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(DIM, 8), torch.nn.Hardsigmoid(), torch.nn.Linear(8, WAYS))
    with pytest.raises(FewShotError, match=r"no second derivative of hardsigmoid.*first_order = True"):
        oracle(net, Inner(2, 0.1)).descend(tasks())
    assert np.isfinite(oracle(net, Inner(2, 0.1, first_order=True)).descend(tasks()))


def test_other_errors_pass_through() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"), second_derivatives():
        torch.ones(2, 3) @ torch.ones(2, 3)


@pytest.mark.parametrize("make", [NetworkLearner, oracle])
def test_batchnorm_in_training_mode_is_refused_by_name(make: Any) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(DIM, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, WAYS))
    with pytest.raises(FewShotError, match=r"BatchNorm layer '1' is in training mode.*eval"):
        make(net, Inner())
    assert np.isfinite(make(net.eval(), Inner(2, 0.1)).descend(tasks()))


def test_attention_is_differentiated_twice() -> None:
    class Attention(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.mix, self.out = torch.nn.Linear(10, 30), torch.nn.Linear(10, WAYS)

        def forward(self, x: Any) -> Any:
            query, key, value = self.mix(x.reshape(len(x), 1, 4, 10)).chunk(3, -1)
            mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value)
            return self.out(mixed.mean((1, 2)))

    learned = oracle(Attention(), Inner(2, 0.2))
    assert_equal(
        gradients(NetworkLearner(Attention(), Inner(2, 0.2)), tasks()),
        gradients(learned, tasks()),
        torch.float32,
    )


def test_unknown_names_and_settings_are_refused() -> None:
    with pytest.raises(
        FewShotError, match=r"'3\.weight' is no parameter that learns; the network has 0\.weight"
    ):
        NetworkLearner(network(torch.float32), Inner(), adapts=["3.weight"])
    with pytest.raises(FewShotError, match="no parameter adapts"):
        NetworkLearner(network(torch.float32), Inner(), adapts=[])
    with pytest.raises(FewShotError, match="n_steps is 0, expected at least 1"):
        Inner(0)
    with pytest.raises(FewShotError, match="rates is 'all'"):
        Inner(rates="all")  # type: ignore[arg-type]
    with pytest.raises(FewShotError, match="start is 'zero', expected 'learnt' or 'prototype'"):
        LinearLearner(3, 2, inner=Inner(), start="zero")  # type: ignore[arg-type]
