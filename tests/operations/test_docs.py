"""docs/operations.md: its commands exist, its metrics are shown, its files are there."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from server.home import Home
from server.metrics import CoordinatorCollector

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/operations.md").read_text()


def test_every_command_exists(is_a_command: Callable[[str], None]) -> None:
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", TEXT, flags=re.DOTALL))
    blocks = re.sub(r"\$\([^)]*\)", "X", blocks)
    typed = re.findall(
        r"(?<![\w/.-])foedus ((?:coordinator|site|run|stop|resume|watch|list) [^'\n#]+)", blocks
    )
    typed += re.findall(r"docker compose run --rm --no-deps \S+ (.+)", blocks)
    typed += [words for words in re.findall(r"`foedus ([^`]+)`", TEXT) if re.search("[A-Z-]", words)]
    assert len(typed) > 12
    for words in typed:
        is_a_command(words.strip())


def test_every_metric_is_named_and_every_name_is_a_metric(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "c", name="f", host="h", port=1, control_port=2)
    shown = {family.name for family in CoordinatorCollector(home).collect()}
    named = {name.removesuffix("_total") for name in re.findall(r"`(foedus_\w+)", TEXT)}
    assert named == shown


@pytest.mark.parametrize("path", sorted(set(re.findall(r"deploy/[\w/.@-]+[\w]", TEXT))))
def test_every_file_is_there(path: str) -> None:
    assert (ROOT / path).exists()
