"""The same patients with several labels each: what angiography and the exercise test found, to be told at rest."""

from pathlib import Path

from foedus.demos.heart import HOSPITALS, read
from foedus.demos.writing import write_csv, write_site

LABELS = ["disease", "angina", "st-depression"]
"""A narrowing of half or more (angiography); pain, and a depression of the ST segment of 1 mm, under exercise."""


def found(row: dict[str, str]) -> str:
    """A patient's labels, as one cell."""
    there = (int(row["num"]) > 0, row["exang"] == "yes", float(row["oldpeak"]) >= 1)
    return ";".join(name for name, yes in zip(LABELS, there, strict=True) if yes)


def write_sites(folder: Path, *, seed: int) -> None:
    """A site for each hospital below `folder`, of the 857 patients whose exercise test is on record."""
    known = [row for row in read() if row["exang"] and row["oldpeak"]]
    columns = [name for name in known[0] if name not in ("dataset", "num", "exang", "oldpeak")]
    for hospital, name in HOSPITALS.items():
        site = write_site(
            folder,
            name,
            data={
                "kind": "table",
                "path": "patients.csv",
                "label": "findings",
                "label_separator": ";",
                "unit": "id",
            },
            groups={"sex": {"column": "sex", "values": {"Female": "female", "Male": "male"}}},
            split={"validation": 0.15, "test": 0.3, "seed": seed},
        )
        own = [[*(row[c] for c in columns), found(row)] for row in known if row["dataset"] == hospital]
        write_csv(site / "patients.csv", [*columns, "findings"], own)
