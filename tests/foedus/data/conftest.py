"""Real files for the tests: sites with images, texts and tables in a temporary folder."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from foedus.site import SiteConfig, load_site
from foedus.study import Study

MakeSite = Callable[..., SiteConfig]


@pytest.fixture
def make_site(tmp_path: Path) -> MakeSite:
    """Writes tmp_path/site.toml from the text below [site] and returns it parsed."""

    def make(body: str) -> SiteConfig:
        (tmp_path / "site.toml").write_text(f'[site]\nname = "north"\n{body}', encoding="utf-8")
        return load_site(tmp_path)

    return make


@pytest.fixture
def make_study() -> Callable[..., Study]:
    """A study of some classes; with columns it is tabular."""

    def make(classes: list[str], columns: list[dict[str, Any]] | None = None, **more: Any) -> Study:
        values: dict[str, Any] = {"study": {"name": "trial", "classes": classes}, **more}
        if columns is not None:
            values |= {"backbone": {"source": "tabular"}, "table": {"columns": columns}}
        return Study.model_validate(values)

    return make


@pytest.fixture
def write_csv(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows (the header first) to tmp_path/name."""

    def write(rows: list[list[object]], name: str = "data.csv") -> Path:
        with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
        return tmp_path / name

    return write


@pytest.fixture
def save_png(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small random RGB picture, drawn by `seed`, to tmp_path/name."""

    def save(name: str, seed: int) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return save
