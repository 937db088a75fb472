"""LoRA (Hu et al. 2022) through PEFT: put in, read out, and saved so that PEFT loads it without Foedus."""

import warnings
from pathlib import Path
from typing import Any

import peft
import torch

from foedus.backbones.sources import stay_offline
from foedus.errors import BackboneError
from foedus.study import TuningSection

stay_offline()
ATTENTION = ("query", "value", "q_lin", "v_lin", "q_proj", "v_proj", "qkv", "Wqkv", "in_proj_linear")
POINTWISE = ("conv_pw", "conv_pwl")
"""Convolutions that mix channels at one place: the linear layers of EfficientNet and MobileNet."""


def add_lora(
    whole: torch.nn.Module, region: torch.nn.Module, tuning: TuningSection, *, seed: int, source: str
) -> Any:
    """PEFT's model around `whole`, with adapters in the layers of `region`; they change nothing yet.

    Args:
        whole: The network; its layers are replaced in place.
        region: Part of it that may learn.
        tuning: Rank, alpha, dropout, and the names of the layers.
        seed: Draws the first matrices (the second are zero).
        source: Goes into adapter_config.json.

    Raises:
        BackboneError: If no layer of that name takes an adapter.
    """
    inside = {id(module) for module in region.modules()}
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    able = {
        name: module
        for name, module in whole.named_modules()
        if id(module) in inside and isinstance(module, kinds) and getattr(module, "groups", 1) == 1
    }
    found = _named(able, tuple(tuning.targets) or ATTENTION)
    if not found and not tuning.targets:
        found = _named(able, POINTWISE) or [n for n, m in able.items() if isinstance(m, torch.nn.Conv2d)]
    if not found:
        known = ", ".join(sorted({name.rpartition(".")[2] for name in able})[:12])
        raise BackboneError(f"tuning.targets: no layer of '{source}' is named so; there are {known}.")
    config = peft.LoraConfig(
        r=tuning.rank,
        lora_alpha=tuning.alpha,  # type: ignore[arg-type]
        lora_dropout=tuning.dropout,
        target_modules=found,
        bias="none",
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = peft.get_peft_model(whole, config)
    config.base_model_name_or_path = source  # PEFT puts the path on this machine there
    return model.eval()


def _named(layers: dict[str, Any], last: tuple[str, ...]) -> list[str]:
    return [name for name in layers if name.rpartition(".")[2] in last]


def lora_tensors(model: Any) -> dict[str, torch.nn.Parameter]:
    """The adapters' matrices by the names PEFT saves them under."""
    return {
        name.replace(".default.", "."): parameter
        for name, parameter in model.named_parameters()
        if "lora_" in name
    }


def save_config(model: Any, folder: Path) -> None:
    """Write adapter_config.json as PEFT reads it; beside adapter_model.safetensors it is a whole adapter."""
    config = model.peft_config["default"]
    config.inference_mode = True
    config.save_pretrained(str(folder))
