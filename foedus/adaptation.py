"""`foedus fewshot`: use a finished run's whitening at one site. Everything stays on this machine."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.workplace import Part, Workplace
from fewshot.adapt import adapt
from fewshot.comparison import paired
from fewshot.episode_sums import EpisodeResult, EpisodeSums
from fewshot.episodes import EpisodeSampler
from fewshot.evaluate import EpisodeReport, report
from fewshot.methods import FITS
from fewshot.named import run_named_episodes
from fewshot.scoring import run_episodes
from fewshot.whitening import Whitening
from foedus import files
from foedus.backbones import Standardiser, registry
from foedus.backbones.saving import read_tuned
from foedus.backbones.zero_shot import on_standardised
from foedus.config import validate
from foedus.errors import FewShotError, RunError
from foedus.runs import HEAD_FILE, RunFolder
from foedus.study import Identity, Method, Study

WHITENING_FILE = "model/whitening.safetensors"


def evaluate(
    run: RunFolder,
    site: Path,
    *,
    classes: list[str] | None,
    method: Method,
    n_way: int,
    n_shot: int,
    n_query: int,
    episodes: int,
) -> EpisodeResult:
    """Accuracy over random episodes of the site's examples.

    Args:
        run: A finished run that had a few-shot stage.
        site: Folder with a site.toml.
        classes: Names of the classes there; the study's when None.
        method: Kind of head.
        n_way: Classes in an episode.
        n_shot: Support examples of each class.
        n_query: Query examples of each class.
        episodes: How many.

    Raises:
        RunError: If the run has no whitening.
        ConfigError: If a class is named twice or is blank.
        FewShotError: If the site has too few classes or examples.
    """
    study, standardiser, whitening = _open(run, classes)
    workplace = Workplace(site, study)
    sums = EpisodeSums(
        method=method,
        n_way=n_way,
        n_shot=n_shot,
        n_query=n_query,
        episodes=episodes,
        seed=study.study.seed,
        whitening=whitening,
    )
    return sums.read(
        sums.measure(
            workplace.examples("all", standardiser=standardiser, tuned=read_tuned(run.path / "model"))
        )
    )


def compare(
    run: RunFolder,
    site: Path,
    *,
    classes: list[str] | None,
    methods: list[Method],
    n_way: int,
    n_shot: int,
    n_query: int,
    episodes: int,
) -> dict[str, Any]:
    """Methods on the same random episodes of the site's examples, and how far each is from the best.

    Each method is met whitened; beside them "ridge, not whitened" and, where the backbone reads texts,
    "ridge towards names". Arguments as `evaluate`.

    Returns:
        n_way, n_shot, episodes; "methods", each with accuracy, ci95, nll and ece; and "paired", the
        differences from the most accurate with their intervals.

    Raises:
        RunError: If the run has no whitening.
        FewShotError: If the site has too few classes or examples.
    """
    study, standardiser, whitening = _open(run, classes)
    workplace = Workplace(site, study)
    examples = workplace.examples("all", standardiser=standardiser, tuned=read_tuned(run.path / "model"))
    sampler = EpisodeSampler(examples.labels, n_way, n_shot, n_query, study.study.seed, site=workplace.name)
    white = whitening.transform(examples.features)
    scored = {name: run_episodes(FITS[name], white, sampler, n_episodes=episodes) for name in methods}
    found: dict[str, EpisodeReport] = {name: report(counted) for name, counted in scored.items()}
    plain = run_episodes(FITS["ridge"], examples.features, sampler, n_episodes=episodes)
    found["ridge, not whitened"] = report(plain)
    if (named := _named(study, standardiser)) is not None:
        weight = whitening.carried(named)
        found["ridge towards names"] = report(run_named_episodes(weight, white, sampler, n_episodes=episodes))
    rows = [
        {"method": name, "accuracy": each.mean, "ci95": each.ci95, "nll": each.nll, "ece": each.ece}
        for name, each in found.items()
    ]
    differences = [asdict(each) | {"settled": each.settled} for each in paired(found)]
    return {
        "n_way": n_way,
        "n_shot": n_shot,
        "n_query": n_query,
        "episodes": episodes,
        "site": workplace.name,
        "methods": rows,
        "paired": differences,
    }


def fit(
    run: RunFolder,
    site: Path,
    *,
    classes: list[str] | None,
    method: Method,
    out: Path,
    names: bool = False,
    keep_cases: bool = True,
    hold_out_test: bool = False,
) -> dict[str, Any]:
    """Fit a head on the labelled examples of a site, and save it to `out`.

    Args:
        run: A finished run that had a few-shot stage.
        site: Folder with a site.toml.
        classes: Names of the classes there; the study's when None.
        method: Kind of head.
        out: The file.
        names: Shrink the ridge towards what the texts that name the classes say.
        keep_cases: Keep the cases' features with the head, for prediction sets and "none of these".
        hold_out_test: Leave out the site's test examples, so that they can audit the head.

    Returns:
        The method, the number of examples of each class, and what they can promise.

    Raises:
        RunError: If the run has no whitening, or `out` cannot be written.
        FewShotError: If there are fewer than two classes, none of a class that was named, the run aligns
            features, or names are asked for where the backbone reads no text or the method is not ridge.
    """
    study, standardiser, whitening = _open(run, classes)
    if standardiser.colour is not None:
        raise FewShotError(
            f"run '{run.run_id}' aligns features (backbone.align), and a saved head reads them as they are; "
            'use foedus fewshot evaluate, or run the study with align = "none".'
        )
    workplace = Workplace(site, study)
    splits: tuple[Part, ...] = ("train", "validation") if hold_out_test else ("all",)
    support = workplace.examples(*splits, standardiser=standardiser, tuned=read_tuned(run.path / "model"))
    towards = _named(study, standardiser) if names else None
    if names and towards is None:
        raise FewShotError(f"backbone '{study.backbone.source}' reads no text; leave --names out")
    head = adapt(support, method, classes=study.study.classes, whitening=whitening, towards=towards)
    if absent := [name for name in classes or [] if name not in head.classes]:
        raise FewShotError(
            f"site '{workplace.name}' has no example of {', '.join(absent)}; add some, correct the name, or "
            "leave it out of --classes."
        )
    promises = head.guarantees.to_dict()
    if not keep_cases:
        head = replace(head, support=None)
    head.unstandardised(standardiser.mean, standardiser.scale).save(out)
    return {
        "method": method,
        "examples": dict(zip(head.classes, head.cases, strict=True)),
        "out": str(out),
        "keeps_cases": keep_cases,
        "guarantees": promises,
    }


def _named(study: Study, standardiser: Standardiser) -> NDArray[np.float32] | None:
    """(n_classes, d), weights of standardised features that the classes' texts give, if the backbone reads texts."""
    raw = registry.zero_shot(study.backbone, study.table, study.study.texts)
    return None if raw is None else on_standardised(raw, standardiser).weight


def of_classes(study: Study, classes: list[str]) -> Study:
    """The study with other classes; itself where they are its own.

    Raises:
        ConfigError: If one is named twice or is blank.
    """
    if classes == study.study.classes:
        return study
    values = {**study.study.model_dump(), "classes": classes, "class_texts": None, "positive": None}
    return study.model_copy(update={"study": validate(Identity, values, source="--classes")})


def _open(run: RunFolder, classes: list[str] | None) -> tuple[Study, Standardiser, Whitening]:
    if run.study().multilabel:
        raise RunError(f"run '{run.run_id}' is multilabel; few-shot heads take one class a record.")
    if not (run.path / WHITENING_FILE).exists():
        raise RunError(
            f"run '{run.run_id}' has no few-shot stage; add [fewshot] to its study and run it again."
        )
    study = run.study()
    if classes is not None:
        study = of_classes(study, classes)
    standardiser = Standardiser.from_arrays(files.read_arrays(run.path / HEAD_FILE))
    return study, standardiser, Whitening.from_arrays(files.read_arrays(run.path / WHITENING_FILE))
