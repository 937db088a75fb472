"""Guards: the house keeps its shape."""

import importlib
import importlib.metadata
import inspect
import io
import re
import subprocess
import zipfile
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from foedus import errors

ROOT = Path(__file__).parents[2]
PACKAGES = ("foedus", "server", "clients", "fewshot", "fairness", "deploy")


def _tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


@pytest.mark.parametrize("package", PACKAGES)
def test_our_package_names_belong_only_to_our_distribution(package: str) -> None:
    owners = importlib.metadata.packages_distributions().get(package, [])
    assert set(owners) <= {"foedus"}
    module = importlib.import_module(package)
    assert Path(str(module.__file__)).is_relative_to(ROOT)


def test_every_error_has_a_heading_and_its_exit_code_in_the_docs() -> None:
    text = (ROOT / "docs/errors.md").read_text()
    kinds = [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.FoedusError) and kind is not errors.FoedusError
    ]
    documented = dict(re.findall(r"^## (\w+)\n\nExit code (\d)", text, flags=re.MULTILINE))
    assert documented == {kind.__name__: str(kind.exit_code) for kind in kinds}


def test_no_file_names_a_registry_host_or_locks_one() -> None:
    parts = [("py", r"pi\.org"), ("python", "hosted"), (r"registry\.np", "mjs"), ("deb", r"\.debian\.org")]
    hosts = re.compile("|".join("".join(pair) for pair in parts))
    for name in _tracked():
        assert not name.endswith("uv.lock")
        path = ROOT / name
        if (
            path.suffix in {".py", ".toml", ".txt", ".md", ".cfg", ".yml", ".yaml", ".json", ""}
            and path.is_file()
        ):
            assert not hosts.search(path.read_text(errors="ignore")), name


def test_no_test_folder_shadows_a_package() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_the_app_bundle_names_the_app_and_carries_no_code() -> None:
    """Sites run their own installed packages; code in the bundle would shadow them."""
    bundle = zipfile.ZipFile(io.BytesIO(build_fab_from_disk(ROOT)))
    assert set(bundle.namelist()) == {"LICENSE", "pyproject.toml", ".info/CONTENT"}
