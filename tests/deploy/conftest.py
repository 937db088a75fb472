"""An approved run of a small table study, made once, and bundles of it."""

import csv
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from deploy.bundle import Bundle
from fairness.signing import PublicKey, Signer, create_key, load_signer
from foedus.approval import approve
from foedus.releasing import release
from foedus.runs import RunFolder
from foedus.simulation import simulate

STUDY = """
[study]
name = "toy"
classes = ["no", "yes"]
[backbone]
source = "tabular"
[federation]
rounds = 1
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
[[table.columns]]
name = "colour"
kind = "category"
categories = ["red", "green"]
"""
POLICY = """
[policy]
name = "toy"
[attributes]
sex = ["f", "m"]
[[gate]]
metric = "tpr"
compare = "max_difference"
tolerance = 0.9
[evidence]
min_n = 1
min_positives = 1
min_sites = 1
inconclusive = "waive_with_signature"
[disclosure]
k = 3
min_sites = 1
[signoff]
expires_days = 30
"""
SITE = """
[site]
name = "{name}"
[data]
{kind}
path = "data.csv"
label = "y"
[policy]
doors = ["open", "secure-only"]
[groups.sex]
column = "sex"
values = {{ f = "f", m = "m" }}
"""


@dataclass(frozen=True)
class Made:
    """A finished, approved run and the people behind it.

    Attributes:
        folder: Holds study.toml, sites/, keys/ and the run.
        run: The run; copy it before changing it.
        hub: The coordinator.
        jane: The auditor.
    """

    folder: Path
    run: RunFolder
    hub: Signer
    jane: Signer

    @property
    def keys(self) -> list[PublicKey]:
        """Whom to trust."""
        return [self.hub.public, self.jane.public]


def rows_of(seed: int, n: int = 800) -> list[dict[str, str]]:
    """Rows of a site: yes where a + noise is above b."""
    rng = np.random.default_rng(seed)
    a, b, noise = rng.normal(size=(3, n)).round(3)
    return [
        {
            "a": str(a[i]),
            "b": str(b[i]),
            "colour": ["red", "green"][i % 2],
            "y": "yes" if a[i] + noise[i] / 2 > b[i] else "no",
            "sex": "fm"[i // 2 % 2],
        }
        for i in range(n)
    ]


def signer(folder: Path, name: str, role: str) -> Signer:
    """A new key pair in `folder`."""
    create_key(folder, name=name, role=role, passphrase=None)
    return load_signer(folder / f"{name}.key", passphrase=lambda: "")


def approved(folder: Path, study: str, sites: dict[str, list[dict[str, str]]], *, kind: str) -> Made:
    """A study run on sites with these rows, and approved.

    Args:
        folder: Where everything is made.
        study: Text of study.toml.
        sites: Name of a site to its rows.
        kind: Lines of site.toml that say what the data are.
    """
    (folder / "study.toml").write_text(study)
    (folder / "policy.toml").write_text(POLICY)
    for name, rows in sites.items():
        site = folder / "sites" / name
        site.mkdir(parents=True, exist_ok=True)
        (site / "site.toml").write_text(SITE.format(name=name, kind=kind))
        with (site / "data.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    run, _ = simulate(folder / "study.toml", folder / "sites", runs=folder / "runs", reference=False)
    hub, jane = (
        signer(folder / "keys", "hub", "coordinator"),
        signer(folder / "keys", "jane", "auditor"),
    )
    approve(run, jane)
    return Made(folder, run, hub, jane)


@pytest.fixture(scope="session")
def make_approved() -> Callable[..., Made]:
    """`approved`, for other kinds of data."""
    return approved


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """An approved run of three sites."""
    sites = {name: rows_of(seed) for seed, name in enumerate(("east", "north", "west"))}
    return approved(tmp_path_factory.mktemp("release"), STUDY, sites, kind='kind = "table"')


@pytest.fixture(scope="session")
def released(made: Made) -> Bundle:
    """Version 1 of it; not to be changed."""
    return release(made.run, made.hub, keys=[made.jane.public], to=made.folder / "releases")


@pytest.fixture
def bundle_copy(released: Bundle, tmp_path: Path) -> Path:
    """A bundle to spoil."""
    return Path(shutil.copytree(released.path, tmp_path / "bundle"))


@pytest.fixture
def run_copy(made: Made, tmp_path: Path) -> RunFolder:
    """A run to spoil."""
    return RunFolder(Path(shutil.copytree(made.run.path, tmp_path / "runs" / made.run.run_id)))


@pytest.fixture
def new_signer(tmp_path: Path) -> Callable[[str, str], Signer]:
    """Makes a signer of a name and role."""
    return lambda name, role: signer(tmp_path / "keys", name, role)
