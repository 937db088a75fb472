"""`foedus monitor --sites|--home`: what all serving sites saw together, against what was audited."""

import secrets
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

from clients.app import app as client_app
from deploy.bundle import POLICY_FILE, STUDY_FILE, Bundle
from deploy.monitor import Seen, Watched, judge
from fairness.policy import Policy, load_policy
from foedus import files
from foedus.backbones import describe
from foedus.errors import DataError, RunError
from foedus.outcomes import CHANCES, CONFUSION
from foedus.simulation import enrol
from foedus.site import find_sites
from foedus.statistic import Arrays
from foedus.study import load_study
from foedus.traffic import PARTS, SUM_FILE, Asked, Traffic
from server.conducting import submit, watch
from server.home import Home
from server.local_grid import LocalGrid
from server.pooling import pool, require_not_private


def monitor_sites(bundle: Bundle, sites: Path, journal: Path, *, day: date | None = None) -> Watched:
    """Pool what the sites below a folder noted (a simulation), compare, and close the gate in `journal`.

    Args:
        bundle: What they serve.
        sites: Folder with one sub-folder a site.
        journal: The gate of the pooled model is kept here.
        day: The window (UTC); everything of this version when not given.

    Raises:
        DoorError: If the study is private.
        RoundError: If too few sites answer.
        DataError: If too few sites, or none, saw anything.
    """
    study, folders = load_study(bundle.path / STUDY_FILE), find_sites(sites)
    require_not_private(study)
    if study.door.masked:
        enrol(folders, study)
    run_id = f"{bundle.name[:32]}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    asked = _asked(bundle, day)
    return _judged(bundle, pool(LocalGrid(client_app, folders), study, run_id, asked), asked, journal)


def monitor_federation(bundle: Bundle, home: Home, journal: Path, *, day: date | None = None) -> Watched:
    """The same with the sites that are signed in at a coordinator's server.

    Raises:
        RunError: If the run does not finish.
    """
    require_not_private(load_study(bundle.path / STUDY_FILE))
    asked = _asked(bundle, day)
    run = submit(home, bundle.path / STUDY_FILE, policy=None, traffic=asked)
    *_, last = watch(run)
    if last.status != "finished":
        raise RunError(f"run '{run.run_id}' {last.status}: {last.problem or 'no reason was recorded'}")
    return _judged(bundle, files.read_arrays(run.path / SUM_FILE), asked, journal)


def _asked(bundle: Bundle, day: date | None) -> Asked:
    policy = load_policy(bundle.path / POLICY_FILE)
    return Asked(
        version=bundle.manifest.version,
        day=day,
        fewest=policy.disclosure.k,
        attributes=policy.attributes,
    )


def _judged(bundle: Bundle, total: Arrays, asked: Asked, journal: Path) -> Watched:
    policy = load_policy(bundle.path / POLICY_FILE)
    study = load_study(bundle.path / STUDY_FILE)
    n_sites, n_labelling = total[PARTS].tolist()
    _require_sites(n_sites, policy)
    traffic = Traffic(asked, study, dim=describe(study.backbone, study.table).dim)
    live = {name: counts for name, counts in total.items() if name not in (PARTS, CONFUSION, CHANCES)}
    enough = n_labelling >= max(1, policy.disclosure.min_sites)
    seen = Seen(str(asked.day or "all"), live, traffic.labelled(total) if enough else None, n_sites)
    watched = judge(bundle, seen, journal)
    if enough or not n_labelling:
        return watched
    few = f"labels came from fewer than {policy.disclosure.min_sites} sites: nothing is said of outcomes"
    return replace(watched, notes=[*watched.notes, few])


def _require_sites(n_sites: int, policy: Policy) -> None:
    if n_sites < max(1, policy.disclosure.min_sites):
        raise DataError(
            f"{n_sites} sites have noted enough in this window, and the policy's disclosure.min_sites is "
            f"{policy.disclosure.min_sites}: nothing is said of them"
        )
