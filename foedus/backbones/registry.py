"""Every backbone by the name a study uses. What needs torch is imported when it is opened."""

from foedus.backbones import bundled, tabular
from foedus.backbones.sources import ALLOW_HUB, hub_allowed, parse_source, stay_offline
from foedus.backbones.spec import BackboneSpec, Embedder, Listed
from foedus.columns import TableSection
from foedus.errors import BackboneError
from foedus.study import BackboneSection


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
            from foedus.backbones import texts

            return texts.describe(section, source)


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
    if spec.modality == "image":
        stay_offline()
        from foedus.backbones.images import open_images

        return open_images(section, source, device=device, batch_size=batch_size)
    from foedus.backbones.texts import open_texts

    return open_texts(section, source, device=device, batch_size=batch_size)


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
        Listed(
            "file:WEIGHTS#ARCHITECTURE", "image", None, any_licence, None, True, "your weights, timm's name"
        ),
    ]
