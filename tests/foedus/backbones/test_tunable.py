"""Backbones that learn: the cut changes nothing, only what should learn does, and what is saved is readable."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray

from foedus.backbones import initial, open_backbone, open_tunable
from foedus.backbones.saving import read_tuned, save_tuned
from foedus.backbones.sources import parse_tap
from foedus.backbones.stacks import agrees, image_stack, text_stack
from foedus.backbones.tunable import Tunable, tensors_of
from foedus.errors import BackboneError
from foedus.files import write_json
from foedus.study import Study, parse_study

IMAGE, TEXT = "bundled:efficientnet-lite0", "bundled:minilm-l6"
TEXTS = ["the bank raised its rates", "wheat", "a ship left the harbour with grain on board", "oil fell"]


def study(source: str, tune: str, tuning: str = "") -> Study:
    return parse_study(
        f'[study]\nname = "t"\nclasses = ["a", "b"]\n[backbone]\nsource = "{source}"\ntune = "{tune}"\n'
        f'[tuning]\n{tuning}\n[door]\nmode = "open"\n'
    )


def inputs(source: str) -> list[Any]:
    rng = np.random.default_rng(0)
    pictures: list[Any] = [rng.integers(0, 256, (28, 20, 3), dtype=np.uint8) for _ in range(4)]
    return pictures if source == IMAGE else list(TEXTS)


@pytest.mark.parametrize("source", [IMAGE, TEXT])
@pytest.mark.parametrize(("tune", "tuning"), [("last-blocks", ""), ("lora", "blocks = 2"), ("lora", "")])
def test_before_anything_is_learnt_the_features_are_the_frozen_backbones(
    source: str, tune: str, tuning: str
) -> None:
    asked = study(source, tune, tuning)
    tunable = Tunable(asked)
    found = tunable.embed(tunable.path.below(inputs(source)))
    expected = open_backbone(asked.backbone, None).embed(inputs(source))
    assert np.abs(found - expected).max() < 2e-3 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("source", "tune", "tuning", "cut", "n"),
    [
        (IMAGE, "last-blocks", "", 4, 446_784),
        (IMAGE, "last-blocks", "blocks = 2", 3, 645_264),
        (IMAGE, "full", "", 0, 700_768),
        (TEXT, "last-blocks", "", 5, 1_774_464),
        (TEXT, "lora", "", 0, 73_728),
        (TEXT, "lora", "blocks = 2", 4, 24_576),
    ],
)
def test_only_what_lies_above_the_cut_learns(source: str, tune: str, tuning: str, cut: int, n: int) -> None:
    tunable = Tunable(study(source, tune, tuning))
    assert tunable.path.cut == cut
    assert sum(p.numel() for p in tunable.tensors.values()) == n
    assert {id(p) for p in tunable.network.parameters() if p.requires_grad} == {
        id(p) for p in tunable.tensors.values()
    }


@pytest.mark.parametrize(
    ("name", "tap", "side"),
    [
        ("mobilenetv3_small_100", "head", 64),
        ("mobilenetv3_small_100", "blocks.3@2x2", 64),
        ("vit_tiny_patch16_224", "head", 224),
        ("vit_tiny_patch16_224", "blocks.5@2x2", 224),
        ("resnet18", "head", 64),
        ("convnext_atto", "head", 64),
    ],
)
def test_the_families_of_timm_can_be_cut_between_any_two_blocks(name: str, tap: str, side: int) -> None:
    from foedus.backbones.networks import Tapped

    torch.manual_seed(0)
    whole = timm.create_model(name, pretrained=False).eval()
    stack = image_stack(whole, parse_tap(tap))
    assert stack is not None
    with torch.inference_mode():
        pixels = torch.randn(2, 3, side, side)
        x = stack.stem(pixels)
        for block in stack.blocks:
            x = block(x)
        assert agrees(stack.end(x), Tapped(whole, parse_tap(tap))(pixels))


def test_the_last_blocks_of_an_unknown_family_are_refused() -> None:
    whole = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
    assert image_stack(whole, parse_tap("head")) is None
    assert text_stack(whole) is None


def test_more_blocks_than_there_are_is_refused() -> None:
    with pytest.raises(BackboneError, match=r"tuning.blocks is 9, but .* has 6 up to its tap; lower it"):
        Tunable(study(TEXT, "last-blocks", "blocks = 9"))


def test_a_layer_name_that_lora_does_not_find_is_answered_with_those_there_are() -> None:
    with pytest.raises(
        BackboneError, match=r"tuning.targets: no layer .* there are dense, key, query, value"
    ):
        Tunable(study(TEXT, "lora", 'targets = ["qeury"]'))


def test_tensors_of_another_study_are_refused() -> None:
    tunable = Tunable(study(TEXT, "lora", "blocks = 1"))
    good = tunable.initial()
    name = next(iter(good))
    with pytest.raises(BackboneError, match="missing or left over"):
        tunable.load({name: good[name]})
    with pytest.raises(BackboneError, match="not finite"):
        tunable.load({**good, name: np.full_like(good[name], np.nan)})


def test_initial_values_do_not_remember_an_earlier_run() -> None:
    asked = study(TEXT, "lora", "blocks = 1")
    before = initial(asked)
    tunable = open_tunable(asked.to_json())
    tunable.load({name: value + 1 for name, value in before.items()})  # type: ignore[operator]
    after = initial(asked)
    assert all((before[name] == after[name]).all() for name in before)
    tunable.load({})
    assert all((before[name] == value).all() for name, value in tunable.current().items())


def test_batch_statistics_stay_as_pre_trained() -> None:
    tunable = Tunable(study(IMAGE, "full"))
    tunable.require_eval()
    next(m for m in tunable.network.modules() if isinstance(m, torch.nn.BatchNorm2d)).train()
    with pytest.raises(BackboneError, match="is in training mode"):
        tunable.embed(tunable.path.below(inputs(IMAGE)))


def _moved(asked: Study) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(1)
    return {
        name: (value + 0.02 * rng.normal(size=value.shape)).astype(np.float32)  # type: ignore[operator]
        for name, value in initial(asked).items()
    }


@pytest.mark.parametrize("source", [IMAGE, TEXT])
def test_peft_itself_loads_the_saved_adapter_and_gives_the_same_features(source: str, tmp_path: Path) -> None:
    import peft

    from foedus.backbones import images, texts
    from foedus.backbones.networks import Tapped
    from foedus.backbones.sources import parse_source

    asked = study(source, "lora", "blocks = 2")
    moved = _moved(asked)
    about = save_tuned(asked, dict(moved), tmp_path)
    write_json(tmp_path / "backbone.json", about)
    assert all((read_tuned(tmp_path)[name] == value).all() for name, value in moved.items())
    tunable = Tunable(asked)
    tunable.load(dict(moved))
    kept = tensors_of(tunable.path.below(inputs(source)))
    with torch.inference_mode():
        ours = tunable.path.above(kept).numpy()
    assert "site-packages" not in (tmp_path / "adapter" / "adapter_config.json").read_text()

    if source == TEXT:
        opened = texts.open_texts(asked.backbone, parse_source(source), device="cpu", batch_size=8)
        base = peft.PeftModel.from_pretrained(opened.model, str(tmp_path / "adapter")).eval()
        tokens = opened.tokenizer(TEXTS, padding=True, return_tensors="pt")
        with torch.inference_mode():
            states = base(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1)
        theirs = ((states * mask).sum(1) / mask.sum(1)).numpy()
    else:
        spec, whole = images.open_whole(asked.backbone, parse_source(source))
        peft.PeftModel.from_pretrained(whole.eval(), str(tmp_path / "adapter")).eval()
        reader = images.ImageEmbedder(
            spec, Tapped(whole, parse_tap(spec.tap)).eval(), device="cpu", batch_size=8
        )
        with torch.inference_mode():
            theirs = reader.model(reader.batch(inputs(source))).numpy()
    frozen = open_backbone(asked.backbone, None).embed(inputs(source))
    assert np.abs(ours - theirs).max() < 3e-3 * np.abs(theirs).max()
    assert np.abs(frozen - theirs).max() > 1e-2 * np.abs(theirs).max()


def test_tuned_blocks_are_saved_under_the_networks_own_names(tmp_path: Path) -> None:
    asked = study(IMAGE, "last-blocks")
    about = save_tuned(asked, dict(_moved(asked)), tmp_path)
    write_json(tmp_path / "backbone.json", about)
    names = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict().keys()
    assert set(read_tuned(tmp_path)) <= set(names)
