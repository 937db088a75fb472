"""Group-balanced training on whole studies: a smaller gap, the same bytes however it runs; and the start's audit."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from foedus import simulation
from foedus.errors import ConfigError
from foedus.runs import RunFolder
from foedus.site import find_sites
from foedus.study import parse_study

BALANCE = 'min_sites = 2\nbalance = "group"\nbalance_groups = { sex = ["f", "m"] }\n'
GATE = """
[[gate]]
metric = "selection_rate"
attribute = "sex"
compare = "min_ratio"
tolerance = 0.8
[evidence]
min_sites = 1
"""
SAME = ("model/head.safetensors", "audit.json", "results.json")


@pytest.fixture
def biased(toy: Path) -> Path:
    """The toy study where men are labelled "yes" more often, and column b tells who is a man."""
    for seed, site in enumerate(find_sites(toy / "sites")):
        rng = np.random.default_rng(seed)
        a, noise = rng.normal(size=(2, 400))
        sex = rng.choice(["f", "m"], 400)
        b = (sex == "m") + 0.3 * rng.normal(size=400)
        y = np.where(a + 1.5 * (sex == "m") + 0.5 * noise > 0.75, "yes", "no")
        frame = pd.DataFrame({"id": np.arange(400), "a": a, "b": b, "y": y, "sex": sex})
        frame.to_csv(site / "data.csv", index=False)
    with (toy / "policy.toml").open("a") as file:
        file.write(GATE)
    return toy


def change(folder: Path, old: str, new: str, file: str = "study.toml") -> None:
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))


def run(folder: Path, name: str, **more: Any) -> RunFolder:
    found, _ = simulation.simulate(folder / "study.toml", folder / "sites", runs=folder / name, **more)
    return found


def ratio(found: RunFolder) -> float:
    gates = json.loads((found.path / "audit.json").read_text())["gates"]
    return float(next(g["found"]["value"] for g in gates if g["metric"] == "selection_rate"))


def accuracy(found: RunFolder) -> dict[str, float]:
    models = json.loads((found.path / "results.json").read_text())["models"]
    return {name: models[name]["accuracy"] for name in ("federated", "pooled")}


def test_balanced_training_selects_groups_more_alike(biased: Path) -> None:
    plain = run(biased, "plain")
    change(biased, "min_sites = 2\n", BALANCE)
    balanced = run(biased, "balanced")
    assert ratio(plain) < 0.5
    assert ratio(balanced) > ratio(plain) + 0.2
    assert accuracy(plain)["federated"] > accuracy(balanced)["federated"] > 0.6
    assert abs(accuracy(balanced)["federated"] - accuracy(balanced)["pooled"]) < 0.02


def test_masks_change_no_byte_of_a_balanced_study(biased: Path) -> None:
    change(biased, "min_sites = 2\n", BALANCE)
    plain = run(biased, "plain", reference=False)
    change(biased, 'mode = "open"', 'mode = "secure-only"')
    for site in find_sites(biased / "sites"):
        file = site / "site.toml"
        file.write_text(re.sub(r"doors = \[.*\]", 'doors = ["secure-only"]', file.read_text()))
    masked = run(biased, "masked", reference=False)
    assert (masked.path / SAME[0]).read_bytes() == (plain.path / SAME[0]).read_bytes()


def test_a_balanced_run_that_was_killed_ends_with_the_same_bytes(
    toy: Path, killed: Callable[[int, str], RunFolder]
) -> None:
    change(toy, "min_sites = 2\n", BALANCE)
    whole, again = run(toy, "whole"), killed(2, "local")
    simulation.resume(again)
    for name in SAME:
        assert (again.path / name).read_bytes() == (whole.path / name).read_bytes(), name


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('mode = "open"', 'mode = "secure+ddp"', "no place in the privacy budget"),
        ('source = "tabular"', 'source = "bundled:minilm-l6"\ntune = "lora"', "trains heads alone"),
        ("rounds = 4", 'rounds = 4\nstart = "prototypes"', "has no meaning for prototypes"),
        ('balance_groups = { sex = ["f", "m"] }', "", "names no group"),
        ('balance = "group"', 'balance = "none"', 'but balance is "none"'),
    ],
)
def test_what_cannot_be_balanced_is_refused_in_a_sentence(
    toy: Path, old: str, new: str, problem: str
) -> None:
    change(toy, "min_sites = 2\n", BALANCE)
    text = (toy / "study.toml").read_text()
    if "minilm" in new:
        text = text.split("[[table.columns]]")[0]
    with pytest.raises(ConfigError, match=re.escape(problem)):
        parse_study(text.replace(old, new))


def test_the_start_is_audited_where_the_policy_asks(biased: Path) -> None:
    without = run(biased, "without", reference=False)
    assert json.loads((without.path / "results.json").read_text())["audit_of_start"] is None
    change(biased, 'profile = "custom"', 'profile = "custom"\naudit_start = true', "policy.toml")
    found = run(biased, "with", reference=False)
    start = json.loads((found.path / "results.json").read_text())["audit_of_start"]
    audit = json.loads((found.path / "audit.json").read_text())
    assert [gate["trained"] for gate in start["gates"]] == [gate["found"] for gate in audit["gates"]]
    assert start["gates"][1]["start"]["value"] is not None
    assert "Start (inherited)" in (found.path / "report.html").read_text()
    assert start["policy_digest"] == audit["policy"]["digest"]


def test_a_card_is_written_beside_the_run(toy: Path) -> None:
    found = run(toy, "card", reference=False)
    assert (found.path / "model/README.md").read_text().startswith('---\nlicense: "other"\n')
    card = (found.path / "model-card.yaml").read_text()
    assert 'name: "toy"' in card
    assert 'intended_use: "not stated"' in card
