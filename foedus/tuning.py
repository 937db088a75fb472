"""`foedus tune`: hyper-parameters by successive halving over the federation, from validation sums alone.

A trial is the study with other values. It stops at the end of a rung and, if it is kept, goes on
from there; trials with the same start share one. Test records are never asked about.
"""

import json
import logging
import math
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clients.app import app as client_app
from clients.memory import forgotten
from clients.workplace import open_workplace
from fairness.policy import policy_text
from fairness.signing import signature_text
from foedus import files
from foedus.backbones import Standardiser, describe
from foedus.errors import BackboneError, RoundError, RunError
from foedus.evaluation import Evaluation
from foedus.runs import POLICY_FILE, POLICY_SIGNATURE_FILE, STUDY_FILE, RunFolder
from foedus.search import Drawn, Metric, Rung, SearchSection, Values, kept
from foedus.simulation import enrol
from foedus.site import find_sites, load_site
from foedus.study import Study, load_study
from foedus.variants import budget_of, drawn_trials, rewrite, trial_study
from server.federation import Federation
from server.local_grid import LocalGrid
from server.private import begin_private
from server.results import accuracy_noise
from server.rounds import Training, run_rounds
from server.start import begin, refit

TRIALS_FILE = "trials.json"
DESCENT = frozenset(
    {
        "optimizer",
        "lr",
        "layer_decay",
        "weight_decay",
        "dropout",
        "label_smoothing",
        "max_norm",
        "head_epochs",
    }
)
"""Keys of [tuning] that the start does not depend on."""
Tell = Callable[[int, int, str], None]
"""Called with how many rounds are done, how many there are, and what comes next."""


@dataclass(frozen=True)
class Start:
    """What trials with the same start settings begin from."""

    standardiser: Standardiser | None
    n_train: int
    balance: str
    training: Training


@dataclass
class Trial:
    """One configuration on its way up.

    Attributes:
        number: From 1, in the order of the draws.
        values: What it sets.
        scores: The metric at the end of each rung it finished; None where no site has a validation record.
        noise: Standard deviation that privacy noise gives the last score, if there is any.
        seconds: Spent on it.
        problem: Why it could not go on, or None.
    """

    number: int
    values: Values
    scores: list[float | None] = field(default_factory=list)
    noise: float | None = None
    seconds: float = 0.0
    problem: str | None = None
    training: Training | None = None

    def to_json(self) -> dict[str, Any]:
        """Its line in trials.json."""
        return {
            "trial": self.number,
            "values": self.values,
            "rung": len(self.scores),
            "rounds": self.training.round if self.training else 0,
            "scores": self.scores,
            "noise": self.noise,
            "seconds": round(self.seconds, 3),
            "problem": self.problem,
        }


@dataclass
class Search:
    """One search under way.

    Attributes:
        study: The study as it is.
        section: Its [search].
        folders: The sites that train.
        run: Begins the run id of every trial.
        starts: Start settings to what came of them.
        refused: Site to why it does not take part.
    """

    study: Study
    section: SearchSection
    folders: Sequence[Path]
    run: str
    trials: list[Trial]
    starts: dict[str, Start] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def private(self) -> bool:
        """Whether every release is charged to the sites' ledgers."""
        return self.study.door.private

    @property
    def metric(self) -> Metric:
        """What ranks the trials."""
        return self.section.ranks_by(private=self.private)


def tune(study_file: Path, sites: Path, *, runs: Path, tell: Tell | None = None) -> Path:
    """Search the study's space; the folder with trials.json and the study with the winner's values.

    Args:
        study_file: The study.toml; without [search], the default one.
        sites: A folder with one sub-folder a site.
        runs: Where the folder is made, once all is done.
        tell: Told of progress.

    Raises:
        ConfigError: If the study or its space is not valid, or the file cannot be edited in place.
        RoundError: If no trial could be judged.
        RunError: If the folder, or a site's, cannot be written.
    """
    logging.getLogger("flwr").setLevel(logging.WARNING)  # its lines say less than ours, twice a round
    study, text = load_study(study_file), study_file.read_text(encoding="utf-8")
    section = study.search or SearchSection()
    describe(study.backbone, study.table)
    policy = _policy_files(study, study_file)
    drawn = drawn_trials(study, section)
    budget = budget_of(study, section) if study.door.private else None
    rewrite(text, study, drawn.trials[0], budget=budget)  # better now than after the search
    _make(runs)
    folders = [f for f in find_sites(sites) if load_site(f).site.name not in study.newcomers]
    if study.door.masked:
        enrol(folders, study)
    trials = [Trial(number, values) for number, values in enumerate(drawn.trials, start=1)]
    search = Search(study, section, folders, f"tune-{secrets.token_hex(4)}", trials)
    with ExitStack() as stack:
        for folder in folders:
            stack.enter_context(forgotten(folder, search.run))
        ranked = _halve(search, tell or _silent)
    written = {
        TRIALS_FILE: files.canonical_json(_summary(search, ranked, drawn, budget)),
        STUDY_FILE: rewrite(text, study, ranked[0].values, budget=budget),
        **policy,
    }
    return _keep(runs, study, written)


def _halve(search: Search, tell: Tell) -> list[Trial]:
    """All trials, best first, after every rung of the bracket."""
    rungs = search.section.bracket
    total, done = sum(rung.trials * rung.new for rung in rungs), 0
    standing = search.trials
    for place, rung in enumerate(rungs, start=1):
        for trial in standing:
            tell(done, total, f"rung {place}/{len(rungs)}, trial {trial.number}")
            _advance(search, trial, rung, place)
            done += rung.new
        scores = {t.number: t.scores[-1] for t in standing if t.problem is None}
        at_most = rungs[place].trials if place < len(rungs) else len(standing)
        chosen = kept(scores, at_most, metric=search.metric)
        if not chosen:
            reasons = [trial.problem for trial in standing if trial.problem]
            reason = reasons[0] if reasons else "no site has a validation example; give them some."
            raise RoundError(f"no trial of rung {place} could be judged: {reason}")
        by_number = {trial.number: trial for trial in standing}
        standing = [by_number[number] for number in chosen]
    return standing + sorted((t for t in search.trials if t not in standing), key=lambda t: _order(search, t))


def _order(search: Search, trial: Trial) -> tuple[bool, int, float, int]:
    """Of the trials that did not reach the end: the higher rung, then the better score; broken ones last."""
    score = trial.scores[-1] if trial.scores else None
    sign = 1.0 if search.metric == "log_loss" else -1.0
    rank = math.inf if score is None else sign * score
    return trial.problem is not None, -len(trial.scores), rank, trial.number


def _advance(search: Search, trial: Trial, rung: Rung, place: int) -> None:
    """Train one trial to the end of a rung, and score it."""
    began = time.perf_counter()
    study = trial_study(search.study, search.section, trial.values, number=trial.number, rounds=rung.rounds)
    try:
        grid = LocalGrid(client_app, search.folders)
        federation = Federation.enlist(grid, study, _run_id(search, trial, place))
        search.refused |= federation.refused
        training = _where_it_stands(search, trial, federation)
        with tempfile.TemporaryDirectory() as scratch:
            training = run_rounds(federation, training, RunFolder(Path(scratch)), lambda line: None)
        trial.training = training
        trial.scores.append(_score(search, trial, federation, training))
    except (RoundError, BackboneError) as error:  # it diverged, or its backbone cannot be tuned so
        trial.problem = str(error)
    finally:
        trial.seconds += time.perf_counter() - began
        open_workplace.cache_clear()  # one trial's features in memory at a time


def _where_it_stands(search: Search, trial: Trial, federation: Federation) -> Training:
    """After its own last rung, or at the start it shares, which the first to need it asks for."""
    key = _start_settings(federation.study)
    if key not in search.starts:
        training = begin_private(federation) if search.private else begin(federation)
        search.starts[key] = Start(federation.standardiser, federation.n_train, federation.balance, training)
    start = search.starts[key]
    federation.standardiser, federation.n_train = start.standardiser, start.n_train
    federation.balance = start.balance
    return trial.training or start.training


def _run_id(search: Search, trial: Trial, place: int) -> str:
    """Names a trial at the sites. A private run makes each release once, so there each rung is a run."""
    name = f"{search.run}-trial-{trial.number}"
    return f"{name}-rung-{place}" if search.private else name


def _start_settings(study: Study) -> str:
    """Everything that the start depends on."""
    settings = {
        "start": study.federation.start,
        "control": study.federation.strategy == "scaffold",
        "backbone": study.backbone.model_dump(exclude={"personal"}),
        "tuning": study.tuning.model_dump(exclude=set(DESCENT)),
    }
    return json.dumps(settings, sort_keys=True)


def _score(search: Search, trial: Trial, federation: Federation, training: Training) -> float | None:
    """The metric of the model as its last round left it, on all validation examples."""
    model = refit(federation, training).model if federation.study.backbone.keeps_heads else training.model
    head, several = federation.use(model), federation.study.multilabel
    evaluation = Evaluation([head], counts_only=search.private, multilabel=several)
    [[candidate]] = federation.ask(evaluation, split="validation", what=f"scoring trial {trial.number}")
    trial.noise = accuracy_noise(federation, candidate.head, candidate.metrics)
    return candidate.metrics[search.metric]


def _summary(
    search: Search, ranked: list[Trial], drawn: Drawn, budget: dict[str, float] | None
) -> dict[str, Any]:
    """trials.json, best trial first."""
    return {
        "study": search.study.study.name,
        "seed": search.study.study.seed,
        "metric": search.metric,
        "rungs": [{"trials": rung.trials, "rounds": rung.rounds} for rung in search.section.bracket],
        "best": {"trial": ranked[0].number, "values": ranked[0].values, "score": ranked[0].scores[-1]},
        "trials": [trial.to_json() for trial in ranked],
        "drawn_again": [{"values": values, "reason": reason} for values, reason in drawn.refused],
        "refused": [{"site": site, "reason": reason} for site, reason in sorted(search.refused.items())],
        "starts": len(search.starts),
        "privacy": budget,
    }


def _keep(runs: Path, study: Study, written: dict[str, str]) -> Path:
    """A folder below `runs` that appears with everything in it, or not at all."""
    now = datetime.now(UTC)
    folder = runs / f"tune-{study.study.name}-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    staged = folder.with_name(f".{folder.name}")
    try:
        for name, content in written.items():
            files.write_bytes(staged / name, content.encode())
        staged.rename(folder)
    except OSError as error:
        raise RunError(f"{folder} could not be made ({error.strerror}); free some space.") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return folder


def _make(runs: Path) -> None:
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{runs} cannot be made ({error.strerror}); choose another with --runs.") from error


def _policy_files(study: Study, study_file: Path) -> dict[str, str]:
    """The policy and its signature as they are, under the names they get; nothing without a policy."""
    if study.fairness is None:
        return {}
    path = study_file.parent / study.fairness.policy
    text, signature = policy_text(path), signature_text(path)
    return {POLICY_FILE: text, **({POLICY_SIGNATURE_FILE: signature} if signature else {})}


def _silent(done: int, total: int, name: str) -> None:
    """No progress."""
