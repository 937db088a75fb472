"""Real sites on disk, small enough to run a whole study in a second."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from foedus.runs import RunFolder

STUDY = """
[study]
name = "toy"
classes = ["no", "yes"]
seed = 3
[backbone]
source = "tabular"
personal = "head"
[federation]
rounds = 4
lr = 0.1
batch_size = 16
min_sites = 2
[door]
mode = "open"
[fairness]
policy = "policy.toml"
[[table.columns]]
name = "a"
kind = "number"
[[table.columns]]
name = "b"
kind = "number"
"""
POLICY = """
[policy]
name = "toy"
profile = "custom"
[attributes]
sex = ["f", "m"]
[[gate]]
metric = "tpr"
attribute = "sex"
compare = "max_difference"
tolerance = 0.2
"""
SITE = """
[site]
name = "{name}"
[data]
kind = "table"
path = "data.csv"
label = "y"
unit = "id"
[groups.sex]
column = "sex"
values = {{ f = "f", m = "m" }}
[policy]
doors = ["open"]
release_site_metrics = true
"""


def write_site(folder: Path, name: str, *, n: int = 90, seed: int = 0) -> Path:
    """One site whose label depends on two noisy columns."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, n))
    y = np.where(a - b + 0.5 * rng.normal(size=n) > 0, "yes", "no")
    frame = pd.DataFrame({"id": np.arange(n), "a": a, "b": b, "y": y, "sex": rng.choice(["f", "m"], n)})
    path = folder / name
    path.mkdir(parents=True)
    frame.to_csv(path / "data.csv", index=False)
    (path / "site.toml").write_text(SITE.format(name=name))
    return path


def write_toy(folder: Path, names: Sequence[str]) -> Path:
    """study.toml, policy.toml and a site for each name."""
    (folder / "study.toml").write_text(STUDY)
    (folder / "policy.toml").write_text(POLICY)
    for seed, name in enumerate(names):
        write_site(folder / "sites", name, seed=seed)
    return folder


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A folder with study.toml, policy.toml and four sites."""
    return write_toy(tmp_path, ["east", "north", "south", "west"])


@pytest.fixture(scope="module")
def deployed_toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sites and a study through masks, for a federation that many tests use."""
    folder = write_toy(tmp_path_factory.mktemp("deployed"), ["east", "north", "south"])
    text = (folder / "study.toml").read_text()
    text = text.replace('mode = "open"', 'mode = "secure-only"').replace("rounds = 4", "rounds = 3")
    (folder / "study.toml").write_text(text)
    for toml in folder.glob("sites/*/site.toml"):
        toml.write_text(toml.read_text().replace('doors = ["open"]', 'doors = ["open", "secure-only"]'))
    return folder


KILLED = """
import os, signal
from pathlib import Path
from foedus import simulation
from foedus.runs import RunFolder
keep = RunFolder.checkpoint
def checkpoint(self, number, *args, **kwargs):
    keep(self, number, *args, **kwargs)
    if number == {after}:
        os.kill(os.getpid(), signal.SIGKILL)
RunFolder.checkpoint = checkpoint
toy = Path({toy!r})
simulation.simulate(toy / "study.toml", toy / "sites", runs=toy / "killed", engine={engine!r})
"""


@pytest.fixture
def killed(toy: Path) -> Callable[[int, str], RunFolder]:
    """Runs the toy study in a process that gets SIGKILL after round `after`; what it left on disk."""

    def run(after: int, engine: str) -> RunFolder:
        script = KILLED.format(after=after, toy=str(toy), engine=engine)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:  # a kill leaves Ray's logs
            done = subprocess.run(
                [sys.executable, "-c", script],
                capture_output=True,
                check=False,
                env={**os.environ, "TMPDIR": scratch},
            )
        assert done.returncode == -9
        [path] = (toy / "killed").iterdir()
        return RunFolder.open(path)

    return run
