"""A study may load weights from a site's disk only where the site's own policy lets it."""

from pathlib import Path

import pytest

from clients.app import app as client_app
from clients.workplace import open_workplace
from foedus.data import check_site
from foedus.errors import BackboneError, DoorError, RoundError
from foedus.site import PolicySection, allows_backbone
from foedus.study import Study
from server.federation import Federation
from server.local_grid import LocalGrid

SITE = """
[site]
name = "north"
[data]
kind = "text"
path = "data.csv"
label = "topic"
[policy]
doors = ["open"]
backbone_folders = {folders}
"""


def study(source: str) -> Study:
    return Study.model_validate(
        {
            "study": {"name": "trial", "classes": ["grain", "oil"]},
            "backbone": {"source": source},
            "door": {"mode": "open"},
            "federation": {"min_sites": 1},
        }
    )


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site in sites/north, beside weights/encoder and secret/encoder."""
    for folder in ("sites/north", "weights/encoder", "secret/encoder"):
        (tmp_path / folder).mkdir(parents=True)
    folder = tmp_path / "sites/north"
    rows = [f"story {i},{['grain', 'oil'][i % 2]}" for i in range(20)]
    (folder / "data.csv").write_text("\n".join(["text,topic", *rows]) + "\n")
    (folder / "site.toml").write_text(SITE.format(folders='["../../weights"]'))
    return folder


@pytest.mark.parametrize(
    ("source", "allowed"),
    [
        ("tabular", True),
        ("bundled:minilm-l6", True),
        ("timm:resnet18", True),
        ("hf:sentence-transformers/all-MiniLM-L6-v2", True),
        ("hf:{root}/weights/encoder", True),
        ("file:{root}/weights/net.pth#resnet18", True),
        ("file:{root}/weights/../secret/net.pth#resnet18", False),
        ("file:{root}/weights/link/net.pth#resnet18", False),
        ("file:{root}/weights/linked.pth#resnet18", False),
        ("file:{root}/weightsuffix/net.pth#resnet18", False),
        ("file:net.pth#resnet18", False),
        ("file:~nobody-here/net.pth#resnet18", False),
        ("hf:{root}/secret/encoder", False),
        ("hf:{root}/not-there", False),
        ("hf:~/encoder", False),
        ("hf:../secret/encoder", False),
        ("hf:secret/encoder", False),
    ],
)
def test_only_what_lies_in_an_allowed_folder_after_links_is_allowed(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, allowed: bool
) -> None:
    """`hf:secret/encoder` is a name on the hub, unless a folder of that name is where the site runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights/link").symlink_to(tmp_path / "secret")
    (tmp_path / "weights/linked.pth").symlink_to(tmp_path / "secret/net.pth")
    policy = PolicySection(backbone_folders=["../../weights"])
    assert allows_backbone(policy, source.format(root=tmp_path), folder=site) is allowed


def test_without_the_key_no_folder_is_allowed(site: Path, tmp_path: Path) -> None:
    assert not allows_backbone(PolicySection(), f"hf:{tmp_path}/weights/encoder", folder=site)


def test_a_site_refuses_before_it_opens_anything_and_says_how_it_could_agree(
    site: Path, tmp_path: Path
) -> None:
    asked = study(f"hf:{tmp_path}/secret/encoder")
    (site / "data.csv").unlink()  # had the data been opened, this would be the refusal
    with pytest.raises(DoorError, match=r"in no folder that the site's policy lets .* backbone_folders"):
        open_workplace(site, asked.to_json())
    with pytest.raises(RoundError, match="0 sites can take part") as caught:
        Federation.enlist(LocalGrid(client_app, [site]), asked, "run")
    assert "in no folder that the site's policy lets a study load weights from" in str(caught.value)
    assert not (site / ".foedus").exists()


def test_an_allowed_folder_is_opened(site: Path, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"has no model\.safetensors"):
        open_workplace(site, study(f"hf:{tmp_path}/weights/encoder").to_json())


def test_site_check_says_it_beforehand(site: Path, tmp_path: Path) -> None:
    source = f"hf:{tmp_path}/secret/encoder"
    [row] = [row for row in check_site(site, study(source)).rows if row.check == "policy: backbone"]
    assert (row.status, row.found) == ("fail", f"the study loads {source}")
    assert "backbone_folders" in row.how_to_fix
    allowed = check_site(site, study(f"hf:{tmp_path}/weights/encoder"))
    assert allowed.ok
