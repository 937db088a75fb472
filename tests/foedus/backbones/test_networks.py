from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from foedus.backbones import describe, open_backbone
from foedus.backbones.weights import read_state
from foedus.errors import BackboneError
from foedus.study import BackboneSection

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


class Payload:
    """What a malicious pickle would run."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, ("pickle-was-run",))


@pytest.fixture
def vit(tmp_path: Path) -> tuple[torch.nn.Module, Path]:
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=7).eval()
    save_file(model.state_dict(), tmp_path / "vit.safetensors")
    return model, tmp_path / "vit.safetensors"


def _section(path: Path, architecture: str = "test_vit", tap: str | None = None) -> BackboneSection:
    return BackboneSection(source=f"file:{path}#{architecture}", tap=tap)


def test_file_gives_the_features_of_the_saved_network(vit: tuple[torch.nn.Module, Path]) -> None:
    model, path = vit
    embedder = open_backbone(_section(path), None)
    with torch.inference_mode():
        pixels = embedder.batch([IMAGE])  # type: ignore[attr-defined]
        expected = model.forward_head(model.forward_features(pixels), pre_logits=True)  # type: ignore[operator]
    np.testing.assert_allclose(embedder.embed([IMAGE]), expected.numpy(), atol=1e-5)
    assert (embedder.spec.tap, embedder.spec.architecture) == ("head", "test_vit")


def test_file_may_be_a_pth_with_tensors_alone(vit: tuple[torch.nn.Module, Path], tmp_path: Path) -> None:
    model, path = vit
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    same = open_backbone(_section(tmp_path / "vit.pth"), None).embed([IMAGE])
    np.testing.assert_array_equal(same, open_backbone(_section(path), None).embed([IMAGE]))


def test_blocks_of_a_vision_transformer_are_tapped_on_a_grid(vit: tuple[torch.nn.Module, Path]) -> None:
    model, path = vit
    embedder = open_backbone(_section(path, tap="blocks.2@2x2"), None)
    with torch.inference_mode():
        area = model.forward_intermediates(  # type: ignore[operator]
            embedder.batch([IMAGE]),
            indices=[2],
            intermediates_only=True,  # type: ignore[attr-defined]
        )[0]
    expected = torch.nn.functional.adaptive_avg_pool2d(area, 2).flatten(1)
    np.testing.assert_allclose(embedder.embed([IMAGE]), expected.numpy(), atol=1e-5)
    with pytest.raises(BackboneError, match=r"has blocks\.0 to blocks\.\d+; choose one"):
        describe(_section(path, tap="blocks.99"), None)


@pytest.mark.parametrize("architecture", ["test_resnet", "test_efficientnet", "test_convnext"])
def test_stages_of_convolutional_networks_are_tapped(architecture: str, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_file(timm.create_model(architecture).state_dict(), path)
    embedder = open_backbone(_section(path, architecture, "blocks.1@2x2"), None)
    assert embedder.embed([IMAGE]).shape == (1, embedder.spec.dim)
    assert embedder.spec.dim % 4 == 0


def test_wrong_architecture_names_every_kind_of_problem(vit: tuple[torch.nn.Module, Path]) -> None:
    _, path = vit
    with pytest.raises(BackboneError, match=r"do not fit the network; \d+ missing \(.*; \d+ left over \("):
        describe(_section(path, "test_resnet"), None)
    with pytest.raises(BackboneError, match=r"of another shape \(.* has shape \[.*expected \["):
        describe(_section(path, "vit_tiny_patch16_224"), None)


def test_digest_follows_the_contents_not_the_place(vit: tuple[torch.nn.Module, Path], tmp_path: Path) -> None:
    model, path = vit
    before = describe(_section(path), None)
    moved = tmp_path / "elsewhere.safetensors"
    moved.write_bytes(path.read_bytes())
    assert describe(_section(moved), None).digest == before.digest
    save_file({key: value + 1 for key, value in model.state_dict().items()}, path)
    assert describe(_section(path), None).digest != before.digest


def test_image_size_of_a_fixed_network_is_refused(vit: tuple[torch.nn.Module, Path]) -> None:
    section = _section(vit[1]).model_copy(update={"image_size": 64})
    with pytest.raises(BackboneError, match="only reads 160 px; remove it"):
        describe(section, None)


def test_pickled_objects_are_refused_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(BackboneError, match="holds Python objects besides tensors"):
        describe(_section(tmp_path / "evil.pth"), None)
    assert not (tmp_path / "pickle-was-run").exists()


def test_checkpoint_with_more_than_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": {"w": torch.zeros(1)}}, tmp_path / "checkpoint.pth")
    with pytest.raises(BackboneError, match="is not a plain state_dict"):
        read_state(tmp_path / "checkpoint.pth")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cut.safetensors", "is not a safetensors file, or is cut off"),
        ("cut.pth", "holds Python objects|is not a PyTorch file"),
        ("weights.h5", r"is neither \.safetensors nor \.pth"),
        ("absent.safetensors", r"absent.safetensors cannot be read \(No such file"),
    ],
)
def test_files_that_cannot_be_read_are_refused(name: str, message: str, tmp_path: Path) -> None:
    if not name.startswith("absent"):
        (tmp_path / name).write_bytes(b"\x50\x00\x00\x00not weights")
    with pytest.raises(BackboneError, match=message):
        describe(_section(tmp_path / name), None)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("timm:resnet50", r"not on this machine: use bundled:efficientnet-lite0, .* FOEDUS_ALLOW_HUB=1"),
        ("timm:resnett50", r"timm has no network 'resnett50'; did you mean 'resnet50'\?"),
        (
            "timm:resnet50.a1_in1",
            r"timm has no weights 'a1_in1' of 'resnet50'; did you mean 'resnet50.a1_in1k'",
        ),
        ("timm:hf-hub:someone/net", "timm has no network 'hf-hub:someone/net'"),
        ("timm:local-dir:/tmp", "timm has no network"),
    ],
)
def test_timm_names_offline(source: str, message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        describe(BackboneSection(source=source), None)


def test_timm_name_in_the_cache_is_used_without_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = timm.create_model("test_vit").eval()
    save_file(whole.state_dict(), tmp_path / "model.safetensors")
    cached = str(tmp_path / "model.safetensors")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: cached)
    features = open_backbone(BackboneSection(source="timm:test_vit.r160_in1k"), None).embed([IMAGE])
    same = open_backbone(_section(tmp_path / "model.safetensors", "test_vit.r160_in1k"), None)
    np.testing.assert_allclose(features, same.embed([IMAGE]), atol=1e-6)


def test_download_happens_only_when_asked_for_and_its_failure_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def download(*name: str) -> str:
        asked.append(name)
        raise ConnectionError

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(BackboneError, match="is not on this machine"):
        describe(BackboneSection(source="timm:test_vit"), None)
    assert asked == []
    monkeypatch.setenv("FOEDUS_ALLOW_HUB", "1")
    with pytest.raises(BackboneError, match=r"could not be downloaded \(ConnectionError\)"):
        describe(BackboneSection(source="timm:test_vit"), None)
    assert asked == [("timm/test_vit.r160_in1k", "model.safetensors")]
