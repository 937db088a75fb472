import csv
import dataclasses
import hashlib
from pathlib import Path

import pandas as pd
import pytest

from fairness.policy import load_policy
from foedus.demos import mortgage, prepare
from foedus.demos.mortgage import CATEGORIES, NUMBERS
from foedus.site import find_sites, load_site
from foedus.study import load_study


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in the form of the real one: 40 applications, ten of them for condominiums."""
    rows = pd.DataFrame({"rownames": range(1, 41), **dict.fromkeys(NUMBERS.values(), 1.0)})
    for column in ("deny", "afam", "single", *CATEGORIES.values()):
        rows[column] = ["yes" if i % 4 == 0 else "no" for i in range(40)]
    rows["condomin"] = ["yes" if i < 10 else "no" for i in range(40)]
    rows["lvrat"] = [0.25770001 + i for i in range(40)]
    file, *_ = mortgage.PACKAGE.files
    path = tmp_path / "cache" / "mortgage" / Path(file).name
    path.parent.mkdir(parents=True)
    rows.to_pickle(path, compression="xz")
    digests = {file: hashlib.sha256(path.read_bytes()).hexdigest()}
    monkeypatch.setattr(mortgage, "PACKAGE", dataclasses.replace(mortgage.PACKAGE, files=digests))
    return path.parents[1]


def _rows(sites: Path, bank: str) -> list[dict[str, str]]:
    with (sites / bank / "applications.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_banks_hold_every_application_once(tmp_path: Path, cache: Path) -> None:
    sites = prepare("mortgage", tmp_path, cache=cache).sites_path
    banks = {folder.name: _rows(sites, folder.name) for folder in find_sites(sites)}
    counts = {bank: len(rows) for bank, rows in banks.items()}
    assert counts == {"harborbank": 10, "fenbank": 10, "commonbank": 10, "hillbank": 10}
    assert len({row["application"] for rows in banks.values() for row in rows}) == 40
    assert {row["condominium"] for row in banks["harborbank"]} == {"yes"}
    assert max(float(row["loan_to_value"]) for row in banks["fenbank"]) < min(
        float(row["loan_to_value"]) for row in banks["hillbank"]
    )
    assert {row["race"] for rows in banks.values() for row in rows} == {"black", "other"}
    assert (
        banks["harborbank"][0] | {"loan_to_value": "0.2577", "decision": "denied", "race": "black"}
        == (banks["harborbank"][0])
    )


def test_study_declares_what_is_written_and_no_protected_attribute(tmp_path: Path, cache: Path) -> None:
    prepared = prepare("mortgage", tmp_path, cache=cache)
    study = load_study(prepared.study_path)
    assert study.table is not None
    names = [column.name for column in study.table.columns]
    assert names == [*NUMBERS, *CATEGORIES]
    assert not {"race", "marital_status", "afam", "single"} & set(names)
    for column in study.table.columns:
        if column.kind == "category":
            assert column.categories == ["no", "yes"]


def test_policy_asks_for_four_fifths_by_race(tmp_path: Path, cache: Path) -> None:
    prepared = prepare("mortgage", tmp_path, cache=cache)
    policy = load_policy(prepared.study_path.parent / "policy.toml")
    first = policy.gates[0]
    assert (first.metric, first.attribute, first.compare, first.tolerance) == (
        "selection_rate", "race", "min_ratio", 0.8,
    )  # fmt: skip
    for folder in find_sites(prepared.sites_path):
        groups = load_site(folder).groups
        assert {name: set(g.values.values()) for name, g in groups.items()} == {
            name: set(names) for name, names in policy.attributes.items()
        }
