"""`foedus backbones rank`: candidate backbones on the sites' own data, from sums alone."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

from clients.app import app as client_app
from clients.workplace import Workplace, open_workplace
from foedus.backbones import describe, open_backbone
from foedus.backbones.cost import seconds_per_example, trunk_size
from foedus.backbones.spec import BackboneSpec
from foedus.errors import ConfigError, FoedusError
from foedus.planning import forecast
from foedus.simulation import enrol
from foedus.site import find_sites, load_site
from foedus.study import BackboneSection, Study, TuningSection, load_study, study_from_json
from server.federation import Federation
from server.local_grid import LocalGrid
from server.ranking import Scores, score

log = logging.getLogger(__name__)

RUN = "ranking"
TIMED = 64
"""Records embedded to measure the speed."""
LITE0 = "bundled:efficientnet-lite0"
CANDIDATES = {
    "images": [f"{LITE0}@{tap}" for tap in ("blocks.2@4x4", "blocks.3@4x4", "blocks.4@2x2", "blocks.4@4x4", "head")],
    "text": ["bundled:minilm-l6"],
    "table": [],
}  # fmt: skip
"""By the kind of data at the sites, beside the study's own."""
Tell = Callable[[int, int, str], None]
"""Called with how many candidates are done, how many there are, and the next one's name."""


@dataclass(frozen=True)
class Row:
    """One candidate. Figures are None where `problem` says why.

    Attributes:
        source, tap: As they stand in a study.
        dim: Features.
        own: Whether it is the study's own.
        problem: Why it could not be scored, or None.
        sites: Sites behind the figures.
        n_train, n_validation, accuracy, accuracy_error, log_loss, logme, h_score: See `Scores`.
        seconds_per_1000: To read and embed a thousand records on this machine.
        parameters, size_bytes: Of the network, up to its tap.
        round_bytes_down, round_bytes_up: Of a round of this study, to and from one site.
        shift: Distance between sites, what chance alone gives, and whether it is large.
        notes: Warnings in words.
    """

    source: str
    tap: str | None
    own: bool = False
    problem: str | None = None
    dim: int | None = None
    sites: int = 0
    n_train: int | None = None
    n_validation: int | None = None
    accuracy: float | None = None
    accuracy_error: float | None = None
    log_loss: float | None = None
    logme: float | None = None
    h_score: float | None = None
    seconds_per_1000: float | None = None
    parameters: int | None = None
    size_bytes: int | None = None
    round_bytes_down: int | None = None
    round_bytes_up: int | None = None
    shift: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)


def rank(
    study_file: Path, sites: Path, *, candidates: Sequence[str] = (), tell: Tell | None = None
) -> list[Row]:
    """Every candidate's row, best first; one that cannot be scored stands last, with its reason.

    Args:
        study_file: The study.toml.
        sites: A folder with one sub-folder a site.
        candidates: More of them, as SOURCE or SOURCE@TAP.
        tell: Told of progress.

    Raises:
        ConfigError: If the study is not valid, private or multilabel, or there is no site.
    """
    study = load_study(study_file)
    _require_rankable(study)
    folders = [f for f in find_sites(sites) if load_site(f).site.name not in study.newcomers]
    kind = load_site(folders[0]).data.kind
    sections = [study.backbone, *(parse_candidate(name, study) for name in [*CANDIDATES[kind], *candidates])]
    if study.door.masked:
        enrol(folders, study)
    sections = _distinct(sections, study)
    rows = []
    for place, section in enumerate(sections):
        if tell is not None:
            tell(place, len(sections), _name(section))
        rows.append(_row(study, section, folders, own=place == 0))
    return sorted(rows, key=_order)


def parse_candidate(text: str, study: Study) -> BackboneSection:
    """SOURCE or SOURCE@TAP: the first @ starts the tap.

    The study's own source keeps the study's image size and text length; others have their defaults.
    """
    source, _, tap = text.partition("@")
    kept = study.backbone if source == study.backbone.source else BackboneSection()
    return BackboneSection(
        source=source, tap=tap or None, image_size=kept.image_size, max_tokens=kept.max_tokens
    )


def _require_rankable(study: Study) -> None:
    if study.multilabel:
        problem = "LogME and H-score take one class a record; rank with a study of one of the labels"
        raise ConfigError("backbones rank", [problem])
    if study.door.private:
        problem = (
            f'door.mode is "{study.door.mode}": each candidate would spend privacy budget at every site. Rank in a '
            'pilot with mode = "secure-only" or "open" on data that may be used so, then set the backbone here'
        )
        raise ConfigError("backbones rank", [problem])


def _distinct(sections: Sequence[BackboneSection], study: Study) -> list[BackboneSection]:
    """The first of those that give the same features."""
    kept: dict[str, BackboneSection] = {}
    for section in sections:
        try:
            key = describe(section, study.table).digest
        except FoedusError:  # its row will say why
            key = _name(section)
        kept.setdefault(key, section)
    return list(kept.values())


def _row(study: Study, section: BackboneSection, folders: Sequence[Path], *, own: bool) -> Row:
    row = Row(section.source, section.tap, own=own)
    try:
        spec = describe(section, study.table)
        asked = _asking(study, section)
        federation = Federation.enlist(LocalGrid(client_app, folders), asked, RUN)
        return _scored(row, spec, federation, score(federation), folders)
    except FoedusError as error:
        return replace(row, problem=str(error))
    finally:
        open_workplace.cache_clear()  # one candidate's features in memory at a time


def _asking(study: Study, section: BackboneSection) -> Study:
    """The study with another frozen backbone.

    Raises:
        ConfigError: If the two do not go together.
    """
    frozen = section.model_copy(
        update={"tune": "head", "personal": "none", "local_norms": False, "align": "none"}
    )
    fields = {"backbone": frozen, "tuning": TuningSection(), "fewshot": None, "fairness": None}
    return study_from_json(study.model_copy(update=fields).to_json())


def _scored(
    row: Row, spec: BackboneSpec, federation: Federation, scores: Scores, folders: Sequence[Path]
) -> Row:
    study = federation.study
    seconds, parameters, size_bytes = _cost(study, folders)
    wire, _ = forecast(study, spec.dim, sites=sorted(federation.cohort.values()))
    once = wire.round().once(masked=study.door.masked)
    shift = {**asdict(scores.shift), "large": scores.shift.large, "reference": None}
    return replace(
        row,
        tap=spec.tap if spec.modality == "image" else None,
        dim=spec.dim,
        sites=len(federation.cohort),
        n_train=scores.n_train,
        n_validation=scores.n_validation,
        accuracy=scores.accuracy,
        accuracy_error=scores.accuracy_error,
        log_loss=scores.log_loss,
        logme=scores.logme,
        h_score=scores.h_score,
        seconds_per_1000=1000 * seconds,
        parameters=parameters,
        size_bytes=size_bytes,
        round_bytes_down=once.down,
        round_bytes_up=once.up,
        shift=shift,
        notes=_notes(spec, federation, scores),
    )


def _cost(study: Study, folders: Sequence[Path]) -> tuple[float, int, int]:
    """Seconds a record, parameters and bytes, at the first site that takes part."""
    site = _first_open(study, folders)
    embedder = open_backbone(study.backbone, study.table, device=site.config.device)
    seconds, _ = seconds_per_example(embedder, site.data.inputs, at_most=TIMED)
    return seconds, *trunk_size(embedder)


def _first_open(study: Study, folders: Sequence[Path]) -> Workplace:
    for folder in folders[:-1]:
        try:
            return open_workplace(folder, study.to_json())
        except FoedusError as error:
            log.debug("%s is not timed: %s", folder.name, error)
    return open_workplace(folders[-1], study.to_json())


def _notes(spec: BackboneSpec, federation: Federation, scores: Scores) -> list[str]:
    notes = []
    if federation.refused:
        reasons = "; ".join(f"{site}: {reason}" for site, reason in sorted(federation.refused.items()))
        notes.append(f"without {len(federation.refused)} sites ({reasons})")
    if scores.accuracy is None:
        notes.append("no site has a validation example")
    if scores.n_train <= spec.dim:
        notes.append(f"{scores.n_train} examples for {spec.dim} features: the H-score says nothing")
    if scores.shift.large:
        deviations = scores.shift.squared**0.5
        notes.append(f"sites lie {deviations:.2f} deviations apart: look at each site's own figures")
    return notes


def _order(row: Row) -> tuple[bool, float, float, float]:
    """By accuracy, then log-loss, then LogME; what could not be scored last."""

    def low(value: float | None) -> float:
        return inf if value is None else value

    return (
        row.problem is not None,
        low(None if row.accuracy is None else -row.accuracy),
        low(row.log_loss),
        low(None if row.logme is None else -row.logme),
    )


def _name(section: BackboneSection) -> str:
    return section.source if section.tap is None else f"{section.source}@{section.tap}"
