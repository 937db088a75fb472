"""Audits of the same people: refused where two of them differ by a few, whose answers could be subtracted.

The coordinator keeps audits.jsonl beside its run folders: for every audit the sites and the released
number of people in each group, nothing else. Two releases that differ in 1 to k - 1 people would
tell of exactly those. Groups of one attribute are compared under whatever names they have, because a
second policy may draw the line between them a little elsewhere; so are everyone and everyone.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairness.findings import AuditReport
from foedus.errors import AuditError

AUDITS_FILE = "audits.jsonl"
EVERYONE = "everyone"


@dataclass(frozen=True)
class Cohort:
    """What was released of how many people there are.

    Attributes:
        run: Id of the run that was audited.
        sites: Their names, sorted.
        groups: Attribute or intersection, or "everyone", to its groups and their exact numbers of people.
    """

    run: str
    sites: list[str]
    groups: dict[str, dict[str, int]]

    @classmethod
    def of(cls, report: AuditReport, *, run: str, sites: Iterable[str]) -> "Cohort":
        """The released sizes in an audit."""
        groups = {EVERYONE: {EVERYONE: report.n}}
        for table in (*report.attributes, *report.intersections):
            exact = [g for g in table.groups if g.n is not None and g.n_between is None]
            groups[table.attribute] = {g.group: int(g.n or 0) for g in exact}
        return cls(run, sorted(sites), groups)

    def too_near(self, earlier: "Cohort", k: int) -> tuple[str, str, str] | None:
        """An attribute with a group here and one there that differ by 1 to k - 1 people; None if there is none.

        Groups of other names are compared only if the attribute has other groups than it had.
        """
        for attribute, now in self.groups.items():
            before = earlier.groups.get(attribute, {})
            redrawn = set(now) != set(before)
            for group, n in now.items():
                for other, m in before.items():
                    same = group == other
                    if 0 < abs(n - m) < k and (
                        same or (redrawn and not {group, other} <= set(now) & set(before))
                    ):
                        return attribute, group, other
        return None


def refuse_near(found: Cohort, log: Path, *, k: int) -> None:
    """Refuse an audit that differs from an earlier one of the same sites by fewer than k people.

    Args:
        found: What the audit would release.
        log: audits.jsonl; need not exist.
        k: The policy's.

    Raises:
        AuditError: Naming the earlier run.
    """
    for earlier in read(log):
        if earlier.sites != found.sites:
            continue
        if near := found.too_near(earlier, k):
            attribute, group, other = near
            what = "everyone" if attribute == EVERYONE else f"{attribute} '{group}'"
            than = "" if group == other else f" '{other}'"
            raise AuditError(
                f"this audit and that of run {earlier.run} differ by fewer than {k} people in {what} (there{than}), "
                "who could be told from the difference; nothing was written: use the earlier policy and data, or, if "
                "these are other people (another split), another folder of runs (--runs)"
            )


def append(found: Cohort, log: Path) -> None:
    """Keep what an audit released; once for audits that released the same."""
    if any((earlier.sites, earlier.groups) == (found.sites, found.groups) for earlier in read(log)):
        return
    entry = {"run": found.run, "sites": found.sites, "groups": found.groups}
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry, sort_keys=True) + "\n")


def read(log: Path) -> Sequence[Cohort]:
    """All audits in the log.

    Raises:
        AuditError: If a line is not as it was written.
    """
    if not log.exists():
        return []
    try:
        lines: list[dict[str, Any]] = [
            json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()
        ]
        return [Cohort(line["run"], line["sites"], line["groups"]) for line in lines]
    except (ValueError, KeyError, TypeError):
        raise AuditError(
            f"{log} cannot be read; no audit is made while it is not known what earlier ones released: "
            "bring back the file as it was"
        ) from None
