"""Tuned tensors on disk, in the formats their own libraries read: a PEFT adapter, or the network's own names."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from foedus import files
from foedus.backbones.registry import open_backbone, open_tunable
from foedus.backbones.sources import parse_tap
from foedus.backbones.spec import BackboneSpec, Embedder
from foedus.errors import RunError
from foedus.statistic import Arrays
from foedus.study import Study

if TYPE_CHECKING:
    import torch

ADAPTER, TENSORS = "adapter/adapter_model.safetensors", "backbone.safetensors"
"""Below the model folder: lora, and the other ways to tune."""


def save_tuned(study: Study, tensors: Arrays, folder: Path) -> dict[str, str]:
    """Write the tuned tensors below a model folder.

    Args:
        study: Says how they were tuned.
        tensors: What learnt, under the names it travels by.
        folder: The model folder.

    Returns:
        What backbone.json says of them: how, where, and the sha256 (hex) of the file.
    """
    name = ADAPTER if study.backbone.tune == "lora" else TENSORS
    digest = files.write_arrays(folder / name, tensors)
    if study.backbone.tune == "lora":
        from foedus.backbones.adapters import save_config

        save_config(open_tunable(study.to_json()).network, (folder / name).parent)
    return {"tune": study.backbone.tune, "tuned": name, "tuned_sha256": digest}


def read_tuned(folder: Path) -> Arrays:
    """The tuned tensors below a model folder; none where only a head was trained.

    Raises:
        RunError: If they are not what backbone.json says.
    """
    about = files.read_json(folder / "backbone.json")
    if "tuned" not in about:
        return {}
    return files.read_arrays(folder / str(about["tuned"]), sha256=str(about["tuned_sha256"]))


def open_saved(study: Study, folder: Path, *, device: str = "cpu", batch_size: int = 32) -> Embedder:
    """The backbone as the head in a model folder reads it: with what was tuned, if anything was.

    Args:
        study: Says how the backbone was tuned.
        folder: The model folder, with backbone.json.
        device: Where it runs.
        batch_size: Most inputs the network sees at once.

    Raises:
        RunError: If the tuned tensors are missing or altered.
        BackboneError: If it is not on this machine.
    """
    embedder: Any = open_backbone(study.backbone, study.table, device=device, batch_size=batch_size)
    if study.backbone.tuned:
        embedder.model = _tuned(study, folder, embedder.spec).to(device)
    found: Embedder = embedder
    return found


def _tuned(study: Study, folder: Path, spec: BackboneSpec) -> "torch.nn.Module":
    """The whole network up to its tap, with the tuned tensors; LoRA's matrices are added to the weights."""
    from foedus.backbones.frozen import freeze
    from foedus.backbones.networks import Tapped
    from foedus.backbones.tunable import Tunable

    tensors = read_tuned(folder)
    if not tensors:
        raise RunError(
            f"{folder / 'backbone.json'} names no tuned tensors, but the study tunes; restore the run's own."
        )
    tunable = Tunable(study)  # not the one the process shares: what is merged can learn no more
    tunable.load(tensors)
    whole: Any = tunable.network
    if study.backbone.tune == "lora":
        whole = whole.merge_and_unload()
    return freeze(Tapped(whole, parse_tap(spec.tap)) if spec.modality == "image" else whole)
