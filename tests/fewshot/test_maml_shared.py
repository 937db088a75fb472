"""A start learnt from one site's episodes: learn2learn's gradient, Reptile by hand, the same seed the same steps."""

from typing import Any

import numpy as np
import pytest

from fewshot.episodes import EpisodeSampler

torch = pytest.importorskip("torch")
from fewshot.maml.shared import Outer, SharedHead, learn_start  # noqa: E402
from fewshot.maml.tasks import Inner, Tasks, take_tasks  # noqa: E402

DIM, CLASSES, WAYS = 30, 6, 3
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
RNG = np.random.default_rng(0)
Y = np.repeat(np.arange(CLASSES), 20)
X = (RNG.normal(size=(CLASSES, DIM))[Y] + RNG.normal(size=(len(Y), DIM))) / 3
SAMPLER = EpisodeSampler(Y, WAYS, 4, 5, random_state=3)
WEIGHT, BIAS = RNG.normal(size=(CLASSES, DIM)) / 5, RNG.normal(size=CLASSES) / 5


class Rows(torch.nn.Module):
    """A linear layer over all classes, of which an episode sees some."""

    def __init__(self, dtype: Any) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(WEIGHT, dtype=dtype))
        self.bias = torch.nn.Parameter(torch.tensor(BIAS, dtype=dtype))
        self.classes = torch.arange(CLASSES)

    def forward(self, x: Any) -> Any:
        return torch.nn.functional.linear(x, self.weight, self.bias)[:, self.classes]


def tasks(dtype: Any = torch.float64) -> Tasks:
    return take_tasks((X.astype(str(dtype).removeprefix("torch.")),), SAMPLER, n_episodes=4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("first_order", [False, True], ids=["second-order", "first-order"])
def test_the_gradient_of_a_shared_head_equals_learn2learns(dtype: Any, first_order: bool) -> None:
    pytest.importorskip("learn2learn")
    from fewshot.maml.modules import ModuleLearner

    inner, episodes, module = Inner(4, 0.4, first_order), tasks(dtype), Rows(dtype)
    oracle = ModuleLearner(module, inner)
    losses = []
    for i in range(len(episodes)):
        module.classes = episodes.classes[i]
        parts = (part[0][i : i + 1] for part in (episodes.support, episodes.query))
        support, query = parts
        losses.append(oracle.descend(Tasks((support,), episodes.labels, (query,), episodes.query_labels)))
    head = SharedHead(WEIGHT, BIAS, inner, dtype=dtype)
    assert head.descend(episodes) == pytest.approx(np.mean(losses), rel=1e-5)
    for name, found in head.parameters.items():
        expected = getattr(module, name).grad / len(episodes)
        assert float(expected.abs().max()) > 1e-3
        assert float((found.grad - expected).abs().max()) <= TOLERANCE[dtype] * float(expected.abs().max())


def test_reptile_steps_towards_where_descent_on_all_of_an_episode_ends() -> None:
    head, inner = SharedHead(WEIGHT, BIAS, Inner(3, 0.4)), Inner(3, 0.4)
    rates = {"weight": (0.7, 0.0), "bias": (0.7, 0.0)}
    sampler = EpisodeSampler(Y, WAYS, 4, 5, random_state=9)
    learn_start(head, (X,), sampler, Outer(1, 2, True, rates))
    seed = int(np.random.SeedSequence([9, 0]).generate_state(1)[0])
    drawn = EpisodeSampler(Y, WAYS, 4, 5, random_state=seed).draw(2)
    weight, bias = WEIGHT.copy(), BIAS.copy()
    for i in range(2):
        rows = np.concatenate([drawn.support[i], drawn.query[i]])
        own = [np.array(part[drawn.classes[i]]) for part in (WEIGHT, BIAS)]
        place = np.array([list(drawn.classes[i]).index(c) for c in Y[rows]])
        for _ in range(inner.n_steps):
            scores = X[rows] @ own[0].T + own[1]
            p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
            residual = (np.eye(WAYS)[place] - p) / len(rows)
            own = [own[0] + inner.lr * residual.T @ X[rows], own[1] + inner.lr * residual.sum(0)]
        weight[drawn.classes[i]] += 0.7 * (own[0] - WEIGHT[drawn.classes[i]]) / 2
        bias[drawn.classes[i]] += 0.7 * (own[1] - BIAS[drawn.classes[i]]) / 2
    np.testing.assert_allclose(head.weight.detach().numpy(), weight, atol=1e-12)
    np.testing.assert_allclose(head.bias.detach().numpy(), bias, atol=1e-12)


def test_learning_lowers_the_loss_after_adaptation_and_repeats_itself() -> None:
    rates = {"weight": (0.5, 0.0), "bias": (0.5, 0.0)}

    def learnt() -> tuple[float, Any]:
        head = SharedHead(0 * WEIGHT, 0 * BIAS, Inner(2, 0.2))
        learn_start(head, (X,), SAMPLER, Outer(30, 4, False, rates))
        return head.descend(tasks()), head.weight.detach().numpy()

    (loss, weight), (again, same) = learnt(), learnt()
    assert loss < SharedHead(0 * WEIGHT, 0 * BIAS, Inner(2, 0.2)).descend(tasks()) - 0.1
    assert loss == again
    np.testing.assert_array_equal(weight, same)


def test_weight_decay_shrinks_the_weight_alone() -> None:
    plain, decayed = (SharedHead(WEIGHT, BIAS, Inner(1, 0.1)) for _ in range(2))
    for head, decay in ((plain, 0.0), (decayed, 0.1)):
        learn_start(head, (X,), SAMPLER, Outer(1, 2, False, {"weight": (0.5, decay), "bias": (0.5, 0.0)}))
    difference = (plain.weight - decayed.weight).detach().numpy()
    np.testing.assert_allclose(difference, 0.5 * 0.1 * WEIGHT, atol=1e-12)
    assert torch.equal(plain.bias, decayed.bias)


def test_classes_that_are_names_are_refused() -> None:
    sampler = EpisodeSampler(np.array(list("abcdef"))[Y], WAYS, 4, 5)
    head = SharedHead(WEIGHT, BIAS, Inner(1, 0.1))
    with pytest.raises(ValueError, match="classes are names; label examples by rows"):
        head.descend(take_tasks((X,), sampler, n_episodes=2))
