"""The newcomer's page is what its commands say."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def commands(page: str) -> list[str]:
    """What is typed, without what differs from run to run."""
    typed = [line[2:] for line in page.splitlines() if line.startswith("$ ")]
    return [re.sub(r"--(port|control-port|fingerprint) \S+|runs/\S+", "", line) for line in typed]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_page_types_what_the_script_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("first_federation", ROOT / "scripts/first_federation.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.chdir(tmp_path)
    page = script.write(tmp_path)
    assert commands(page) == commands((ROOT / "docs/first-federation.md").read_text())
    assert "Traceback" not in page
    assert str(tmp_path) not in page
