"""Running studies for benchmarks/heterogeneity.py: settings by validation, whole studies, paired differences."""

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clients.app import app as client_app
from foedus import simulation
from foedus.rewriting import with_values
from foedus.runs import RunFolder
from foedus.site import find_sites
from foedus.study import parse_study
from server.app import Outcome
from server.federation import Federation
from server.local_grid import LocalGrid
from server.rounds import run_rounds
from server.start import begin

SERVER_LRS, PROXIMAL = (0.01, 0.03, 0.1), (0.1, 1.0)
_runs = itertools.count()


def grid(strategy: str, start: str, *, lrs: Sequence[float]) -> list[dict[str, Any]]:
    """Settings of a method that validation chooses from."""
    fixed = {"federation.strategy": strategy, "federation.start": start}
    extra: dict[str, Sequence[float]] = {
        "fedprox": {"federation.proximal_mu": PROXIMAL},
        "fedadam": {"federation.server_lr": SERVER_LRS},
        "fedyogi": {"federation.server_lr": SERVER_LRS},
    }.get(strategy, {})  # type: ignore[assignment]
    own_lrs = lrs[1:3] if "federation.server_lr" in extra else lrs
    axes = {"federation.lr": own_lrs, **extra}
    return [fixed | dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def enlisted(study: str, sites: Path) -> Federation:
    """The sites, ready for a study that leaves no run folder."""
    grid = LocalGrid(client_app, find_sites(sites))
    return Federation.enlist(grid, parse_study(study), f"grid-{next(_runs)}")


def rounds(federation: Federation) -> float:
    """Rounds alone: the lowest federated validation loss."""
    with tempfile.TemporaryDirectory() as scratch:
        return run_rounds(
            federation, begin(federation), RunFolder(Path(scratch)), lambda line: None
        ).best_loss


def chosen(study: str, sites: Path, among: list[dict[str, Any]]) -> dict[str, Any]:
    """The settings with the lowest validation loss."""
    if len(among) == 1:
        return among[0]
    return min(among, key=lambda values: rounds(enlisted(with_values(study, values), sites)))


def whole(study: str, sites: Path, *, reference: bool = False) -> Outcome:
    """The whole study, with reports and final figures."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "study.toml"
        file.write_text(study, encoding="utf-8")
        return simulation.simulate(file, sites, runs=Path(scratch) / "runs", reference=reference)[1]


def differences(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Personal minus local, for all test examples and at each site: mean, sd, and standard error over seeds."""
    found = {"all": _paired([r["models"] for r in results])}
    for index, site in enumerate(results[0]["sites"]):
        found[site["site"]] = _paired([r["sites"][index] for r in results])
    return found


def _paired(rows: list[dict[str, Any]]) -> dict[str, Any]:
    found = {}
    for metric in ("accuracy", "auc", "log_loss"):
        pairs = [(row["personal"][metric], row["local"][metric]) for row in rows]
        gaps = np.array([mine - alone for mine, alone in pairs if mine is not None and alone is not None])
        found[metric] = {
            "mean": float(gaps.mean()) if len(gaps) else None,
            "sd": float(gaps.std(ddof=1)) if len(gaps) > 1 else None,
            "seeds": len(gaps),
            "not_worse": int((gaps <= 0 if metric == "log_loss" else gaps >= 0).sum()),
        }
    return found
