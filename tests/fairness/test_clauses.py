import json
from datetime import date, timedelta
from importlib.resources import files

import pytest
from pydantic import ValidationError

from fairness.clauses import Clause, catalogue, index, look_up

AUDIT = {
    "verdict": "fail",
    "limits": ["a", "b"],
    "gates": [{"metric": "tpr", "attribute": "sex", "found": {"value": 0.2, "low": 0.1, "high": 0.3}}],
    "attributes": [
        {
            "attribute": "sex",
            "groups": [{"group": "f", "n": 5, "sites": None}, {"group": "m", "n": 7, "sites": 3}],
            "gaps": [{"metric": "tpr", "difference": {"value": 0.1, "low": None, "high": None}}],
        }
    ],
}
SOURCES = {"audit": AUDIT, "results": None}


def clause(**changes: object) -> Clause:
    values = {
        "clause": "1(a)",
        "title": "t",
        "jurisdiction": "j",
        "status": "in force",
        "valid_from": None,
        "valid_to": None,
        "as_of": date(2026, 11, 21),
        "source": "s",
        "profiles": ["lending"],
        "note": None,
        "fields": [{"asks": "n", "paths": ["audit.attributes[].groups[].n"]}, {"asks": "owner", "paths": []}],
    }
    return Clause.model_validate({**values, **changes})


def test_every_shipped_clause_is_valid_and_says_where_it_comes_from() -> None:
    found = catalogue()
    assert len(found) >= 15
    assert len({each.clause for each in found}) == len(found)
    for each in found:
        assert each.as_of <= date(2026, 11, 21)
        assert any(field.paths for field in each.fields), each.clause
    assert {each.jurisdiction for each in found} >= {"US", "EU", "New York City", "international"}


def test_clauses_are_data_in_the_package() -> None:
    folder = files("fairness") / "clauses"
    names = [each.name for each in folder.iterdir() if each.name.endswith(".json")]
    assert len(names) >= 4
    for name in names:
        assert json.loads((folder / name).read_bytes())["clauses"]


def test_the_day_decides_which_clauses_apply() -> None:
    before, after = date(2026, 4, 16), date(2026, 4, 17)
    for day, expected, other in (
        (before, "SR 11-7 / OCC 2011-12", "SR 26-2 / OCC 2026-13"),
        (after, "SR 26-2 / OCC 2026-13", "SR 11-7 / OCC 2011-12"),
    ):
        applying = [row["clause"] for row in index("lending", day, SOURCES) if row["applies"]]
        assert expected in applying
        assert other not in applying


def test_what_comes_later_stands_last_and_is_marked() -> None:
    rows = index("lending", date(2026, 11, 21), SOURCES)
    later = [row for row in rows if not row["applies"]]
    assert [row["valid_from"] for row in later] == ["2027-12-02", "2027-12-02"]
    assert rows[-len(later) :] == later


def test_a_profile_sees_its_own_clauses() -> None:
    day = date(2026, 11, 21)
    health = {row["clause"] for row in index("health.diagnosis", day, SOURCES)}
    assert "45 CFR 92.210" in health
    assert "12 CFR 1002" not in health


def test_an_answer_is_a_value_or_nothing() -> None:
    [row] = index("lending", date(2026, 11, 21), SOURCES, clauses=[clause()])
    assert row["answers"] == [{"asks": "n", "value": "sex f 5, sex m 7"}, {"asks": "owner", "value": None}]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("audit.verdict", "fail"),
        ("audit.limits", "2 stated in the report"),
        ("audit.gates[].found", "tpr by sex 0.200 [0.100, 0.300]"),
        ("audit.gates[].metric", "tpr by sex"),
        ("audit.attributes[].groups[].sites", "sex m 3"),
        ("audit.attributes[].groups[m].n", "sex 7"),
        ("audit.attributes[].gaps[tpr].difference", "sex 0.100"),
        ("audit.attributes[].gaps[fpr].difference", None),
        ("results.models", None),
        ("mitigation.offers[].name", None),
    ],
)
def test_paths_are_read(path: str, text: str | None) -> None:
    assert look_up(path, SOURCES) == text


def test_long_answers_are_cut() -> None:
    found = look_up(
        "audit.groups[].n", {"audit": {"groups": [{"group": f"g{i}", "n": i} for i in range(20)]}}
    )
    assert found is not None
    assert found.endswith("g7 7 and 12 more")


@pytest.mark.parametrize("path", ["audit", "elsewhere.n", "audit.n; rm"])
def test_a_path_that_leads_nowhere_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="is not a path into"):
        clause(fields=[{"asks": "n", "paths": [path]}])


def test_a_clause_that_ends_before_it_begins_is_refused() -> None:
    day = date(2026, 1, 1)
    with pytest.raises(ValidationError, match="valid_from is after valid_to"):
        clause(valid_from=day, valid_to=day - timedelta(days=1))
