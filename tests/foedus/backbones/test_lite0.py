import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from timm.data import ImageNetInfo, create_transform

from foedus.backbones import bundled, describe, lite0, open_backbone
from foedus.backbones.frozen import freeze, require_frozen
from foedus.backbones.networks import Tapped
from foedus.backbones.sources import parse_tap
from foedus.errors import BackboneError
from foedus.study import BackboneSection

GOLDEN = {
    "china.jpg": ("palace", 0.2983, [(698, 7.4865), (442, 6.9232), (663, 5.9860)]),
    "flower.jpg": ("daisy", 0.3230, [(985, 7.4485), (309, 5.7414), (947, 5.4715)]),
}
"""Class, probability and logits measured with the author's own code (reference/backbones.md)."""


@pytest.fixture(scope="module")
def whole() -> torch.nn.Module:
    found = bundled.LITE0
    return freeze(lite0.build(found.file(found.weights), sha256=found.weights_sha256))


def _photo(name: str) -> torch.Tensor:
    transform = create_transform(
        input_size=224, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=0.875
    )
    pixels: torch.Tensor = transform(Image.fromarray(load_sample_image(name)))
    return pixels[None]


@pytest.mark.parametrize("name", GOLDEN)
def test_logits_of_photos_are_the_golden_ones(whole: torch.nn.Module, name: str) -> None:
    label, probability, top = GOLDEN[name]
    with torch.inference_mode():
        logits = whole(_photo(name))[0]
    best = int(logits.argmax())
    assert ImageNetInfo().index_to_description(best) == label
    assert float(logits.softmax(0)[best]) == pytest.approx(probability, abs=2e-3)
    for index, value in top:
        assert float(logits[index]) == pytest.approx(value, abs=5e-3)


@pytest.mark.parametrize("name", GOLDEN)
def test_the_network_without_tensorflow_padding_loads_and_is_wrong(whole: torch.nn.Module, name: str) -> None:
    wrong = freeze(timm.create_model("efficientnet_lite0"))
    wrong.load_state_dict(whole.state_dict(), strict=True)
    with torch.inference_mode():
        assert float((wrong(_photo(name)) - whole(_photo(name))).abs().max()) > 1


def test_every_tensor_of_the_file_is_mapped_once() -> None:
    mapped = lite0.key_map()
    assert len(set(mapped.values())) == len(mapped) == 5 + 4 + 15 * 6


@pytest.mark.parametrize("block", [2, 4, 6])
def test_trunk_equals_the_intermediate_of_the_whole_network(whole: torch.nn.Module, block: int) -> None:
    stages = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(2, 3, 4))
    stages.load_state_dict(whole.state_dict(), strict=False)
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        maps = dict(zip((2, 4, 6), freeze(stages)(pixels), strict=True))
        pooled = torch.nn.functional.adaptive_avg_pool2d(maps[block], 2).flatten(1)
        features = freeze(Tapped(whole, parse_tap(f"blocks.{block}@2x2")))(pixels)
    torch.testing.assert_close(features, pooled, atol=1e-5, rtol=1e-5)


def test_trunk_up_to_block_4_has_700768_parameters(whole: torch.nn.Module) -> None:
    trunk = Tapped(whole, parse_tap("blocks.4@2x2"))
    assert sum(p.numel() for p in trunk.parameters()) == 700_768


@pytest.mark.parametrize(
    "section",
    [
        BackboneSection(),
        BackboneSection(tap="blocks.3@4x4"),
        BackboneSection(tap="blocks.0"),
        BackboneSection(tap="head", image_size=64),
    ],
)
def test_features_have_the_width_described(section: BackboneSection) -> None:
    embedder = open_backbone(section, None)
    features = embedder.embed([np.zeros((28, 28), np.uint8)])
    assert features.shape == (1, describe(section, None).dim)
    assert features.dtype == np.float32
    assert embedder.spec == describe(section, None)


def test_features_do_not_depend_on_batches_and_read_grey_as_rgb() -> None:
    rng = np.random.default_rng(0)
    grey = [rng.integers(0, 256, (20 + i, 30), dtype=np.uint8) for i in range(5)]
    rgb = [np.repeat(image[:, :, None], 3, axis=2) for image in grey]
    together = open_backbone(BackboneSection(), None).embed(grey)
    alone = open_backbone(BackboneSection(), None, batch_size=2).embed(rgb)
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert open_backbone(BackboneSection(), None).embed([]).shape == (0, 448)


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8), np.float32), np.zeros((8, 8, 4), np.uint8), np.zeros((0, 8), np.uint8), "picture.png"],
)
def test_what_is_not_an_image_is_refused(image: object) -> None:
    with pytest.raises(BackboneError, match=r"expected .*uint8"):
        open_backbone(BackboneSection(), None).embed([image])


def test_altered_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "altered_lite0"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    copy = package / bundled.LITE0.weights
    shutil.copy(bundled.LITE0.file(bundled.LITE0.weights), copy)
    content = bytearray(copy.read_bytes())
    content[-100] ^= 1
    copy.write_bytes(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    altered = replace(bundled.LITE0, package="altered_lite0")
    monkeypatch.setitem(bundled.BUNDLED, altered.name, altered)
    monkeypatch.setattr(bundled, "LITE0", altered)
    with pytest.raises(
        BackboneError, match=r"is not the file Foedus knows \(its sha256 is .*expected 579344"
    ):
        open_backbone(BackboneSection(), None)


def test_batchnorm_in_training_mode_is_refused_before_embedding() -> None:
    embedder = open_backbone(BackboneSection(), None)
    layers = [m for m in embedder.model.modules() if isinstance(m, torch.nn.BatchNorm2d)]  # type: ignore[attr-defined]
    layers[3].train()
    with pytest.raises(BackboneError, match=r"layer 'model\..*\(BatchNormAct2d\) is in training mode"):
        embedder.embed([np.zeros((8, 8), np.uint8)])


@pytest.mark.parametrize("layer", [torch.nn.Dropout(0.1), torch.nn.BatchNorm1d(2)])
def test_require_frozen_names_the_layer(layer: torch.nn.Module) -> None:
    model = freeze(torch.nn.Sequential(torch.nn.Linear(2, 2), layer))
    require_frozen(model)
    layer.train()
    with pytest.raises(BackboneError, match=rf"layer '1' \({type(layer).__name__}\) is in training mode"):
        require_frozen(model)


def test_require_frozen_refuses_a_parameter_that_learns() -> None:
    with pytest.raises(BackboneError, match="parameter 'weight' asks for a gradient"):
        require_frozen(torch.nn.Linear(2, 2).eval())


def test_opening_leaves_the_random_state_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    open_backbone(BackboneSection(), None)
    assert torch.equal(torch.rand(1), expected)


def test_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(BackboneError, match=r"device 'nonsense' cannot be used .* set device = \"cpu\""):
        open_backbone(BackboneSection(), None, device="nonsense")
