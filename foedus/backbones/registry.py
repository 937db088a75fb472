"""Every backbone by the name a study uses. What needs torch is imported when it is opened."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from foedus.backbones import bundled, tabular
from foedus.backbones.sources import ALLOW_HUB, hub_allowed, parse_source, stay_offline
from foedus.backbones.spec import BackboneSpec, Embedder, Listed
from foedus.columns import TableSection
from foedus.errors import BackboneError
from foedus.head import LinearHead
from foedus.statistic import Arrays
from foedus.study import BackboneSection, Study, study_from_json

if TYPE_CHECKING:
    from foedus.backbones.tunable import Tunable


def describe(section: BackboneSection, table: TableSection | None) -> BackboneSpec:
    """What identifies the study's backbone.

    Cheap for bundled: and tabular; timm: and file: build the network once per process.

    Raises:
        BackboneError: If it is unknown, not on this machine, or a setting does not fit it.
    """
    source = parse_source(section.source)
    match source.kind:
        case "tabular":
            return tabular.describe(section, table)
        case "bundled":
            return bundled.describe(section, source.name)
        case "timm" | "file":
            stay_offline()
            from foedus.backbones import images

            return images.describe(section, source)
        case "hf":
            from foedus.backbones import clip, texts

            return clip.describe(section, source) if clip.fits(source) else texts.describe(section, source)


def open_backbone(
    section: BackboneSection, table: TableSection | None, *, device: str = "cpu", batch_size: int = 32
) -> Embedder:
    """The study's backbone, ready to embed; frozen, on `device`.

    Raises:
        BackboneError: As `describe`; and if a file is not what its pinned hash says.
    """
    if batch_size < 1:
        raise BackboneError(f"batch_size is {batch_size}, expected at least 1.")
    spec = describe(section, table)
    if spec.modality == "table" and table is not None:
        return tabular.TableEmbedder(spec, table)
    source = parse_source(section.source)
    if spec.modality == "image" and source.kind == "hf":
        from foedus.backbones.clip import open_clip

        return open_clip(section, source, device=device, batch_size=batch_size)
    if spec.modality == "image":
        stay_offline()
        from foedus.backbones.images import open_images

        return open_images(section, source, device=device, batch_size=batch_size)
    from foedus.backbones.texts import open_texts

    return open_texts(section, source, device=device, batch_size=batch_size)


def initial(study: Study) -> Arrays:
    """The backbone's tensors that learn, as pre-trained; nothing where tune = "head".

    Raises:
        BackboneError: As `open_backbone`, and if the network cannot be tuned as the study asks.
    """
    return open_tunable(study.to_json()).initial() if study.backbone.tuned else {}


@lru_cache(maxsize=2)
def open_tunable(study_json: str, device: str = "cpu") -> "Tunable":
    """The study's backbone with tensors that learn; one in a process, so `load` what you need before using it.

    Raises:
        BackboneError: As `initial`.
    """
    stay_offline()
    from foedus.backbones.tunable import Tunable

    return Tunable(study_from_json(study_json), device=device)


def zero_shot(
    section: BackboneSection, table: TableSection | None, texts: Sequence[str]
) -> LinearHead | None:
    """The head of raw features that the classes' texts give; None where the backbone reads no text.

    Args:
        section: The study's backbone.
        table: The study's columns, if it has any.
        texts: One for each class.

    Raises:
        BackboneError: As `open_backbone`; or if a text gives no features.
    """
    from foedus.backbones.zero_shot import TEMPERATURE, zero_shot_head

    spec, source = describe(section, table), parse_source(section.source)
    if spec.modality == "text":
        return zero_shot_head(open_backbone(section, table), texts, temperature=TEMPERATURE)
    if source.kind != "hf":
        return None
    from foedus.backbones.clip import LabelEmbedder, open_clip

    labels = LabelEmbedder(open_clip(section, source, device="cpu", batch_size=32))
    return zero_shot_head(labels, texts, temperature=labels.temperature)


def list_backbones() -> list[Listed]:
    """What a study can name, the bundled ones first."""
    hub = f"cached weights; else {ALLOW_HUB}=1"
    any_licence = "its own"
    return [
        *bundled.listed(),
        Listed("tabular", "table", None, "none", None, True, "the study's columns; no network"),
        Listed("timm:NAME", "image", None, any_licence, None, hub_allowed(), hub),
        Listed("hf:NAME", "text", None, any_licence, None, hub_allowed(), hub),
        Listed("hf:FOLDER", "text", None, any_licence, None, True, "your folder with safetensors"),
        Listed("hf:FOLDER", "image", None, any_licence, None, True, "your folder of a CLIP or SigLIP"),
        Listed(
            "file:WEIGHTS#ARCHITECTURE", "image", None, any_licence, None, True, "your weights, timm's name"
        ),
    ]
