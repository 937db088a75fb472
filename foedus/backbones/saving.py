"""Tuned tensors on disk, in the formats their own libraries read: a PEFT adapter, or the network's own names."""

from pathlib import Path

from foedus import files
from foedus.backbones.registry import open_tunable
from foedus.statistic import Arrays
from foedus.study import Study

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
