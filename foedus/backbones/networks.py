"""timm networks by name: looked up, built, filled from a file, and read at a tap."""

import difflib
from pathlib import Path
from typing import Any

import timm
import torch
from torch.nn.functional import adaptive_avg_pool2d

from foedus.backbones.sources import ALLOW_HUB, Tap, hub_allowed
from foedus.backbones.weights import SAFETENSORS, load_strictly, read_state
from foedus.errors import BackboneError

OFFLINE_CHOICE = "bundled:efficientnet-lite0"


def require_known(name: str) -> None:
    """Refuse a name that timm does not have.

    Raises:
        BackboneError: With the nearest name.
    """
    if not timm.is_model(name) or name.partition(":")[1]:
        near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"'{OFFLINE_CHOICE}' is always here."
        raise BackboneError(f"timm has no network '{name}'; {hint}")
    architecture, _, tag = name.partition(".")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(architecture + ".*")]
    if tag and tag not in tags:
        near = difflib.get_close_matches(tag, tags, n=1, cutoff=0)
        hint = f"did you mean '{architecture}.{near[0]}'?" if near else f"use '{architecture}'."
        raise BackboneError(f"timm has no weights '{tag}' of '{architecture}'; {hint}")


def skeleton(architecture: str, **options: Any) -> torch.nn.Module:
    """The network with random weights; the caller's random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        model: torch.nn.Module = timm.create_model(architecture, pretrained=False, **options)
    return model


def card(model: torch.nn.Module) -> dict[str, Any]:
    """What timm knows of how the network was trained: input size, mean, std, interpolation."""
    known: Any = model.pretrained_cfg
    return dict(known)


def hub_weights(name: str) -> Path:
    """timm's own weights of `name`: from the Hugging Face cache, or downloaded if the user opted in.

    Raises:
        BackboneError: If they are not on this machine and may not be fetched.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    require_known(name)
    known = timm.get_pretrained_cfg(name, allow_unregistered=False)
    repository = known.hf_hub_id if known is not None else None
    if not repository:
        raise BackboneError(f"timm has no weights of '{name}' on the hub; bring yours with file:PATH#{name}.")
    cached = try_to_load_from_cache(repository, "model.safetensors")
    if isinstance(cached, str):
        return Path(cached)
    if not hub_allowed():
        raise BackboneError(
            f"'timm:{name}' is not on this machine: use {OFFLINE_CHOICE}, bring weights with "
            f"file:PATH#{name.split('.')[0]}, or set {ALLOW_HUB}=1 to download it."
        )
    try:
        return Path(hf_hub_download(repository, "model.safetensors"))
    except Exception as error:  # the hub's client raises its own, httpx's and the system's errors
        raise BackboneError(
            f"'timm:{name}' could not be downloaded ({type(error).__name__}); "
            f"check the connection, or use {OFFLINE_CHOICE}."
        ) from error


def from_hub_file(name: str, path: Path) -> torch.nn.Module:
    """timm's network with timm's own weights; its loader adapts older names, and is strict.

    Raises:
        BackboneError: If they do not fit.
    """
    overlay = {"state_dict": read_state(path)}
    try:
        with torch.random.fork_rng(devices=[]):
            model: torch.nn.Module = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    except RuntimeError as error:
        raise BackboneError(f"the weights in {path.name} do not fit timm's '{name}': {error}") from error
    return model


def from_file(path: Path, architecture: str) -> torch.nn.Module:
    """timm's network with your weights; only the classifier, which is not used, may differ.

    Raises:
        BackboneError: If the architecture is unknown or the weights do not fit exactly.
    """
    require_known(architecture)
    state = read_state(path)
    model = skeleton(architecture, num_classes=0)
    classifier = card(model).get("classifier") or ()
    unused = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    own = model.state_dict()
    kept = {
        key: value
        for key, value in state.items()
        if key in own or not key.startswith(tuple(f"{name}." for name in unused))
    }
    kind = "" if path.suffix == SAFETENSORS else " (safetensors is the safer format)"
    load_strictly(model, kept, name=f"{path.name} as {architecture}{kind}")
    return model


class Tapped(torch.nn.Module):
    """An image network up to its tap: (n, 3, side, side) to (n, channels x rows x columns).

    Features are ordered channel by channel, each channel's grid row by row. Of a network with a
    stem and blocks (EfficientNet, MobileNet) only what lies before the tap is kept and run.
    """

    def __init__(self, model: torch.nn.Module, tap: Tap) -> None:
        super().__init__()
        self.tap = tap
        self.truncated = tap.block is not None and _has_stem_and_blocks(model)
        if tap.block is None:
            self.model = model
            return
        depth = _depth(model)
        if tap.block >= depth:
            raise BackboneError(
                f'backbone.tap is "{tap}", but this network has blocks.0 to blocks.{depth - 1}; '
                "choose one of them."
            )
        if self.truncated:
            parts = model.get_submodule("blocks").children()
            first = [block for _, block in zip(range(tap.block + 1), parts, strict=False)]
            stem = (model.get_submodule("conv_stem"), model.get_submodule("bn1"))
            self.model = torch.nn.Sequential(*stem, *first)
        else:
            self.model = model

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features of a batch."""
        if self.tap.block is None:
            pooled: torch.Tensor = self.model.forward_head(  # type: ignore[operator]
                self.model.forward_features(pixels),  # type: ignore[operator]
                pre_logits=True,
            )
            return pooled.flatten(1)
        area = self.model(pixels) if self.truncated else self._intermediate(pixels)
        height, width = area.shape[2:]
        if self.tap.rows > height or self.tap.columns > width:
            raise BackboneError(
                f'backbone.tap is "{self.tap}", but the map there is {height}x{width}; '
                "use a coarser grid or a larger image_size."
            )
        return adaptive_avg_pool2d(area, (self.tap.rows, self.tap.columns)).flatten(1)

    def _intermediate(self, pixels: torch.Tensor) -> torch.Tensor:
        try:
            found: list[torch.Tensor] = self.model.forward_intermediates(  # type: ignore[operator]
                pixels, indices=[self.tap.block], intermediates_only=True, output_fmt="NCHW", stop_early=True
            )
        except (AssertionError, IndexError, TypeError) as error:
            raise BackboneError(
                f'this network cannot be read at "{self.tap}"; set backbone.tap = "head".'
            ) from error
        return found[0]


def _has_stem_and_blocks(model: torch.nn.Module) -> bool:
    parts = dict(model.named_children())
    return {"conv_stem", "bn1"} <= set(parts) and isinstance(parts.get("blocks"), torch.nn.Sequential)


def _depth(model: torch.nn.Module) -> int:
    """Number of blocks (or stages) that can be tapped."""
    if _has_stem_and_blocks(model):
        return len(list(model.get_submodule("blocks").children()))
    if not hasattr(model, "forward_intermediates"):
        raise BackboneError('this network can only be read at its end; set backbone.tap = "head".')
    known: Any = model
    return len(known.blocks) if hasattr(model, "blocks") else len(known.feature_info)
