import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from foedus.backbones import Embedder, bundled, describe, open_backbone
from foedus.errors import BackboneError
from foedus.study import BackboneSection

MINILM = bundled.MINILM.file("model/config.json").parent


@pytest.fixture(scope="module")
def minilm() -> Embedder:
    return open_backbone(BackboneSection(source="bundled:minilm-l6"), None)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A whole folder of a tiny encoder with MiniLM's tokenizer."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
    )
    folder = tmp_path / "tiny"
    BertModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(MINILM / name, folder)
    return folder


def _hf(name: object, **settings: int) -> BackboneSection:
    return BackboneSection(source=f"hf:{name}", **settings)  # type: ignore[arg-type]


def _cosine(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    return float(left @ right / np.linalg.norm(left) / np.linalg.norm(right))


def test_minilm_gives_the_published_similarities(minilm: Embedder) -> None:
    """The three sentences of sentence-transformers' own quickstart: 0.6660, 0.1046, 0.1411."""
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    weather, sunny, stadium = minilm.embed(texts)
    assert _cosine(weather, sunny) == pytest.approx(0.6660, abs=2e-4)
    assert _cosine(weather, stadium) == pytest.approx(0.1046, abs=2e-4)
    assert _cosine(sunny, stadium) == pytest.approx(0.1411, abs=2e-4)


def test_minilm_knows_a_meal_from_the_stock_market(minilm: Embedder) -> None:
    food, meal, stocks = minilm.embed(
        ["A man is eating food.", "A man is eating a meal.", "The stock market fell."]
    )
    assert _cosine(food, meal) == pytest.approx(0.926, abs=2e-3)
    assert abs(_cosine(food, stocks)) < 0.1


def test_features_keep_their_order_and_ignore_padding(minilm: Embedder) -> None:
    texts = ["a much longer text than the others, of a dozen words or so", "short", "", "middle of them"]
    together = minilm.embed(texts)
    alone = np.concatenate([minilm.embed([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert together.shape == (4, 384)
    assert minilm.embed([]).shape == (0, 384)


def test_text_is_read_up_to_max_tokens() -> None:
    short = open_backbone(BackboneSection(source="bundled:minilm-l6", max_tokens=8), None)
    one, other = short.embed(["one two three four five six " + tail for tail in ("seven", "eight nine")])
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_what_is_not_text_is_refused(minilm: Embedder) -> None:
    with pytest.raises(BackboneError, match="a text is a NoneType, expected str"):
        minilm.embed(["fine", None])


def test_altered_tokenizer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    altered = replace(bundled.MINILM, pins=bundled.MINILM.pins | {"model/vocab.txt": "0" * 64})
    monkeypatch.setitem(bundled.BUNDLED, altered.name, altered)
    with pytest.raises(BackboneError, match=r"vocab.txt is not the file Foedus knows"):
        open_backbone(BackboneSection(source="bundled:minilm-l6"), None)


def test_folder_works_offline_and_equals_the_bundled_one(minilm: Embedder) -> None:
    spec = describe(_hf(MINILM), None)
    assert (spec.dim, spec.architecture, spec.weights_sha256) == (384, "bert", minilm.spec.weights_sha256)
    same = open_backbone(_hf(MINILM), None)
    np.testing.assert_allclose(same.embed(["a claim"]), minilm.embed(["a claim"]), atol=1e-6)


def test_name_that_is_not_here_is_refused_offline() -> None:
    with pytest.raises(
        BackboneError, match=r"is not on this machine.*use bundled:minilm-l6.*FOEDUS_ALLOW_HUB=1"
    ):
        describe(_hf("nobody/no-such-encoder"), None)


def test_max_tokens_beyond_the_network_are_refused(tiny: Path) -> None:
    assert describe(_hf(tiny), None).preprocessing["max_tokens"] == 32
    with pytest.raises(BackboneError, match=r"max_tokens is 64, but .* reads 32; lower it"):
        describe(_hf(tiny, max_tokens=64), None)


def test_folder_with_pickled_weights_alone_is_refused(tiny: Path) -> None:
    torch.save(load_file(tiny / "model.safetensors"), tiny / "pytorch_model.bin")
    (tiny / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match=r"has no model.safetensors; pickled weights are never read"):
        describe(_hf(tiny), None)


def test_weights_that_are_missing_are_not_drawn_at_random(tiny: Path) -> None:
    state = load_file(tiny / "model.safetensors")
    del state["encoder.layer.0.output.dense.weight"]
    save_file(state, tiny / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneError, match=r"do not fit the network; missing encoder.layer.0.output.dense"):
        open_backbone(_hf(tiny), None)


def test_pooler_is_not_needed(tiny: Path) -> None:
    state = load_file(tiny / "model.safetensors")
    kept = {key: value for key, value in state.items() if not key.startswith("pooler.")}
    save_file(kept, tiny / "model.safetensors", metadata={"format": "pt"})
    assert open_backbone(_hf(tiny), None).embed(["a claim"]).shape == (1, 16)


def test_folder_that_wants_to_run_its_own_code_is_refused(tiny: Path) -> None:
    config = json.loads((tiny / "config.json").read_text())
    config |= {
        "model_type": "home-made",
        "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"},
    }
    (tiny / "config.json").write_text(json.dumps(config))
    with pytest.raises(BackboneError, match="wants to run its own code, which is never done"):
        describe(_hf(tiny), None)


def test_adapter_is_refused(tiny: Path) -> None:
    (tiny / "adapter_config.json").write_text("{}")
    with pytest.raises(BackboneError, match="is an adapter, not a whole model"):
        describe(_hf(tiny), None)


def test_tokenizer_is_part_of_the_digest(tiny: Path) -> None:
    before = describe(_hf(tiny), None).digest
    (tiny / "special_tokens_map.json").write_text("{}")
    assert describe(_hf(tiny), None).digest != before
