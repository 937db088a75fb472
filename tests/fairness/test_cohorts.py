"""A second audit of nearly the same people is refused."""

import json
from pathlib import Path

import pytest

from fairness.audit import AuditReport
from fairness.cohorts import Cohort, append, read, refuse_near
from foedus.errors import AuditError

SITES = ["east", "north", "west"]


def cohort(run: str = "a", n: int = 300, **groups: dict[str, int]) -> Cohort:
    return Cohort(run, SITES, {"everyone": {"everyone": n}, **groups})


def test_only_exact_released_sizes_are_kept(report: AuditReport, tmp_path: Path) -> None:
    found = Cohort.of(report, run="r", sites=reversed(SITES))
    assert found.sites == SITES
    assert found.groups["everyone"] == {"everyone": report.n}
    shown = {g.group: g.n for g in report.attributes[0].groups if g.n is not None and g.n_between is None}
    assert found.groups["sex"] == shown
    append(found, tmp_path / "audits.jsonl")
    append(found, tmp_path / "audits.jsonl")
    assert read(tmp_path / "audits.jsonl") == [found]
    text = (tmp_path / "audits.jsonl").read_text()
    assert set(json.loads(text)) == {"run", "sites", "groups"}


@pytest.mark.parametrize(
    ("now", "refused"),
    [
        (cohort("b", age={"<50": 100, "50+": 200}), False),  # the same people
        (cohort("b", age={"<50": 103, "50+": 197}), True),  # the same names, a line drawn elsewhere
        (cohort("b", age={"<51": 103, "51+": 197}), True),  # other names, too
        (cohort("b", age={"<60": 150, "60+": 150}), False),
        (cohort("b", age={"<51": 111, "51+": 189}), False),  # eleven people
        (cohort("b", n=303, age={}), True),  # three people more
        (cohort("b", n=311, age={}), False),
        (cohort("b", sex={"f": 103, "m": 197}), False),  # another attribute
    ],
)
def test_a_difference_of_fewer_than_k_people_is_refused(now: Cohort, refused: bool, tmp_path: Path) -> None:
    log = tmp_path / "audits.jsonl"
    append(cohort(age={"<50": 100, "50+": 200}), log)
    if not refused:
        refuse_near(now, log, k=11)
        return
    with pytest.raises(AuditError, match="run a differ by fewer than 11 people"):
        refuse_near(now, log, k=11)
    assert len(read(log)) == 1


def test_other_sites_are_other_people(tmp_path: Path) -> None:
    log = tmp_path / "audits.jsonl"
    append(cohort(), log)
    refuse_near(Cohort("b", ["south"], {"everyone": {"everyone": 301}}), log, k=11)


def test_groups_of_one_policy_that_are_as_large_as_each_other_are_no_difference(tmp_path: Path) -> None:
    log = tmp_path / "audits.jsonl"
    append(cohort(sex={"f": 148, "m": 152}), log)
    refuse_near(cohort("b", sex={"f": 148, "m": 152}), log, k=11)


def test_a_log_that_was_altered_stops_audits(tmp_path: Path) -> None:
    log = tmp_path / "audits.jsonl"
    log.write_text("{}\n")
    with pytest.raises(AuditError, match="cannot be read"):
        refuse_near(cohort(), log, k=11)
