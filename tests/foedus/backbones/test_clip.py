"""A tiny CLIP with random weights, saved as a folder: what is tested is how it is read."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from foedus.backbones import describe, open_backbone, registry
from foedus.errors import BackboneError
from foedus.study import BackboneSection

SIDE, DIM = 32, 12


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "clip"
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    path.mkdir()
    (path / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(words)}))
    (path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(str(path), model_max_length=16)
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = CLIPConfig(
        text_config={**tower, **ids, "vocab_size": len(words), "max_position_embeddings": 16},
        vision_config={**tower, "image_size": SIDE, "patch_size": 16},
        projection_dim=DIM,
    )
    CLIPModel(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SIDE).save_pretrained(path)
    return path


def _section(folder: Path, **settings: object) -> BackboneSection:
    return BackboneSection(source=f"hf:{folder}", **settings)  # type: ignore[arg-type]


def _images(n: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(n)]


def test_the_folder_says_how_images_are_read(folder: Path) -> None:
    spec = describe(_section(folder), None)
    assert (spec.modality, spec.architecture, spec.dim) == ("image", "clip", DIM)
    assert spec.preprocessing["image_size"] == SIDE
    assert spec.preprocessing["interpolation"] == "bicubic"
    assert spec.preprocessing["mean"] == pytest.approx([0.48145466, 0.4578275, 0.40821073])


def test_features_and_head_equal_transformers_own(folder: Path) -> None:
    """Images of the network's own size need no resizing, so that pixels are the same to rounding."""
    images, texts = _images(), ["cat", "dog", "bird on a wire"]
    features = open_backbone(_section(folder), None, batch_size=2).embed(images)
    head = registry.zero_shot(_section(folder), None, texts)
    assert head is not None
    model = CLIPModel.from_pretrained(str(folder)).eval()
    tokens = CLIPTokenizer.from_pretrained(str(folder))(texts, padding=True, return_tensors="pt")
    pixels = CLIPImageProcessor.from_pretrained(str(folder))(images, return_tensors="pt")
    with torch.inference_mode():
        oracle = model(**tokens, **pixels)
    np.testing.assert_allclose(features, oracle.image_embeds.numpy(), atol=1e-5)
    np.testing.assert_allclose(head.scores(features), oracle.logits_per_image.numpy(), atol=1e-3)


def test_settings_that_mean_nothing_here_are_refused(folder: Path) -> None:
    with pytest.raises(BackboneError, match=r"backbone.image_size cannot be used .* a size of its own"):
        describe(_section(folder, image_size=64), None)


def test_a_folder_without_its_processor_is_refused(folder: Path) -> None:
    for name in ("preprocessor_config.json", "processor_config.json"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(BackboneError, match="does not say how its images are read; save its processor"):
        describe(_section(folder), None)


def test_weights_that_are_missing_are_not_drawn_at_random(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    del state["visual_projection.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneError, match="do not fit the network; missing visual_projection"):
        open_backbone(_section(folder), None)
