"""`foedus simulate --plan`: what a study will send, compute, keep and give away, before it is launched."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from fairness.policy import Policy, load_policy
from foedus.backbones import describe, initial, open_backbone
from foedus.backbones.cost import seconds_per_example, trunk_size
from foedus.backbones.spec import BackboneSpec
from foedus.budget import plan, statement
from foedus.data import SiteData, load_site_data
from foedus.door import check_policy
from foedus.errors import DoorError, FoedusError, RoundError
from foedus.model import BACKBONE, Model
from foedus.privacy.accountant import epsilon
from foedus.secure.roster import MIN_SITES
from foedus.site import SiteConfig, allows_backbone, find_sites, load_site
from foedus.study import SPLITS, Study, load_study
from server.traffic import Exchange, Forecast

TIMED = 32
"""Records embedded to measure the speed."""
HALF, SINGLE, DOUBLE = 2, 4, 8
"""Bytes of a number: in the feature cache, as a feature at work, in a sum."""
GRAMS_AT_SITE, GRAMS_AT_COORDINATOR = 2, 6
"""Matrices of the size of XᵀX in memory at once while ridge sums are made, and while they are added and solved."""


@dataclass(frozen=True)
class SitePlan:
    """What a study asks of one site.

    Attributes:
        site: Its name, or its folder's where there is none.
        problem: Why it does not take part, or None.
        newcomer: Whether it only adapts the result.
        records: Records of each split; empty where there is a problem.
        embedding_s: Seconds of the one pass of the backbone, if none of it is cached yet.
        cache_bytes: What the features take on its disk.
        memory_bytes: Most it holds in memory for this study, beside Python and its libraries.
    """

    site: str
    problem: str | None
    newcomer: bool = False
    records: dict[str, int] | None = None
    embedding_s: float = 0.0
    cache_bytes: int = 0
    memory_bytes: int = 0


@dataclass(frozen=True)
class Plan:
    """A study before it runs; `to_json` gives all of it.

    Attributes:
        study: Its name.
        backbone: Source, tap, dim, parameters and size_bytes of its network.
        trained: Name to shape of every array that is trained.
        sites: One each.
        missing: Why the study cannot start, or None.
        exchanges: What each site is asked.
        masked: Whether the study's door masks.
        measured: How the seconds were found.
        coordinator_bytes: Most the coordinator holds in memory for this study.
        privacy: As results.json will state it.
    """

    study: str
    backbone: dict[str, Any]
    trained: dict[str, tuple[int, ...]]
    sites: list[SitePlan]
    missing: str | None
    exchanges: list[Exchange]
    masked: bool
    measured: str
    coordinator_bytes: int
    privacy: dict[str, Any]

    @property
    def n_trained(self) -> int:
        """Numbers that are trained."""
        return sum(prod(shape) for shape in self.trained.values())

    @property
    def training(self) -> list[SitePlan]:
        """The sites that train."""
        return [site for site in self.sites if site.problem is None and not site.newcomer]

    @property
    def round(self) -> Exchange:
        """One round of training."""
        return next(exchange for exchange in self.exchanges if exchange.what == "training round")

    @property
    def total_bytes(self) -> int:
        """Everything that crosses the wire between the coordinator and the sites that train."""
        each = [(e.times, e.once(masked=self.masked)) for e in self.exchanges]
        return len(self.training) * sum(times * (once.down + once.up) for times, once in each)

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain values."""
        totals = {
            "n_trained": self.n_trained,
            "n_exchanges": sum(exchange.times for exchange in self.exchanges),
            "total_bytes": self.total_bytes,
            "embedding_s": sum(site.embedding_s for site in self.sites),
        }
        return {**asdict(self), **totals}


def trainable(study: Study, dim: int) -> dict[str, tuple[int, ...]]:
    """Name to shape of every array that is trained, as they travel.

    Args:
        study: What is asked.
        dim: Length of a feature vector.
    """
    head = {"weight": (study.n_classes, dim), "bias": (study.n_classes,)}
    return head | {BACKBONE + name: value.shape for name, value in initial(study).items()}


def forecast(
    study: Study, dim: int, *, sites: Sequence[str], policy: Policy | None = None
) -> tuple[Forecast, dict[str, tuple[int, ...]]]:
    """What will be sent, and the shapes of what is trained.

    Args:
        study: What is asked.
        dim: Length of a feature vector.
        sites: Names of the sites that train.
        policy: The auditor's, if the study names one.
    """
    shapes = trainable(study, dim)
    model = Model.from_arrays({name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
    if study.federation.strategy == "scaffold":  # a control variate travels with every array
        model = replace(model, control=model.weights())
    return Forecast(study, model, dim, sites, policy), shapes


def estimate(study_file: Path, sites: Path) -> Plan:
    """The plan of a study on the site folders below `sites`; nothing is trained and nothing is kept.

    Raises:
        ConfigError: If the study or the policy is not valid, or there is no site.
        BackboneError: If the backbone is not on this machine.
        RoundError: If no site can take part.
    """
    study = load_study(study_file)
    policy = load_policy(study_file.parent / study.fairness.policy) if study.fairness else None
    spec = describe(study.backbone, study.table)
    opened, refused = _open(study, find_sites(sites))
    names = sorted(name for name in opened if name not in study.newcomers)
    if not names:
        reasons = "; ".join(f"{site.site}: {site.problem}" for site in refused) or "all sites are new_sites"
        raise RoundError(f"no site can take part. {reasons}. Mend the sites, then plan again.")
    seconds, measured, network = _measure(study, opened, names)
    plans = [_site_plan(study, spec, name, opened[name][1], seconds, network[1]) for name in sorted(opened)]
    forecasts, shapes = forecast(study, spec.dim, sites=names, policy=policy)
    return Plan(
        study=study.study.name,
        backbone={
            "source": spec.source,
            "tap": spec.tap,
            "dim": spec.dim,
            "parameters": network[0],
            "size_bytes": network[1],
        },
        trained=shapes,
        sites=[*plans, *refused],
        missing=_missing(study, names),
        exchanges=forecasts.exchanges(),
        masked=study.door.masked,
        measured=measured,
        coordinator_bytes=GRAMS_AT_COORDINATOR * DOUBLE * (spec.dim + 1) ** 2,
        privacy=statement(study),
    )


Opened = dict[str, tuple[SiteConfig, SiteData]]


def _open(study: Study, folders: Sequence[Path]) -> tuple[Opened, list[SitePlan]]:
    """The sites that can take part, by name, and the others with their reasons."""
    opened: Opened = {}
    refused = []
    for folder in folders:
        name = folder.name
        try:
            config = load_site(folder)
            name = config.site.name
            _require_permission(study, config, folder)
            if name in opened:
                raise DoorError("another folder already has this name; site names must differ")
            opened[name] = (config, load_site_data(folder, config, study))
        except FoedusError as error:
            refused.append(SitePlan(name, str(error)))
    return opened, refused


def _require_permission(study: Study, config: SiteConfig, folder: Path) -> None:
    check_policy(study, config.policy)
    if not allows_backbone(config.policy, study.backbone.source, folder=folder):
        raise DoorError(f"its policy lets no study load weights from where '{study.backbone.source}' lies")
    if study.door.private:
        cap, delta = config.policy.epsilon_cap, config.policy.delta
        costs = epsilon(plan(study).events, delta)
        if costs > cap:
            raise DoorError(
                f"its ledger's cap is epsilon {cap:g} at delta {delta:g}; the study spends {costs:.3g}"
            )


def _measure(study: Study, opened: Opened, names: Sequence[str]) -> tuple[float, str, tuple[int, int]]:
    """Seconds to embed one record, how that was found, and the network's parameters and bytes."""
    name = max(names, key=lambda each: len(opened[each][1]))
    config, data = opened[name]
    embedder = open_backbone(study.backbone, study.table, device=config.device)
    seconds, timed = seconds_per_example(embedder, data.inputs, at_most=TIMED)
    measured = f"{timed} records of site '{name}' read and embedded on this machine ({config.device})"
    return seconds, measured, trunk_size(embedder)


def _site_plan(
    study: Study, spec: BackboneSpec, name: str, data: SiteData, seconds: float, network_bytes: int
) -> SitePlan:
    """Features as they are and, while they are standardised, twice in double precision; the network; sums."""
    features = len(data) * spec.dim
    sums = 0 if study.door.private else GRAMS_AT_SITE * DOUBLE * (spec.dim + 1) ** 2
    return SitePlan(
        site=name,
        problem=None,
        newcomer=name in study.newcomers,
        records={split: len(data.rows(split)) for split in SPLITS},
        embedding_s=len(data) * seconds,
        cache_bytes=0 if spec.modality == "table" else HALF * features,
        memory_bytes=(SINGLE + 2 * DOUBLE) * features + network_bytes + sums,
    )


def _missing(study: Study, names: Sequence[str]) -> str | None:
    fewest = max(study.federation.min_sites, MIN_SITES if study.door.masked else 1)
    if len(names) >= fewest:
        return None
    return f"{len(names)} sites can take part, {fewest} are needed; mend the others or lower min_sites."
