"""foedus demo: the whole pipeline on real data."""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from foedus.cli.output import JsonOption, console, number, print_json, progress
from foedus.cli.studies import RUNS, Runs, show_summary, summary

DEFAULT = ("cheques", "heart")
SPREAD = {"heart": 10}
"""Demos small enough to repeat over several splits, so that the spread is seen."""
HELD_OUT = ("heart",)


def demo(
    name: Annotated[
        str | None,
        typer.Argument(help="cheques, heart, newswire, mortgage or glyphs; the first two when not given."),
    ] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="Repeat over so many splits.")] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="First download the data this demo needs.")] = False,
    data: Annotated[Path, typer.Option("--data", help="Where the sites' folders are written.")] = Path(
        "demo-data"
    ),
    runs: Runs = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Run the whole pipeline on real data: federate, adapt, audit.

    Example: foedus demo heart --seeds 10 --json
    """
    from foedus.config import nearest
    from foedus.demos import DEMOS
    from foedus.demos import fetch as fetch_data
    from foedus.errors import ConfigError

    if name is not None and name not in DEMOS:
        raise ConfigError("demo", [f"there is no demo '{name}'; {nearest(name, list(DEMOS))}"])
    names = DEFAULT if name is None else (name,)
    if fetch:
        for one in names:
            fetch_data(one)
    found = {
        one: _run(one, data=data, runs=runs, seeds=seeds or SPREAD.get(one, 1), quiet=as_json)
        for one in names
    }
    if as_json:
        print_json(found if name is None else found[name])
        return
    for one in names:
        console.rule(f"{one}: {DEMOS[one].summary}", align="left")
        show_summary(found[one])
        if found[one]["spread"]:
            console.print(_spread_table(found[one]["spread"]))


def _run(name: str, *, data: Path, runs: Path, seeds: int, quiet: bool) -> dict[str, Any]:
    from foedus import simulation
    from foedus.demos import prepare

    prepared = prepare(name, data)
    with progress(name) as shown:
        run, _ = simulation.simulate(
            prepared.study_path, prepared.sites_path, runs=runs, held_out=name in HELD_OUT, stage=shown
        )
    found = summary(run.path)
    return {**found, "spread": _spread(name, seeds, found) if seeds > 1 else None}


def _spread(name: str, seeds: int, first: dict[str, Any]) -> dict[str, Any]:
    """The same study over other splits of the same data: every figure's mean and spread."""
    from foedus import simulation
    from foedus.demos import prepare

    repeats = [first]
    for seed in range(1, seeds):
        with tempfile.TemporaryDirectory() as scratch:
            prepared = prepare(name, Path(scratch), seed=seed)
            run, _ = simulation.simulate(
                prepared.study_path,
                prepared.sites_path,
                runs=Path(scratch) / "runs",
                held_out=name in HELD_OUT,
            )
            repeats.append(summary(run.path))
    return summarise(repeats)


def summarise(repeats: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over repeats: models over all test examples, each site, held out, largest gaps."""
    kinds = ("pooled", "federated", "personal", "local")
    models = {
        kind: {
            m: _mean_and_sd([r["results"]["models"][kind][m] for r in repeats]) for m in ("accuracy", "auc")
        }
        for kind in kinds
        if repeats[0]["results"]["models"].get(kind)
    }
    sites = {
        site["site"]: {
            kind: {
                m: _mean_and_sd([_site(r, site["site"])[kind][m] for r in repeats])
                for m in ("accuracy", "auc")
            }
            for kind in models
            if site.get(kind)
        }
        for site in repeats[0]["results"]["sites"]
    }
    held_out = {
        row["site"]: {
            m: _mean_and_sd([_held_out(r, row["site"])[m] for r in repeats]) for m in ("accuracy", "auc")
        }
        for row in repeats[0]["results"]["held_out"] or []
    }
    return {
        "seeds": len(repeats),
        "models": models,
        "sites": sites,
        "held_out": held_out,
        "gates": _gates(repeats),
    }


def _site(repeat: dict[str, Any], name: str) -> dict[str, Any]:
    return next(site for site in repeat["results"]["sites"] if site["site"] == name)


def _held_out(repeat: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in repeat["results"]["held_out"] if row["site"] == name)


def _gates(repeats: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not repeats[0]["audit"]:
        return []
    rows = []
    for index, gate in enumerate(repeats[0]["audit"]["gates"]):
        found = [r["audit"]["gates"][index] for r in repeats]
        rows.append(
            {
                "metric": gate["metric"],
                "attribute": gate["attribute"],
                "value": _mean_and_sd([g["found"]["value"] for g in found]),
                "verdicts": [g["verdict"] for g in found],
            }
        )
    return rows


def _mean_and_sd(values: list[float | None]) -> dict[str, float | None]:
    known = [value for value in values if value is not None]
    if not known:
        return {"mean": None, "sd": None}
    return {"mean": float(np.mean(known)), "sd": float(np.std(known, ddof=1)) if len(known) > 1 else None}


def _spread_table(spread: dict[str, Any]) -> Table:
    kinds = list(spread["models"])
    table = Table(
        "over " + str(spread["seeds"]) + " splits",
        *kinds,
        title="mean ± sd: accuracy / AUC",
        title_justify="left",
    )
    rows = {"all test examples": spread["models"], **spread["sites"]}
    for name, row in rows.items():
        table.add_row(name, *(_cell(row.get(kind)) for kind in kinds))
    for name, row in spread["held_out"].items():
        table.add_row(f"trained without {name}", "", _cell(row))
    return table


def _cell(found: dict[str, Any] | None) -> str:
    if not found:
        return "–"
    parts = []
    for metric in ("accuracy", "auc"):
        value = found[metric]
        sd = "" if value["sd"] is None else f"±{value['sd']:.3f}"
        parts.append(f"{number(value['mean'])}{sd}")
    return " / ".join(parts)
