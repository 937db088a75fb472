"""A small study for measuring what a real federation costs: sites, studies, moments of a run."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from foedus.runs import RunFolder

STUDY = """
[study]
name = "toy"
classes = ["no", "yes"]
[backbone]
source = "tabular"
[federation]
rounds = {rounds}
lr = 0.1
min_sites = 2
[door]
mode = "{door}"
[[table.columns]]
name = "a"
kind = "number"
[[table.columns]]
name = "b"
kind = "number"
"""
SITE = """
[site]
name = "{name}"
[data]
kind = "table"
path = "data.csv"
label = "y"
[policy]
doors = ["open", "secure-only"]
"""


def write_sites(folder: Path, names: Sequence[str], *, n: int = 120) -> dict[str, Path]:
    """Name to folder of sites with a table each, whose label follows from two noisy columns."""
    found = {}
    for seed, name in enumerate(names):
        rng = np.random.default_rng(seed)
        a, b = rng.normal(size=(2, n))
        y = np.where(a - b + 0.5 * rng.normal(size=n) > 0, "yes", "no")
        found[name] = folder / name
        found[name].mkdir(parents=True)
        pd.DataFrame({"a": a, "b": b, "y": y}).to_csv(found[name] / "data.csv", index=False)
        (found[name] / "site.toml").write_text(SITE.format(name=name))
    return found


def write_study(folder: Path, *, rounds: int, door: str) -> Path:
    """study.toml."""
    path = folder / f"study-{door}-{rounds}.toml"
    path.write_text(STUDY.format(rounds=rounds, door=door))
    return path


LARGE_STUDY = """
[study]
name = "large"
classes = ["no", "yes"]
[backbone]
source = "bundled:minilm-l6"
tune = "full"
max_tokens = 16
[tuning]
optimizer = "sgd"
[federation]
rounds = {rounds}
lr = 0.1
min_sites = 2
start = "prototypes"
round_timeout_s = 1800
[door]
mode = "{door}"
"""
LARGE_SITE = SITE.replace('kind = "table"', 'kind = "text"').replace('label = "y"', 'label = "y"\ntext = "x"')


def write_large_sites(folder: Path, names: Sequence[str], *, n: int = 40) -> dict[str, Path]:
    """Name to folder of sites with a few short texts each."""
    found = {}
    for seed, name in enumerate(names):
        rng = np.random.default_rng(seed)
        y = rng.choice(["yes", "no"], n)
        words = np.where(y == "yes", "profit", "loss")
        x = [f"the {word} of quarter {number}" for number, word in enumerate(words)]
        found[name] = folder / name
        found[name].mkdir(parents=True)
        pd.DataFrame({"x": x, "y": y}).to_csv(found[name] / "data.csv", index=False)
        (found[name] / "site.toml").write_text(LARGE_SITE.format(name=name))
    return found


def write_large_study(folder: Path, *, rounds: int, door: str) -> Path:
    """study.toml; 22.6 million numbers learn, so an update is 90 MB."""
    path = folder / f"large-{door}-{rounds}.toml"
    path.write_text(LARGE_STUDY.format(rounds=rounds, door=door))
    return path


def sent(site: Path, since: int = 0) -> list[dict[str, Any]]:
    """What a site's node has sent, after the first `since` lines of egress.jsonl."""
    path = site / ".foedus/node/egress.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines[since:]]


def until(true: Callable[[], bool], *, within_s: float = 180.0, every_s: float = 0.02) -> None:
    """Wait.

    Raises:
        TimeoutError: If it takes longer.
    """
    begun = time.monotonic()
    while not true():
        if time.monotonic() > begun + within_s:
            raise TimeoutError("the moment waited for did not come")
        time.sleep(every_s)


def seconds(run: RunFolder) -> float:
    """Wall time of the rounds, from rounds.jsonl."""
    return float(sum(line["seconds"] for line in run.rounds()))
