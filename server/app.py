"""The coordinator's ServerApp: study, sites, rounds, few-shot, audit, gate, run folder."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectPushError

from fairness.audit import AuditReport
from foedus import files
from foedus.backbones import Standardiser, describe
from foedus.runs import FEWSHOT_FILE, RunFolder
from foedus.traffic import ASKED_FILE
from server.adaptation import evaluate_fewshot, learn_whitening
from server.federation import Federation
from server.home import read_nodes
from server.inherited import audit_of_start, private_note, start_and_trained
from server.pooling import conduct_pool
from server.private import begin_private
from server.results import (
    build_results,
    data_quality,
    evaluate,
    run_audit,
    save_model,
    write_card,
    write_report,
    write_results,
)
from server.rounds import Training, restore, run_rounds, save
from server.serving import write_serving
from server.start import balance, begin, refit

log = logging.getLogger(__name__)
app = ServerApp()

LOST = (httpx.HTTPError, ObjectPullError, ObjectPushError)
"""What Flower's grid raises where its server is gone for longer than a request is tried again."""
PRIVATE_NAMES = (
    "flwr.supercore.inflatable.inflatable_utils:ObjectPullError",
    "flwr.supercore.inflatable.inflatable_utils:ObjectPushError",
)
"""Flower's names that are used here and are not public; a test imports each."""
RUN_KEY = "run-folder"
"""Run configuration: the folder of the run, which holds its study."""
NODES_KEY = "nodes-file"
"""Run configuration: the file that says which node is which approved site; missing where nobody is approved."""
Stage = Callable[[str, dict[str, Any]], None]
"""Called with the name of each stage and what it found; for progress only."""


@dataclass
class Outcome:
    """What a run came to."""

    results: dict[str, Any]
    fewshot: dict[str, Any] | None
    audit: AuditReport | None
    training: Training
    federation: Federation


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Flower's entry: conduct the run named in the run configuration."""
    run = RunFolder.open(Path(str(context.run_config[RUN_KEY])))
    run.set_state("running", pid=os.getpid())
    try:
        nodes = context.run_config.get(NODES_KEY)
        approved = None if nodes is None else read_nodes(Path(str(nodes)))
        if (run.path / ASKED_FILE).exists():
            conduct_pool(grid, run, approved=approved)
        else:
            conduct(grid, run, stage=run.note_stage, approved=approved)
        run.seal()
    except LOST as error:
        log.warning("the server was lost (%s); the run goes on from its last round once it is back", error)
        raise  # it still counts as running, so that it is submitted again
    except Exception as error:
        if run.state()["status"] != "stopped":
            run.set_state("failed", problem=str(error) or type(error).__name__)
        raise
    run.set_state("finished", problem=None)


def conduct(
    grid: Grid, run: RunFolder, *, stage: Stage | None = None, approved: Mapping[int, str] | None = None
) -> Outcome:
    """The whole pipeline, from the study in the run folder to its report; resumes where it stopped.

    Args:
        grid: Flower's, or one of ours.
        run: With the study.
        stage: Told of the progress.
        approved: Node id to the name it was approved under, in a federation with a roster.

    Raises:
        DoorError: If the study's door mode is not available.
        BackboneError: If the study's backbone is unknown or not on this machine.
        RoundError: If too few sites answer.
        RunError: If the run folder cannot be written.
    """
    tell = stage or _silent
    logging.getLogger("flwr").setLevel(logging.WARNING)  # its lines say less than ours, twice a round
    study = run.study()
    describe(study.backbone, study.table)  # an unknown one is one error here, not a refusal by every site
    tell("enlist", {})
    federation = Federation.enlist(grid, study, run.run_id, approved=approved, note=run.note_absent)
    tell("start", {"sites": sorted(federation.cohort.values()), "refused": federation.refused})
    training = _begin_or_resume(federation, run)
    tell("rounds", {"total": study.federation.rounds, "done": training.round})
    training = run_rounds(federation, training, run, lambda line: tell("round", line))
    if study.backbone.keeps_heads:
        training = refit(federation, training)
    digest = save_model(federation, training.best, run)
    tell("reports", {})
    figures, own_heads = federation.reports(training.best)
    results = build_results(federation, training, {**evaluate(federation, training), **own_heads}, figures)
    results["data_quality"] = data_quality(federation)
    if study.fewshot is not None:
        tell("fewshot", {})
    fewshot = _adapt(federation, training, run)
    tell("audit", {})
    before = audit_of_start(federation, training, run)
    attacked = results["privacy"]["attack"]
    audit = run_audit(federation, federation.use(training.best), run, model_digest=digest, attack=attacked)
    write_serving(federation, federation.use(training.best), run)
    results["audit_of_start"] = start_and_trained(before, audit, best_round=training.best_round)
    results["notes"] += private_note(federation, run)
    write_results(run, results)
    write_card(run, results, audit)
    write_report(run)
    run.log("finished", head_sha256=digest, verdict=audit.verdict if audit else None)
    return Outcome(results, fewshot, audit, training, federation)


def _begin_or_resume(federation: Federation, run: RunFolder) -> Training:
    latest = run.latest()
    if latest is None:
        training = begin_private(federation) if federation.study.door.private else begin(federation)
        save(run, training, federation)
        return training
    training, standardiser = restore(*latest)
    federation.standardiser = Standardiser.from_arrays(standardiser)
    federation.n_train = int(latest[0]["n_train"])
    balance(federation)
    run.log("resumed", round=training.round)
    return training


def _adapt(federation: Federation, training: Training, run: RunFolder) -> dict[str, Any] | None:
    if federation.study.fewshot is None:
        return None
    whitening = learn_whitening(federation)
    files.write_arrays(run.path / "model/whitening.safetensors", whitening.arrays())
    found = evaluate_fewshot(federation, whitening, federation.use(training.best))
    files.write_json(run.path / FEWSHOT_FILE, found)
    return found


def _silent(stage: str, found: dict[str, Any]) -> None:
    """No progress."""
