"""What is at a site, and how to fix what is wrong: the table of `foedus site check`."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from foedus.data import findings
from foedus.data.load import require_fit, survey
from foedus.data.site_data import Quarantined
from foedus.errors import ConfigError, DataError
from foedus.site import SITE_FILE, SiteConfig, allows_backbone, load_site
from foedus.study import Study

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class CheckRow:
    """One line of the table.

    Attributes:
        check: What was looked at.
        found: What is there; may name records, so it stays at the site.
        status: "fail" keeps the site out of a study, "warn" does not.
        how_to_fix: What to do; empty when there is nothing to do.
    """

    check: str
    found: str
    status: Status = "ok"
    how_to_fix: str = ""


@dataclass(frozen=True)
class CheckReport:
    """The table, and every record that was set aside. For the site's own eyes.

    Attributes:
        site: Name of the site, or of its folder if site.toml cannot be read.
        rows: The lines, in the order of reading.
        quarantined: Records set aside.
    """

    site: str
    rows: list[CheckRow]
    quarantined: list[Quarantined] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the site can take part (warnings allowed)."""
        return all(row.status != "fail" for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """The report for --json."""
        return {
            "site": self.site,
            "ok": self.ok,
            "rows": [asdict(row) for row in self.rows],
            "quarantined": [asdict(record) for record in self.quarantined],
        }


def check_site(folder: Path, study: Study | None = None) -> CheckReport:
    """What is at a site; problems of the data become lines, never an exception.

    Args:
        folder: Where site.toml is.
        study: What the site is to take part in; without one, classes and columns are those found.
    """
    try:
        site = load_site(folder)
    except ConfigError as error:
        problems = "; ".join(error.problems)
        row = CheckRow("site file", problems, "fail", f"correct {SITE_FILE} and check again")
        return CheckReport(folder.name, [row])
    described = f"{site.data.kind} in {site.data.title}"
    rows = [CheckRow("site file", described)]
    data_rows, quarantined = _data(folder, site, study)
    return CheckReport(site.site.name, [*rows, *data_rows, *_policy(folder, site, study)], quarantined)


def _data(folder: Path, site: SiteConfig, study: Study | None) -> tuple[list[CheckRow], list[Quarantined]]:
    try:
        if study is not None:
            require_fit(site, study)
            found = survey(folder, site, study.study.classes, study.table, independent=study.door.private)
        else:
            found = survey(folder, site, None, None)
    except DataError as error:
        return [CheckRow("data", str(error), "fail", "correct what is named and check again")], []
    lines = findings.of_survey(found, site, has_study=study is not None)
    return [CheckRow(*line) for line in lines], found.data.quarantined


def _policy(folder: Path, site: SiteConfig, study: Study | None) -> list[CheckRow]:
    policy = site.policy
    named = ", ".join(policy.studies) or "any"
    metrics = "may be sent" if policy.release_site_metrics else "stay here"
    rows = [
        CheckRow(
            "policy", f"doors: {', '.join(policy.doors) or 'none'}; studies: {named}; own figures {metrics}"
        )
    ]
    if study is None:
        return rows
    if study.door.mode not in policy.doors:
        fix = f'add "{study.door.mode}" to [policy] doors if you agree, or ask for another door'
        rows.append(CheckRow("policy: door", f"the study asks for {study.door.mode}", "fail", fix))
    if policy.studies and study.study.name not in policy.studies:
        fix = f'add "{study.study.name}" to [policy] studies if you agree'
        rows.append(CheckRow("policy: study", f"'{study.study.name}' is not allowed here", "fail", fix))
    if not allows_backbone(policy, study.backbone.source, folder=folder):
        fix = "add the folder of these weights to [policy] backbone_folders if you agree"
        rows.append(CheckRow("policy: backbone", f"the study loads {study.backbone.source}", "fail", fix))
    if study.fairness is not None and not site.groups:
        fix = "add a [groups.NAME] for each attribute of the auditor's policy, if the site has it"
        found = "none, but the study is audited: everyone here counts as unknown"
        rows.append(CheckRow("groups", found, "warn", fix))
    return rows
