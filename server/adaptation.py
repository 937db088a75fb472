"""The few-shot stage: what sites that never took part can do with a handful of labelled examples."""

from dataclasses import asdict
from typing import Any

from fewshot.episode_sums import EpisodeResult, EpisodeSums
from fewshot.ridge import RidgeSums
from fewshot.start_sums import WAYS, StartSums
from fewshot.whitening import Whitening
from foedus.backbones import describe
from foedus.errors import RoundError
from foedus.head import LinearHead
from foedus.meta import MetaSection
from foedus.study import FewShotSection, Method
from server.federation import Federation


def learn_whitening(federation: Federation) -> Whitening:
    """Within-class whitening from one round of sums over the classes that are not novel."""
    study = federation.study
    novel = set(study.fewshot.novel_classes) if study.fewshot else set()
    base = tuple(i for i, name in enumerate(study.study.classes) if name not in novel)
    dim = describe(study.backbone, study.table).dim
    sums = RidgeSums(n_classes=study.n_classes, dim=dim, classes=base if novel else ())
    return Whitening.from_totals(federation.ask(sums, split="train", what="learning the whitening"))


def evaluate_fewshot(federation: Federation, whitening: Whitening, head: LinearHead) -> dict[str, Any] | None:
    """Accuracy over episodes for every method, and the curves against shots and ways; None if not asked for.

    And, where new sites meet classes that the study knows, what its own head is worth there ("start").

    Sites named in new_sites hold the episodes, on all their examples; without any, the
    training sites do, on their test examples.

    Raises:
        RoundError: If too few sites have the classes and examples that the episodes need.
    """
    wanted = federation.study.fewshot
    if wanted is None:
        return None
    curve = [
        _episodes(federation, whitening, wanted, method, n_way=wanted.n_way, n_shot=n_shot)
        for method in wanted.methods
        for n_shot in wanted.shots
    ]
    final = [result for result in curve if result.n_shot == wanted.n_shot]
    fewer = [
        _episodes(federation, whitening, wanted, method, n_way=n_way, n_shot=wanted.n_shot)
        for method in wanted.methods
        for n_way in wanted.ways[:-1]
    ]
    return {
        "n_way": wanted.n_way,
        "n_shot": wanted.n_shot,
        "n_query": wanted.n_query,
        "sites": sorted(federation.newcomers.values() or federation.cohort.values()),
        "novel_classes": wanted.novel_classes,
        "methods": [asdict(result) for result in final],
        "curve": [asdict(result) for result in curve],
        "ways": [asdict(result) for result in (*fewer, *final)],
        "start": _start(federation, wanted, head),
    }


def _start(federation: Federation, wanted: FewShotSection, head: LinearHead) -> list[dict[str, Any]]:
    """Every way a new site can use the shared head, on the same episodes; nothing without new sites.

    Novel classes have no row in the head that has learnt anything, so with any named there is nothing either.
    """
    meta = federation.study.meta
    if not federation.newcomers or wanted.novel_classes:
        return []
    found = []
    for way in WAYS:
        if way == "stepped" and meta is None:
            continue
        sums = StartSums(
            head,
            way,
            n_way=wanted.n_way,
            n_shot=wanted.n_shot,
            n_query=wanted.n_query,
            episodes=wanted.episodes,
            seed=federation.study.study.seed,
            n_steps=(meta or MetaSection()).inner_steps,
            inner_lr=(meta or MetaSection()).inner_lr,
        )
        found.append(federation.ask(sums, split="all", newcomers=True, what=f"episodes of the start ({way})"))
    return [asdict(result) for result in found]


def _episodes(
    federation: Federation,
    whitening: Whitening,
    wanted: FewShotSection,
    method: Method,
    *,
    n_way: int,
    n_shot: int,
) -> EpisodeResult:
    classes = federation.study.study.classes
    sums = EpisodeSums(
        method=method,
        n_way=n_way,
        n_shot=n_shot,
        n_query=wanted.n_query,
        episodes=wanted.episodes,
        seed=federation.study.study.seed,
        classes=tuple(classes.index(name) for name in wanted.novel_classes),
        whitening=whitening,
    )
    newcomers = bool(federation.newcomers)
    split = "all" if newcomers else "test"
    what = f"{n_way}-way {n_shot}-shot episodes ({method})"
    try:
        return federation.ask(sums, split=split, newcomers=newcomers, what=what)
    except RoundError as error:
        examples = "examples" if newcomers else "test examples"
        raise RoundError(
            f"{error} A site needs {n_way} classes with {n_shot + wanted.n_query} {examples} each for "
            "these; a new run can ask for less in fewshot.n_way, n_shot, n_query and curve_shots."
        ) from error
