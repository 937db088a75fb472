"""docs/study.md says of every key what the study's own models say."""

import ast
import inspect
from itertools import pairwise
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

from foedus import study
from foedus.config import Section

PAGE = (Path(__file__).parents[2] / "docs/study.md").read_text()
TABLES = {
    "study": study.Identity,
    "backbone": study.BackboneSection,
    "tuning": study.TuningSection,
    "federation": study.FederationSection,
    "meta": study.MetaSection,
    "door": study.DoorSection,
    "fewshot": study.FewShotSection,
    "fairness": study.FairnessSection,
    "search": study.SearchSection,
}


def rows(section: type[Section]) -> list[str]:
    """A table row for each key: its name, default and docstring."""
    tree = ast.parse(Path(inspect.getfile(section)).read_text())
    [body] = [n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == section.__name__]
    found = []
    for key, text in pairwise(body):
        if not isinstance(key, ast.AnnAssign) or not isinstance(key.target, ast.Name):
            continue
        assert isinstance(text, ast.Expr), f"{section.__name__}.{key.target.id} has no docstring"
        default = section.model_fields[key.target.id].get_default(call_default_factory=True)
        shown = "required" if default is PydanticUndefined else f"`{default!r}`"
        words = " ".join(str(ast.literal_eval(text.value)).split()).replace("|", r"\|")
        found.append(f"| `{key.target.id}` | {shown} | {words} |")
    return found


@pytest.mark.parametrize("name", TABLES)
def test_the_page_has_every_key_with_its_default_and_meaning(name: str) -> None:
    _, _, after = PAGE.partition(f"## [{name}]")
    table = [line for line in after.partition("\n## ")[0].splitlines() if line.startswith("| `")]
    assert table == rows(TABLES[name])
