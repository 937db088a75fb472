"""`foedus simulate`: a whole study on this machine, with sites as folders on disk.

The engines run the same apps: "local" in this process, "ray" in Flower's simulation runtime.
Because a simulation can see every site, it adds what no federation could know: the pooled
reference (all data in one place) and each site held out in turn.
"""

import json
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from clients.app import SITES_VARIABLE
from clients.app import app as client_app
from clients.attack import attack
from clients.report import score
from clients.workplace import Workplace, open_workplace
from fairness.audit import AuditReport
from fairness.policy import policy_text
from fairness.signing import signature_text
from foedus import files
from foedus.attacks.report import PrivacyAudit
from foedus.backbones import Standardiser, describe
from foedus.backbones.saving import read_tuned
from foedus.door import KEYS_FOLDER
from foedus.errors import AuditError, ConfigError, FoedusError, RunError
from foedus.head import LinearHead
from foedus.reference import concatenate, local_everywhere, pooled_model
from foedus.runs import (
    AUDIT_FILE,
    HEAD_FILE,
    POLICY_CHANGED,
    POLICY_FILE,
    RESULTS_FILE,
    SERVING_FILE,
    RunFolder,
)
from foedus.secure.keystore import Keystore
from foedus.secure.roster import Roster
from foedus.site import find_sites, load_site
from foedus.study import Study, load_study
from server.app import Outcome, Stage, conduct
from server.federation import Federation
from server.local_grid import LocalGrid
from server.ray_engine import ray_grid, require_ray
from server.results import after_attack, mean_metrics, run_audit, write_card, write_report, write_results
from server.rounds import Training, run_rounds
from server.serving import write_serving
from server.start import begin

log = logging.getLogger(__name__)
Engine = Literal["local", "ray"]
HELD_OUT_KEYS = ("accuracy", "auc", "n")


def simulate(
    study_file: Path,
    sites: Path,
    *,
    runs: Path,
    engine: Engine = "local",
    reference: bool = True,
    held_out: bool = False,
    stage: Stage | None = None,
) -> tuple[RunFolder, Outcome]:
    """Run a study on the site folders below `sites`.

    Args:
        study_file: The study.toml.
        sites: A folder with one sub-folder a site.
        runs: Where the run folder is made.
        engine: "local" or "ray".
        reference: Add the pooled reference; needs every site's data to be readable here.
        held_out: Add leave-one-site-out figures.
        stage: Told of progress.

    Raises:
        FoedusError: Of the kind that says what is wrong; nothing is half-written.
    """
    study = load_study(study_file)
    if engine == "ray":
        require_ray()
    describe(study.backbone, study.table)
    find_sites(sites)
    if held_out and study.door.private:
        problem = "--held-out trains once more for each site, which the privacy budget has no room for; leave it out"
        raise ConfigError("simulate", [problem])
    policy_file = study_file.parent / study.fairness.policy if study.fairness else None
    run = RunFolder.create(
        runs,
        study_file,
        policy=policy_text(policy_file) if policy_file else None,
        policy_signature=signature_text(policy_file) if policy_file else None,
        engine=engine,
        sites=str(sites.resolve()),
    )
    return run, _conduct(run, reference=reference, held_out=held_out, stage=stage)


def resume(run: RunFolder, *, stage: Stage | None = None) -> Outcome:
    """Go on with a simulation that was interrupted; the result is the same to the byte.

    Raises:
        RunError: If the run is finished or its sites are gone.
    """
    state = run.state()
    if state["status"] == "finished":
        raise RunError(f"run '{run.run_id}' is finished; there is nothing to resume.")
    if not state["sites"]:
        raise RunError(
            f"run '{run.run_id}' was made on a coordinator's server; add --home and the coordinator's folder."
        )
    if not Path(state["sites"]).is_dir():
        raise RunError(f"the sites of run '{run.run_id}' are no longer at {state['sites']}; put them back.")
    extras = state.get("extras", {})
    return _conduct(
        run, reference=extras.get("reference", True), held_out=extras.get("held_out", False), stage=stage
    )


def _conduct(run: RunFolder, *, reference: bool, held_out: bool, stage: Stage | None) -> Outcome:
    run.set_state("running", pid=os.getpid(), extras={"reference": reference, "held_out": held_out})
    state = run.state()
    folders = find_sites(Path(state["sites"]))
    try:
        if run.study().door.masked:
            enrol(folders, run.study())
        if state["engine"] == "ray":
            with ray_grid(client_app, len(folders), variables={SITES_VARIABLE: state["sites"]}) as grid:
                outcome = conduct(grid, run, stage=stage)
        else:
            outcome = conduct(LocalGrid(client_app, folders), run, stage=stage)
        if reference:
            _add_reference(run, outcome, folders)
        if held_out:
            _add_held_out(run, outcome, folders)
        if outcome.federation.study.door.private:
            _add_attack(run, outcome, folders)
        run.seal()
    except BaseException as error:
        run.set_state("failed", problem=str(error) or type(error).__name__)
        raise
    run.set_state("finished", problem=None)
    return outcome


def enrol(folders: Sequence[Path], study: Study) -> Roster:
    """Keys for every simulated site that trains, and the roster of all of them pinned at each.

    Raises:
        SecureSumError: If there are fewer than three sites, or a key folder can be read by others.
    """
    names = {folder: load_site(folder).site.name for folder in folders}
    stores = {
        name: Keystore.create(f / KEYS_FOLDER) for f, name in names.items() if name not in study.newcomers
    }
    roster = Roster.build(sites={name: store.public_key for name, store in stores.items()})
    for store in stores.values():
        store.pin(roster, replace=True)
    return roster


def _add_reference(run: RunFolder, outcome: Outcome, folders: Sequence[Path]) -> None:
    """The pooled head: the same recipe with all training examples in one place."""
    workplaces = _workplaces(outcome.federation, folders)
    standardiser = outcome.federation.standardiser
    if standardiser is None:
        return
    federation, start = outcome.federation, outcome.training.start
    model = pooled_model(federation.study, workplaces, standardiser, start, balance=federation.balance)
    tests = {
        site.name: site.examples("test", standardiser=standardiser, tuned=model.backbone)
        for site in workplaces
    }
    head, results = model.head, outcome.results
    results["models"]["pooled"] = score(head, concatenate(list(tests.values())))
    for line in results["sites"]:
        line["pooled"] = (
            score(head, tests[line["site"]]) if line["site"] in tests and line["released"] else None
        )
    results["mean"]["pooled"] = mean_metrics(results["sites"], "pooled")
    elsewhere = [{"local": local_everywhere(site, workplaces)} for site in workplaces]
    results["mean"]["local_everywhere"] = mean_metrics(elsewhere, "local")
    _rewrite(run, results)


def _add_held_out(run: RunFolder, outcome: Outcome, folders: Sequence[Path]) -> None:
    """Train without each site in turn, and test there."""
    federation = outcome.federation
    workplaces = _workplaces(federation, folders)
    rows = []
    for left_out in workplaces:
        others = [site.folder for site in workplaces if site is not left_out]
        standardiser, training = _train_without(federation.study, others, run)
        test = left_out.examples("test", standardiser=standardiser, tuned=training.best.backbone)
        found = score(training.best.head, test)
        rows.append({"site": left_out.name, **{key: found[key] for key in HELD_OUT_KEYS}})  # type: ignore[literal-required]
    outcome.results["held_out"] = rows
    _rewrite(run, outcome.results)


def _add_attack(run: RunFolder, outcome: Outcome, folders: Sequence[Path]) -> None:
    """Attack the training of the site with the most examples, which only it could do in a real federation."""
    largest = max(_workplaces(outcome.federation, folders), key=lambda site: len(site.data.rows("train")))
    found = attack(largest, outcome.federation.standardiser)
    outcome.results["privacy"]["at_site"] = {"site": largest.name, **json.loads(found.to_json())}
    _note_clipping(run, outcome, found)
    _rewrite(run, outcome.results)


def _note_clipping(run: RunFolder, outcome: Outcome, found: PrivacyAudit) -> None:
    """Where the backbone learns, the site's word on the clip is the only one; it can fail the audit."""
    attacked = outcome.results["privacy"]["attack"]
    if attacked["clipping_held"] is not None or found.clipping is None:
        return
    attacked |= {"clipping_held": found.clipping.held, "largest_change": found.clipping.largest}
    if outcome.audit is not None and not found.clipping.held:
        outcome.audit = after_attack(outcome.audit, attacked)
        files.write_bytes(run.path / AUDIT_FILE, outcome.audit.to_json().encode())
        write_card(run, outcome.results, outcome.audit)


def _train_without(
    study: Study, folders: Sequence[Path], run: RunFolder
) -> tuple[Standardiser | None, Training]:
    """Start and rounds on `folders` alone, leaving nothing behind."""
    fewer = study.federation.model_copy(
        update={"min_sites": min(study.federation.min_sites, len(folders)), "rounds": study.federation.rounds}
    )
    alone = study.model_copy(update={"federation": fewer, "fewshot": None, "fairness": None})
    federation = Federation.enlist(LocalGrid(client_app, folders), alone, run.run_id)
    with tempfile.TemporaryDirectory() as scratch:
        training = run_rounds(federation, begin(federation), RunFolder(Path(scratch)), lambda line: None)
    return federation.standardiser, training


def _workplaces(federation: Federation, folders: Sequence[Path]) -> list[Workplace]:
    """The sites that took part, from their folders; of two that answer to one name the first did."""
    found: dict[str, Workplace] = {}
    for folder in folders:
        try:
            name = load_site(folder).site.name
            if name in federation.cohort.values() and name not in found:
                found[name] = open_workplace(folder, federation.study.to_json())
        except FoedusError as error:
            log.warning("%s is left out of the comparison: %s", folder.name, error)
    return list(found.values())


def _rewrite(run: RunFolder, results: dict[str, Any]) -> None:
    write_results(run, results)
    write_report(run)


def audit_again(run: RunFolder, *, policy: Path | None) -> AuditReport:
    """Audit a run's model once more, by its own policy or another; the run's log keeps both digests.

    A policy that is not the one the run began with is marked as chosen after the evaluation. An
    approval of the audit before does not hold for this one.

    Raises:
        ApprovalError: If the signature beside the other policy does not fit it.
        RunError: If the run has no model or its sites are gone.
        AuditError: If there is no policy.
    """
    state, study = run.state(), run.study()
    arrays = files.read_arrays(run.path / HEAD_FILE)
    if policy is not None:
        _replace_policy(run, policy)
    if not (run.path / POLICY_FILE).exists():
        raise AuditError("the run's study names no policy; give one with --policy.")
    federation = Federation.enlist(LocalGrid(client_app, find_sites(Path(state["sites"]))), study, run.run_id)
    federation.standardiser = Standardiser.from_arrays(arrays)
    federation.backbone = read_tuned(run.path / "model")
    digest = files.sha256_file(run.path / HEAD_FILE)
    results = files.read_json(run.path / RESULTS_FILE)
    attack = results["privacy"]["attack"]
    report = run_audit(federation, LinearHead.from_arrays(arrays), run, model_digest=digest, attack=attack)
    if report is None:
        raise AuditError("the run's study names no policy; give one with --policy.")
    if not (run.path / SERVING_FILE).exists():
        write_serving(federation, LinearHead.from_arrays(arrays), run)
    run.log("audited", policy_sha256=files.sha256_file(run.path / POLICY_FILE), verdict=report.verdict)
    write_card(run, results, report)
    write_report(run)
    run.seal()
    return report


def _replace_policy(run: RunFolder, policy: Path) -> None:
    text, signature = policy_text(policy), signature_text(policy)
    before = run.path / POLICY_FILE
    if not before.exists() or before.read_bytes() != text.encode():
        run.set_policy(POLICY_CHANGED, text.encode(), (signature or "").encode())
