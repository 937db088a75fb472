"""Meta-training learns on base classes what helps on others, stops in time, and does the same twice."""

import importlib.util
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from fewshot.episodes import EpisodeSampler
from fewshot.heads import MAMLHead
from foedus.errors import FewShotError

torch = pytest.importorskip("torch")
from fewshot.maml.closed import LinearLearner  # noqa: E402
from fewshot.maml.functional import NetworkLearner  # noqa: E402
from fewshot.maml.tasks import Inner, Learner, take_tasks  # noqa: E402
from fewshot.maml.train import Course, Outer, meta_train  # noqa: E402

DIM = 16


def data() -> tuple[np.ndarray, np.ndarray]:
    """12 classes that differ in 4 of 16 features; the others are loud noise."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(12), 30)
    x = 0.5 * rng.normal(size=(len(y), DIM))
    x[:, :4] += rng.normal(size=(12, 4))[y]
    x[:, 4:] *= 4
    return (x / 4).astype(np.float32), y


def train(learner: Learner, **settings: Any) -> Course:
    x, y = data()
    base = EpisodeSampler(y, 3, 3, 5, random_state=1, classes=range(8))
    held = EpisodeSampler(y, 3, 3, 5, random_state=2, classes=range(8, 12))
    given = {"steps": 60, "lr": 0.05, "validate_every": 20, **settings}
    return meta_train(learner, (x,), base, validation=held, outer=Outer(**given))


def learners() -> list[Learner]:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(DIM, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    rates = Inner(3, 0.2, rates="parameters")
    return [
        LinearLearner(DIM, 3, inner=rates),
        LinearLearner(DIM, 3, inner=Inner(3, 0.2, rates="steps"), start="prototype"),
        LinearLearner(8, 3, inner=Inner(3, 0.2), embedding=torch.nn.Linear(DIM, 8)),
        NetworkLearner(net, Inner(3, 0.2)),
    ]


@pytest.mark.parametrize("which", range(4), ids=["meta-sgd", "proto-maml", "anil", "network"])
def test_training_on_base_classes_helps_on_classes_never_trained_on(which: int) -> None:
    course = train(learners()[which])
    assert [v.step for v in course.validations] == [0, 20, 40, 60]
    assert course.best.loss < course.validations[0].loss - 0.02
    assert len(course.losses) == 60


def test_same_seeds_same_bytes() -> None:
    first, second = learners()[0], learners()[0]
    train(first, steps=5, validate_every=5)
    train(second, steps=5, validate_every=5)
    for name, value in first.parameters.items():
        assert torch.equal(value, second.parameters[name])


def test_it_stops_early_and_keeps_what_was_best() -> None:
    """A hopeless outer rate: the learner is what it was before the first step."""
    learner = learners()[0]
    before = {name: value.detach().clone() for name, value in learner.parameters.items()}
    course = train(learner, lr=500.0, validate_every=2, patience=2, optimizer="sgd")
    assert course.best.step == 0
    assert len(course.losses) == 4
    for name, value in learner.parameters.items():
        assert torch.equal(value, before[name])


def test_a_learnt_start_goes_into_the_head() -> None:
    learner = LinearLearner(DIM, 3, inner=Inner(3, 0.2))
    train(learner, steps=2, validate_every=2)
    start = tuple(learner.parameters[name].detach().numpy() for name in ("weight", "bias"))
    x, y = data()
    rows = np.flatnonzero(y < 3)[::5]
    head = MAMLHead(start).fit(x[rows], y[rows])
    assert head.predict_proba(x).shape == (len(x), 3)


def test_shared_classes_and_unequal_rows_are_refused() -> None:
    x, y = data()
    sampler = EpisodeSampler(y, 3, 3, 5, classes=[0, 1, 2])
    with pytest.raises(FewShotError, match="3 classes of the validation episodes occur in training too"):
        meta_train(learners()[0], (x,), EpisodeSampler(y, 3, 3, 5), validation=sampler)
    with pytest.raises(FewShotError, match="the data have 5 rows and the sampler 360 labels"):
        take_tasks((x[:5],), sampler, n_episodes=2)
    with pytest.raises(FewShotError, match="meta_batch is 0, expected at least 1"):
        Outer(meta_batch=0)
    with pytest.raises(FewShotError, match="optimizer is 'lion', expected 'adam' or 'sgd'"):
        Outer(optimizer="lion")  # type: ignore[arg-type]


def test_a_loss_that_is_not_finite_is_refused() -> None:
    x, y = data()
    base, held = (EpisodeSampler(y, 3, 3, 5, classes=range(*r)) for r in ((0, 8), (8, 12)))
    with pytest.raises(
        FewShotError, match="the loss of outer step 1 is not finite; lower the inner or the outer lr"
    ):
        meta_train(LinearLearner(DIM, 3, inner=Inner(9, 1e30)), (x * 1e9,), base, validation=held)


def test_unbalanced_episodes_are_trained_on() -> None:
    x, y = data()
    sampler = EpisodeSampler(y, 3, (1, 2, 4), 5)
    tasks = take_tasks((x,), sampler, n_episodes=2)
    assert tasks.labels.tolist() == [0, 1, 1, 2, 2, 2, 2]
    assert np.isfinite(learners()[0].descend(tasks))


def test_learn2learn_is_missing_kindly(monkeypatch: pytest.MonkeyPatch) -> None:
    from fewshot.maml.modules import ModuleLearner

    monkeypatch.setitem(sys.modules, "learn2learn", None)
    with pytest.raises(
        FewShotError, match=r"learn2learn, which cannot be imported.*uv sync --extra learn2learn"
    ):
        ModuleLearner(torch.nn.Linear(2, 2), Inner())


def test_heads_import_neither_torch_nor_learn2learn_and_learners_import_it_late_and_silently() -> None:
    code = """
import sys, fewshot.heads, fewshot.methods
assert not {"torch", "learn2learn"} & set(sys.modules)
import fewshot.maml.train, fewshot.maml.modules, fewshot.maml.closed
assert "learn2learn" not in sys.modules
"""
    if importlib.util.find_spec("learn2learn") is not None:
        code += "fewshot.maml.modules.import_learn2learn()"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stderr == ""
    assert found.stdout == ""
