import re
import tomllib
from pathlib import Path

import pytest

from foedus.config import validate
from foedus.site import SiteConfig

PAGE = Path(__file__).parents[3] / "docs" / "data.md"
BLOCKS = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_page_shows_a_site_file_for_each_kind_of_source() -> None:
    assert len(BLOCKS) == 8


@pytest.mark.parametrize("block", BLOCKS)
def test_site_files_on_the_page_are_valid(block: str) -> None:
    validate(SiteConfig, tomllib.loads(block), source="docs/data.md")
