"""Four real hospitals: heart disease from 14 clinical columns, audited by sex and age band.

Data: UCI Heart Disease; see ATTRIBUTION.md beside this file.
"""

import csv
from pathlib import Path

from foedus.demos.writing import write_csv, write_site, write_study

SUMMARY = "four real hospitals (UCI heart) train together, a personal head each, audited by sex and age"
HOSPITALS = {
    "Cleveland": "cleveland",
    "Hungary": "hungary",
    "Switzerland": "switzerland",
    "VA Long Beach": "va-long-beach",
}
DATA = Path(__file__).parent / "heart_disease_uci.csv"

_MISFILED_ID = "304"  # listed under Cleveland; with it Hungary has the original's 294 patients
_YES_NO = {"TRUE": "yes", "FALSE": "no"}


def write(folder: Path, *, seed: int, cache: Path) -> None:
    """Write the study and one CSV file for each hospital."""
    write_study(Path(__file__).parent, folder, seed=seed)
    rows = read()
    columns = [name for name in rows[0] if name != "dataset"]
    for hospital, site_name in HOSPITALS.items():
        site = write_site(
            folder / "sites",
            site_name,
            data={
                "kind": "table",
                "path": "patients.csv",
                "label": "num",
                "unit": "id",
                "labels": {"0": "healthy", **{str(grade): "disease" for grade in (1, 2, 3, 4)}},
            },
            groups={
                "sex": {"column": "sex", "values": {"Female": "female", "Male": "male"}},
                "age_band": {"column": "age", "edges": [50, 60], "bands": ["<50", "50-59", "60+"]},
            },
            split={"validation": 0.13, "test": 0.34, "seed": seed},
        )
        own = [[row[name] for name in columns] for row in rows if row["dataset"] == hospital]
        write_csv(site / "patients.csv", columns, own)


def read() -> list[dict[str, str]]:
    """The 920 patients, each under the right hospital; empty cells are values not recorded."""
    with DATA.open(encoding="utf-8", newline="") as file:
        rows = [{k: _YES_NO.get(v, v) for k, v in row.items()} for row in csv.DictReader(file)]
    for row in rows:
        if row["id"] == _MISFILED_ID:
            row["dataset"] = "Hungary"
    return rows
