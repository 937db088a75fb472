from pathlib import Path

import pytest

from foedus.demos import Prepared, prepare


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demos")


@pytest.fixture(scope="session")
def cheques(demo_folder: Path) -> Prepared:
    return prepare("cheques", demo_folder)


@pytest.fixture(scope="session")
def heart(demo_folder: Path) -> Prepared:
    return prepare("heart", demo_folder)


@pytest.fixture(scope="session")
def glyphs(demo_folder: Path) -> Prepared:
    return prepare("glyphs", demo_folder)
