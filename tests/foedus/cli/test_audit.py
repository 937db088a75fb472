"""foedus audit show|run as people read them, and foedus site check's table: brackets are text."""

from typing import Any

Toy = Any
"""The class in tests/foedus/conftest.py, which no test can import."""


def test_the_audit_of_a_run_is_shown_as_a_table(toy: Toy) -> None:
    assert toy.simulate().code == 0
    [run] = toy.finished()
    shown = toy.foedus("audit", "show", run.name)
    assert shown.code == 0
    assert "Gate: INCONCLUSIVE" in shown.out
    assert "unknown (suppressed)" in shown.out
    again = toy.foedus("audit", "run", run.name)
    assert again.code == 1
    assert again.out == shown.out


def test_what_to_do_is_shown_with_its_brackets(toy: Toy) -> None:
    toy.spoil("west", lambda rows: [{**rows[0], "y": "perhaps"}, *rows[1:]])
    shown = toy.foedus("site", "check", "sites/west", "--study", "study.toml")
    assert shown.code == 0
    assert "[data.labels]" in shown.out


def test_a_run_that_was_not_audited_says_so(toy: Toy) -> None:
    toy.change('[fairness]\npolicy = "policy.toml"\n', "")
    assert toy.simulate().code == 0
    [run] = toy.finished()
    shown = toy.foedus("audit", "show", run.name)
    assert shown.code == 2
    assert "audit.json does not exist" in shown.err
    again = toy.foedus("audit", "run", run.name)
    assert again.code == 2
    assert "the run's study names no policy; give one with --policy." in again.err
