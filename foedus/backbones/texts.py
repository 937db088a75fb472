"""Text backbones: a transformer encoder, averaged over its tokens. Imports torch and transformers."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from foedus.backbones import bundled
from foedus.backbones.frozen import freeze, on_device, require_frozen
from foedus.backbones.sources import ALLOW_HUB, Source, hub_allowed, local, refuse_keys, stay_offline
from foedus.backbones.spec import BackboneSpec, make_spec
from foedus.backbones.weights import require_pinned, sha256_of, stamp
from foedus.errors import BackboneError
from foedus.study import BackboneSection

stay_offline()
from transformers import AutoConfig, AutoModel, AutoTokenizer  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

if TYPE_CHECKING:
    from foedus.backbones.spec import Inputs

OFFLINE_CHOICE = "bundled:minilm-l6"
DEFAULT_TOKENS = 64
READING = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
"""Files beside the weights that decide the features."""


class TextEmbedder:
    """A frozen text encoder with mean pooling over the attention mask (Reimers & Gurevych 2019)."""

    def __init__(self, spec: BackboneSpec, folder: Path, *, device: str, batch_size: int) -> None:
        self.spec = spec
        self.device = device
        self.batch_size = batch_size
        self.tokenizer, model = load(folder)
        self.model = on_device(freeze(model), device)

    def embed(self, inputs: "Inputs") -> NDArray[np.float32]:
        """(n, dim), float32; see `Embedder`. Texts of like length share a batch."""
        require_frozen(self.model)
        texts = [_text(item) for item in inputs]
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        features = np.empty((len(texts), self.spec.dim), np.float32)
        for begin in range(0, len(order), self.batch_size):
            rows = order[begin : begin + self.batch_size]
            features[rows] = self._batch([texts[row] for row in rows])
        return features

    def _batch(self, texts: Sequence[str]) -> NDArray[np.float32]:
        limit = self.spec.preprocessing["max_tokens"]
        tokens = self.tokenizer(
            list(texts), truncation=True, max_length=limit, padding=True, return_tensors="pt"
        ).to(self.device)
        with torch.inference_mode():
            states = self.model(**tokens).last_hidden_state.float()
            mask = tokens["attention_mask"].unsqueeze(-1).float()
            means = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
        return np.asarray(means.cpu().numpy(), np.float32)


def _text(item: object) -> str:
    if not isinstance(item, str):
        raise BackboneError(f"a text is a {type(item).__name__}, expected str.")
    return item


def describe(section: BackboneSection, source: Source) -> BackboneSpec:
    """The spec of an hf: backbone.

    Raises:
        BackboneError: If it is not on this machine, is not safetensors, or is no text encoder.
    """
    refuse_keys(section, "tap", "image_size", modality="text")
    folder = find_folder(source.name)
    weights = weight_files(folder, source.name)
    reading = [folder / name for name in READING if (folder / name).is_file()]
    config = read_config(folder, source.name)
    if getattr(config, "is_encoder_decoder", False) or not hasattr(config, "hidden_size"):
        raise BackboneError(f"'hf:{source.name}' is not a text encoder; choose one such as {OFFLINE_CHOICE}.")
    limit = getattr(config, "max_position_embeddings", None) or DEFAULT_TOKENS
    if section.max_tokens is not None and section.max_tokens > limit:
        raise BackboneError(
            f"backbone.max_tokens is {section.max_tokens}, but 'hf:{source.name}' reads {limit}; lower it."
        )
    return make_spec(
        section.source,
        "text",
        architecture=str(config.model_type),
        dim=int(config.hidden_size),
        tap="mean",
        preprocessing={
            "max_tokens": section.max_tokens or min(DEFAULT_TOKENS, int(limit)),
            "pooling": "mean",
            "tokenizer_sha256": sha256_of(stamp(*reading)),
        },
        weights_sha256=sha256_of(stamp(*weights)),
    )


def open_texts(section: BackboneSection, source: Source, *, device: str, batch_size: int) -> TextEmbedder:
    """The embedder of bundled:minilm-l6 or of an hf: backbone.

    Raises:
        BackboneError: As `describe`, and if a bundled file is not the pinned one.
    """
    if source.kind == "bundled":
        spec = bundled.describe(section, source.name)
        found = bundled.find(source.name)
        for name, sha256 in found.pins.items():
            require_pinned(found.file(name), sha256)
        folder = found.file(found.weights).parent
    else:
        spec, folder = describe(section, source), find_folder(source.name)
    return TextEmbedder(spec, folder, device=device, batch_size=batch_size)


def find_folder(name: str) -> Path:
    """The folder of an hf: backbone: a local one, the cached snapshot, or (if opted in) a download.

    Raises:
        BackboneError: If it is not on this machine and may not be fetched.
    """
    if local(name).is_dir():
        return local(name)
    from huggingface_hub import snapshot_download

    try:
        patterns = ["*.safetensors", "*.safetensors.index.json", "*processor_config.json", *READING]
        return Path(snapshot_download(name, local_files_only=not hub_allowed(), allow_patterns=patterns))
    except Exception as error:  # the hub's client raises its own, httpx's and the system's errors
        why = "could not be downloaded" if hub_allowed() else "is not on this machine, nor a folder here"
        way_out = "" if hub_allowed() else f", or set {ALLOW_HUB}=1 to download it"
        raise BackboneError(
            f"'hf:{name}' {why}: use {OFFLINE_CHOICE}, or give a folder with config, tokenizer and "
            f"model.safetensors{way_out}."
        ) from error


def weight_files(folder: Path, name: str) -> list[Path]:
    """The safetensors of a whole model.

    Raises:
        BackboneError: If there are none, or they are an adapter's.
    """
    if (folder / "adapter_config.json").exists():
        raise BackboneError(f"'hf:{name}' is an adapter, not a whole model; merge it and save the result.")
    single = folder / "model.safetensors"
    found = [single] if single.is_file() else sorted(folder.glob("model-*.safetensors"))
    if not found:
        raise BackboneError(
            f"'hf:{name}' has no model.safetensors; pickled weights are never read, so save it again with "
            "save_pretrained (safetensors is its default)."
        )
    return found


def read_config(folder: Path, name: str) -> Any:
    """What transformers reads in the folder's config.json.

    Raises:
        BackboneError: If it does not know it.
    """
    try:
        return AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise BackboneError(
            f"'hf:{name}' has no config.json that this version of transformers knows, or it wants to run "
            "its own code, which is never done."
        ) from error


def load(folder: Path) -> tuple[Any, torch.nn.Module]:
    """Tokenizer and model; every weight the features need comes from the file.

    Raises:
        BackboneError: If it cannot be opened as one, or a weight is missing.
    """
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **options)
        model, info = AutoModel.from_pretrained(
            str(folder), use_safetensors=True, dtype=torch.float32, output_loading_info=True, **options
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise BackboneError(
            f"'{folder.name}' could not be opened as an encoder ({type(error).__name__}); "
            "it needs config, tokenizer and safetensors of one encoder."
        ) from error
    lacking = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if lacking or info["mismatched_keys"]:
        raise BackboneError(
            f"'{folder.name}': the weights do not fit the network; missing {', '.join(lacking[:8]) or 'none'}"
            f"; of another shape {len(info['mismatched_keys'])}."
        )
    if model.main_input_name != "input_ids":
        raise BackboneError(f"'{folder.name}' is not a text encoder; choose one such as {OFFLINE_CHOICE}.")
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer, model
