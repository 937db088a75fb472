import tomllib
from pathlib import Path
from typing import Any

import pytest

from fairness.policy import load_policy
from foedus.demos.writing import to_toml
from foedus.site import find_sites, load_site
from foedus.study import load_study

EXAMPLES = Path(__file__).parents[3] / "examples"


def test_toml_reads_back_as_it_was_written() -> None:
    tables: dict[str, dict[str, Any]] = {
        "site": {"name": 'a "quoted" näme', "on": True},
        "groups.sex": {"column": "sex", "values": {"Female ♀": "female", "M": "male"}},
        "split": {"share": 0.25, "edges": [50, 60.5], "seed": 7},
    }
    read = tomllib.loads(to_toml(tables))
    assert read["site"] == tables["site"]
    assert read["groups"]["sex"] == tables["groups.sex"]
    assert read["split"] == tables["split"]


@pytest.mark.parametrize("template", ["images", "table"])
def test_templates_are_valid(template: str) -> None:
    study = load_study(EXAMPLES / template / "study.toml")
    sites = [load_site(folder) for folder in find_sites(EXAMPLES / template / "sites")]
    assert all(study.door.mode in site.policy.doors for site in sites)
    if study.fairness is not None:
        policy = load_policy(EXAMPLES / template / study.fairness.policy)
        for site in sites:
            found = {name: {*g.values.values(), *g.bands} for name, g in site.groups.items()}
            assert found == {name: set(names) for name, names in policy.attributes.items()}
