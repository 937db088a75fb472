"""`foedus fewshot`: use a finished run's whitening at one site. Everything stays on this machine."""

from pathlib import Path
from typing import Any

from clients.workplace import Workplace
from fewshot.adapt import adapt
from fewshot.episode_sums import EpisodeResult, EpisodeSums
from fewshot.whitening import Whitening
from foedus import files
from foedus.backbones import Standardiser
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
    return sums.read(sums.measure(workplace.examples("all", standardiser=standardiser)))


def fit(
    run: RunFolder, site: Path, *, classes: list[str] | None, method: Method, out: Path
) -> dict[str, Any]:
    """Fit a head on all labelled examples of a site, and save it to `out`.

    Returns:
        The method, and the number of examples of each class.

    Raises:
        RunError: If the run has no whitening, or `out` cannot be written.
        FewShotError: If there are fewer than two classes, none of a class that was named, or the run
            aligns features.
    """
    study, standardiser, whitening = _open(run, classes)
    if standardiser.colour is not None:
        raise FewShotError(
            f"run '{run.run_id}' aligns features (backbone.align), and a saved head reads them as they are; "
            'use foedus fewshot evaluate, or run the study with align = "none".'
        )
    workplace = Workplace(site, study)
    support = workplace.examples("all", standardiser=standardiser)
    head = adapt(support, method, classes=study.study.classes, whitening=whitening)
    if absent := [name for name in classes or [] if name not in head.classes]:
        raise FewShotError(
            f"site '{workplace.name}' has no example of {', '.join(absent)}; add some, correct the name, or "
            "leave it out of --classes."
        )
    head.unstandardised(standardiser.mean, standardiser.scale).save(out)
    return {"method": method, "examples": dict(zip(head.classes, head.cases, strict=True)), "out": str(out)}


def _open(run: RunFolder, classes: list[str] | None) -> tuple[Study, Standardiser, Whitening]:
    if not (run.path / WHITENING_FILE).exists():
        raise RunError(
            f"run '{run.run_id}' has no few-shot stage; add [fewshot] to its study and run it again."
        )
    study = run.study()
    if classes is not None:
        values = {**study.study.model_dump(), "classes": classes, "class_texts": None, "positive": None}
        study = study.model_copy(update={"study": validate(Identity, values, source="--classes")})
    standardiser = Standardiser.from_arrays(files.read_arrays(run.path / HEAD_FILE))
    return study, standardiser, Whitening.from_arrays(files.read_arrays(run.path / WHITENING_FILE))
