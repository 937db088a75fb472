"""EfficientNet-Lite0 (Tan & Le 2019; weights of Google's TPU repository) on timm's network.

`efficientnet_lite0` of timm takes the same weights without complaint and is wrong: these were
trained with TensorFlow's padding and BatchNorm epsilon, which `tf_efficientnet_lite0` has.
"""

from pathlib import Path

import torch

from foedus.backbones.weights import load_strictly, read_state, require_pinned

ARCHITECTURE = "tf_efficientnet_lite0"
REPEATS = (1, 2, 2, 3, 3, 4, 1)
TOP = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def key_map() -> dict[str, str]:
    """Prefix in the file to prefix in timm's network."""
    places = [(stage, place) for stage, repeats in enumerate(REPEATS) for place in range(repeats)]
    blocks = {
        f"_blocks.{index}.{theirs}": f"blocks.{stage}.{place}.{ours}"
        for index, (stage, place) in enumerate(places)
        for theirs, ours in (SEPARABLE if stage == 0 else INVERTED).items()
    }
    return TOP | blocks


def build(path: Path, *, sha256: str) -> torch.nn.Module:
    """The whole network with its ImageNet classifier.

    Raises:
        BackboneError: If the file is not the one that is known.
    """
    from foedus.backbones.networks import skeleton

    require_pinned(path, sha256)
    model = skeleton(ARCHITECTURE)
    load_strictly(model, rename(read_state(path)), name=path.name)
    return model


def rename(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`state` under timm's names; a name that is not mapped is kept, for the strict load to refuse."""
    prefixes = key_map()
    renamed = {}
    for name, value in state.items():
        prefix, _, last = name.rpartition(".")
        renamed[f"{prefixes.get(prefix, prefix)}.{last}"] = value
    return renamed
