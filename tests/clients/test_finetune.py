"""Local training through the backbone: it learns, deterministically, however its batches are cut."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from clients.finetune import Lesson, augmented, finetune, rates, standardise
from clients.per_record import ROUNDING, clipped_sum
from clients.training import Descent, train
from foedus.backbones import Standardiser, initial, open_tunable
from foedus.backbones.tunable import tensors_of
from foedus.errors import BackboneError
from foedus.examples import Examples
from foedus.gradient import GRADIENT, contribution, unit_weight
from foedus.head import LinearHead
from foedus.labels import Labels
from foedus.model import BACKBONE, Model
from foedus.study import TuningSection, parse_study

TEXTS = [f"{what} {n}" for n in range(6) for what in ("the bank pays interest", "a ship carries wheat")]
LABELS = np.array([0, 1] * 6, np.int64)


def lesson(tune: str = "lora", tuning: str = "blocks = 1", *, epochs: int = 3) -> tuple[Lesson, Model]:
    study = parse_study(
        '[study]\nname = "t"\nclasses = ["a", "b"]\n[backbone]\nsource = "bundled:minilm-l6"\nmax_tokens = 8\n'
        f'tune = "{tune}"\n[tuning]\n{tuning}\n'
    )
    tunable = open_tunable(study.to_json())
    tunable.load({})
    kept = tunable.path.below(TEXTS)
    features = tunable.embed(kept)
    standardiser = Standardiser(features.mean(0).astype(float), features.std(0).astype(float) + 1e-3)
    found = Lesson(
        tunable,
        kept,
        LABELS,
        standardiser,
        Descent(epochs, 5, 0.05),
        TuningSection(**study.tuning.model_dump()),
    )
    return found, Model(LinearHead.zeros(2, 384), initial(study))


def _same(left: Model, right: Model) -> None:
    for name, value in left.weights().items():
        np.testing.assert_allclose(value, right.weights()[name], atol=2e-5, err_msg=name)


SEVERAL = np.column_stack([LABELS, 1 - LABELS, np.arange(12) % 2 == 0]).astype(np.int64)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_head_on_several_labels_learns_as_it_does_without_a_network(smoothing: float) -> None:
    given, start = lesson(tuning=f"blocks = 1\nlabel_smoothing = {smoothing}", epochs=2)
    given, head = replace(given, labels=SEVERAL), LinearHead.zeros(3, 384)
    found, loss = finetune(given, Model(head, start.backbone), rng=np.random.default_rng(0), learns="head")
    features = given.standardiser.apply(given.tunable.embed(given.kept))
    rng = np.random.default_rng(0)
    rng.integers(2**31)  # what finetune seeds torch with
    alone, lost = train(head, Examples(features, SEVERAL), given.descent, rng=rng)
    if smoothing == 0:
        np.testing.assert_allclose(found.head.weight, alone.weight, atol=2e-5)
        assert loss == pytest.approx(lost, abs=1e-4)
    else:
        assert loss > lost
    both, all_lost = finetune(given, Model(head, start.backbone), rng=np.random.default_rng(0), learns="all")
    assert all_lost < 3 * np.log(2)
    assert any((value != start.backbone[name]).any() for name, value in both.backbone.items())


def test_the_loss_falls_and_the_same_seed_gives_the_same_model() -> None:
    given, start = lesson(tuning="blocks = 1\ndropout = 0.1\nlabel_smoothing = 0.05")
    first, loss = finetune(given, start, rng=np.random.default_rng(0))
    again, _ = finetune(given, start, rng=np.random.default_rng(0))
    assert loss < np.log(2)
    assert all((value == again.weights()[name]).all() for name, value in first.weights().items())
    assert any((value != start.backbone[name]).any() for name, value in first.backbone.items())


def test_micro_batches_add_up_to_the_batch() -> None:
    given, start = lesson()
    whole, _ = finetune(given, start, rng=np.random.default_rng(0))
    small = replace(given, tuning=given.tuning.model_copy(update={"micro_batch": 2}))
    _same(whole, finetune(small, start, rng=np.random.default_rng(0))[0])


def test_too_little_memory_halves_the_micro_batch_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given, start = lesson()
    whole, _ = finetune(given, start, rng=np.random.default_rng(0))
    above, sizes = given.tunable.path.above, []

    def scarce(kept: tuple[torch.Tensor, ...]) -> torch.Tensor:
        sizes.append(len(kept[0]))
        if len(kept[0]) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return above(kept)

    monkeypatch.setattr(given.tunable.path, "above", scarce)
    _same(whole, finetune(given, start, rng=np.random.default_rng(0))[0])
    assert sizes[:2] == [5, 2]
    monkeypatch.setattr(given.tunable.path, "above", _never)
    with pytest.raises(BackboneError, match="does not hold one example"):
        finetune(given, start, rng=np.random.default_rng(0))


def _never(kept: Any) -> torch.Tensor:
    raise torch.OutOfMemoryError("out of memory")


def test_checkpointing_gives_the_same_model() -> None:
    given, start = lesson("last-blocks", "optimizer = 'sgd'\nlr = 0.01")
    other, _ = lesson("last-blocks", "optimizer = 'sgd'\nlr = 0.01\ncheckpointing = true")
    _same(*(finetune(one, start, rng=np.random.default_rng(0))[0] for one in (given, other)))


def test_the_head_alone_descends_as_it_does_on_frozen_features() -> None:
    given, start = lesson()
    found, _ = finetune(given, start, rng=np.random.default_rng(0), learns="head")
    features = given.standardiser.apply(given.tunable.embed(given.kept))
    rng = np.random.default_rng(0)
    rng.integers(2**31)
    expected, _ = train(start.head, Examples(features, LABELS), given.descent, rng=rng)
    np.testing.assert_allclose(found.head.weight, expected.weight, atol=1e-5)
    assert all((found.backbone[name] == value).all() for name, value in start.backbone.items())


def test_the_backbone_alone_leaves_the_head() -> None:
    given, start = lesson()
    start = replace(start, head=LinearHead(np.full((2, 384), 0.01, np.float32), np.zeros(2, np.float32)))
    found, _ = finetune(given, start, rng=np.random.default_rng(0), learns="backbone")
    assert (found.head.weight == start.head.weight).all()


def test_a_strong_pull_keeps_the_model_at_its_centre() -> None:
    given, start = lesson("lora", "blocks = 1\noptimizer = 'sgd'\nlr = 0.05\nmax_norm = 1e9")
    free, _ = finetune(given, start, rng=np.random.default_rng(0))
    held = replace(given, descent=replace(given.descent, proximal_mu=10.0), centre=start)
    pulled, _ = finetune(held, start, rng=np.random.default_rng(0))
    distance = [
        sum(float(np.square(m.weights()[n] - v).sum()) for n, v in start.weights().items())  # type: ignore[operator]
        for m in (free, pulled)
    ]
    assert distance[1] < 0.3 * distance[0]


def test_a_correction_that_is_the_gradient_undoes_the_step() -> None:
    given, start = lesson("lora", "blocks = 1\noptimizer = 'sgd'\nlr = 0.05", epochs=1)
    given = replace(given, descent=replace(given.descent, batch_size=len(LABELS)))
    moved, _ = finetune(given, start, rng=np.random.default_rng(0), learns="all")
    correction = {
        name: (moved.weights()[name] - value) / np.float32(0.05)  # type: ignore[operator]
        for name, value in start.weights().items()
    }
    stayed, _ = finetune(replace(given, correction=correction), start, rng=np.random.default_rng(0))
    _same(stayed, start)


def test_layers_further_down_learn_more_slowly() -> None:
    given, _ = lesson("lora", "layer_decay = 0.5\nlr = 0.1\nweight_decay = 0.01")
    depths = given.tunable.depths()
    found = {
        depths[name]: rates(BACKBONE + name, 2, given.descent, given.tuning, depths)[0]
        for name in given.tunable.tensors
    }
    assert found == {5: 0.1 / 32, 4: 0.1 / 16, 3: 0.1 / 8, 2: 0.025, 1: 0.05, 0: 0.1}
    assert rates("bias", 1, given.descent, given.tuning, depths) == (0.05, 0.0)


def test_augmented_images_are_shifted_copies() -> None:
    pixels = np.arange(3 * 32 * 32 * 3, dtype=np.uint8).reshape(3, 32, 32, 3)
    found = augmented(pixels, flip=True, rng=np.random.default_rng(0))
    assert found.shape == pixels.shape
    assert found.dtype == np.uint8
    assert (found != pixels).any()


def _unit_gradients(given: Lesson, start: Model, owner: np.ndarray, clip: float) -> np.ndarray:
    """The oracle: one unit at a time, plain autograd."""
    w = unit_weight(384)
    weight, bias = (torch.tensor(v, requires_grad=True) for v in (start.head.weight, start.head.bias))
    learning = [weight, bias, *(given.tunable.tensors[name] for name in sorted(given.tunable.tensors))]
    total = 0.0
    for unit in np.unique(owner):
        rows = np.flatnonzero(owner == unit)
        features = given.tunable.path.above(tensors_of(tuple(part[rows] for part in given.kept)))
        scores = torch.nn.functional.linear(standardise(given.standardiser, "cpu")(features), weight, bias)
        loss = torch.nn.functional.cross_entropy(scores, torch.from_numpy(LABELS[rows]), reduction="sum")
        on_weight, on_bias, *others = torch.autograd.grad(loss, learning)
        head = torch.cat([on_weight, w * on_bias[:, None]], dim=1)
        alone = torch.cat([g.reshape(-1) for g in (head, *others)]).double().numpy()
        total = total + alone * min(1.0, clip / float(np.linalg.norm(alone)))
    return np.asarray(total)


@pytest.mark.parametrize("tuning", ["blocks = 1", "blocks = 2\nrank = 4"])
def test_opacus_gives_the_clipped_sum_of_single_units_through_lora(tuning: str) -> None:
    given, start = lesson("lora", tuning)
    rng = np.random.default_rng(3)
    start = Model(
        LinearHead(0.1 * rng.normal(size=(2, 384)).astype(np.float32), np.zeros(2, np.float32)),
        {n: (v + 0.05 * rng.normal(size=v.shape)).astype(np.float32) for n, v in start.backbone.items()},  # type: ignore[operator]
    )
    given.tunable.load(start.backbone)
    owner = np.array([0, 1, 2, 2, 3, 0, 4, 5, 6, 7, 7, 7], np.int64)
    options: dict[str, Any] = {"head": start.head, "standardiser": given.standardiser}
    found = clipped_sum(given.tunable, given.kept, LABELS, owner, clip_norm=0.7, **options)
    expected = _unit_gradients(given, start, owner, 0.7)
    np.testing.assert_allclose(found, (1 - ROUNDING) * expected, atol=1e-5)
    assert np.linalg.norm(found) > 0.5


@pytest.mark.parametrize("labels", [LABELS, SEVERAL])
def test_the_heads_part_of_the_clipped_sum_is_the_closed_form(labels: Labels) -> None:
    given, start = lesson("lora", "blocks = 1")
    given.tunable.load(start.backbone)
    head = LinearHead.zeros(3 if labels is SEVERAL else 2, 384)
    found = clipped_sum(
        given.tunable,
        given.kept,
        labels,
        np.arange(len(labels)),
        head=head,
        standardiser=given.standardiser,
        clip_norm=1e9,
    )
    features = given.standardiser.apply(given.tunable.embed(given.kept))
    closed = contribution(head, Examples(features, labels), clip_norm=1e9)[GRADIENT]
    expected = (1 - ROUNDING) * np.asarray(closed, np.float64).ravel()
    np.testing.assert_allclose(found[: closed.size], expected, atol=1e-4)


def test_a_unit_of_more_records_than_fit_at_once_is_still_clipped_as_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given, start = lesson("lora", "blocks = 1")
    given.tunable.load(start.backbone)
    owner = np.zeros(len(LABELS), np.int64)
    options: dict[str, Any] = {"head": start.head, "standardiser": given.standardiser, "clip_norm": 0.5}
    whole = clipped_sum(given.tunable, given.kept, LABELS, owner, **options)
    monkeypatch.setattr("clients.per_record.RECORDS", 5)
    in_pieces = clipped_sum(given.tunable, given.kept, LABELS, owner, **options)
    np.testing.assert_allclose(in_pieces, whole, atol=1e-5)
    assert np.linalg.norm(in_pieces) <= 0.5


def test_a_batchnorm_in_training_mode_is_refused_before_any_gradient() -> None:
    study = parse_study(
        '[study]\nname = "t"\nclasses = ["a", "b"]\n[backbone]\nsource = "bundled:efficientnet-lite0"\n'
        'tune = "last-blocks"\n'
    )
    tunable = open_tunable(study.to_json())
    rng = np.random.default_rng(0)
    kept = tunable.path.below([rng.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(3)])
    norm = next(m for m in tunable.network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    norm.train()
    options: dict[str, Any] = {
        "head": LinearHead.zeros(2, tunable.spec.dim),
        "standardiser": Standardiser(np.zeros(tunable.spec.dim), np.ones(tunable.spec.dim)),
        "clip_norm": 1.0,
    }
    try:
        with pytest.raises(BackboneError, match="is in training mode"):
            clipped_sum(tunable, kept, np.array([0, 1, 0]), np.arange(3), **options)
    finally:
        norm.eval()
    assert np.linalg.norm(clipped_sum(tunable, kept, np.array([0, 1, 0]), np.arange(3), **options)) <= 3.0
