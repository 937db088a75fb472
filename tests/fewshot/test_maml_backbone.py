"""Exact meta-gradients through the bundled backbones: LoRA in MiniLM's last block, Lite0's last block."""

from typing import Any

import numpy as np
import pytest

from fewshot.episodes import EpisodeSampler

torch = pytest.importorskip("torch")
pytest.importorskip("learn2learn")
from fewshot.maml.backbone import HEAD, BackboneClassifier  # noqa: E402
from fewshot.maml.modules import ModuleLearner  # noqa: E402
from fewshot.maml.tasks import Inner, Tasks, query_loss, take_tasks  # noqa: E402
from fewshot.maml.train import Outer, meta_train  # noqa: E402
from foedus.backbones.tunable import Kept, Tunable  # noqa: E402
from foedus.errors import FewShotError  # noqa: E402
from foedus.study import parse_study  # noqa: E402

IMAGE, TEXT = "bundled:efficientnet-lite0", "bundled:minilm-l6"
TEXTS = {
    "grain": ["wheat prices fell", "corn was shipped", "the harvest of barley", "a tender for soft wheat"],
    "money": ["the bank cut its rate", "bonds were sold", "the dollar rose", "interest on deposits"],
    "ships": ["a tanker sank", "the port was closed", "freight by sea", "dockers went on strike"],
    "oil": ["crude was found", "barrels a day", "a refinery burnt", "the pipeline to the north"],
}
LABELS = np.repeat(np.arange(4), 4)


def tunable(source: str, tune: str) -> Tunable:
    return Tunable(
        parse_study(
            f'[study]\nname = "t"\nclasses = ["a", "b"]\n[backbone]\nsource = "{source}"\ntune = "{tune}"\n'
            f'[tuning]\nblocks = 1\n[door]\nmode = "open"\n'
        )
    )


def kept(backbone: Tunable) -> Kept:
    if backbone.study.backbone.source == TEXT:
        return backbone.path.below([text for texts in TEXTS.values() for text in texts])
    rng = np.random.default_rng(0)
    means = rng.integers(60, 190, (4, 8, 8, 3))
    return backbone.path.below(
        [np.clip(means[c] + rng.normal(0, 40, (8, 8, 3)), 0, 255).astype(np.uint8) for c in LABELS]
    )


def episodes(data: Kept, n: int = 1) -> Tasks:
    return take_tasks(data, EpisodeSampler(LABELS, 2, 2, 2, random_state=1), n_episodes=n)


def gradient(learner: ModuleLearner, tasks: Tasks) -> dict[str, Any]:
    for parameter in learner.parameters.values():
        parameter.grad = None
    learner.descend(tasks)
    return {name: p.grad.clone() for name, p in learner.parameters.items()}


@pytest.mark.parametrize(("source", "tune", "lr"), [(TEXT, "lora", 0.3), (IMAGE, "last-blocks", 3e-4)])
def test_second_order_through_the_backbone_is_the_slope_of_the_loss(
    source: str, tune: str, lr: float
) -> None:
    """Along the gradient the loss after adaptation rises as fast as it is long; first order differs."""
    backbone = tunable(source, tune)
    classifier = BackboneClassifier(backbone, 2)
    tasks = episodes(kept(backbone))
    found = {}
    for first_order in (False, True):
        learner = ModuleLearner(classifier, Inner(2, lr, first_order))
        found[first_order] = gradient(learner, tasks)
    learning = {id(p) for p in (*backbone.tensors.values(), classifier.weight, classifier.bias)}
    assert {id(p) for p in learner.parameters.values()} == learning
    length = float(sum(value.square().sum() for value in found[False].values()) ** 0.5)
    losses = []
    for sign in (1e-2, -1e-2):
        with torch.no_grad():
            for name, value in found[False].items():
                learner.parameters[name] += sign * value / length
        losses.append(float(query_loss(learner.scores(tasks), tasks.query_labels)))
        with torch.no_grad():
            for name, value in found[False].items():
                learner.parameters[name] -= sign * value / length
    slope = (losses[0] - losses[1]) / 2e-2
    assert slope == pytest.approx(length, rel=1e-2)
    gap = sum((found[True][name] - value).square().sum() for name, value in found[False].items()) ** 0.5
    assert float(gap) > 0.05 * length


def test_anil_adapts_the_head_and_learns_lora_in_the_outer_loop() -> None:
    backbone = tunable(TEXT, "lora")
    before = backbone.current()
    data = kept(backbone)
    learner = ModuleLearner(BackboneClassifier(backbone, 2), Inner(2, 0.1), adapts=HEAD)
    outer = Outer(steps=3, lr=1e-2, meta_batch=2, validate_every=1, validation_episodes=2)
    samplers = (EpisodeSampler(LABELS, 2, 2, 2, classes=part) for part in ([0, 1], [2, 3]))
    course = meta_train(learner, data, next(samplers), validation=next(samplers), outer=outer)
    assert [v.step for v in course.validations] == [0, 1, 2, 3]
    assert course.best.loss < course.validations[0].loss
    assert any((backbone.current()[name] != value).any() for name, value in before.items())


def test_wrong_shape_of_the_mean_is_named() -> None:
    with pytest.raises(FewShotError, match=r"mean has shape \(3,\), expected \(384,\)"):
        BackboneClassifier(tunable(TEXT, "lora"), 2, mean=np.zeros(3))
