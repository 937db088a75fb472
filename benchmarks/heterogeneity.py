"""Sites that differ: which method helps, measured with whole studies on real data.

    python benchmarks/heterogeneity.py heart [--seeds 10] [--first 0]  four hospitals of the heart demo
    python benchmarks/heterogeneity.py flamby [--seeds 5]           FLamby's 740 patients, training and test
    python benchmarks/heterogeneity.py skew [--seeds 5] [--fashion FOLDER]
                                                                     pictures, ten sites, Dirichlet(0.1)
    python benchmarks/heterogeneity.py show                          the tables of the last results

Learning rates and a strategy's own settings come from a small grid, by federated validation loss, in
each seed anew; so do the round (five without a lower loss end a study), and Ditto's pull by the sites'
own validation. Test figures choose nothing. `heart` draws other test patients with each seed; `flamby`
keeps its test patients, and a seed draws validation patients and the order of steps; `skew` draws the
division and the test pictures. `--fashion` names the folder with Fashion-MNIST's .gz files (Debian:
dataset-fashion-mnist). A run that is stopped leaves the seeds it finished.
Run it with OMP_NUM_THREADS=1 and GOMP_SPINCOUNT=0. Results go to benchmarks/results/heart.json and label-skew.json.
"""

import argparse
import logging
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import heterogeneity_sites as places
import heterogeneity_skew as skew
import heterogeneity_tables as tables
import numpy as np
import sklearn
from heterogeneity_studies import chosen, differences, enlisted, grid, rounds, whole

from clients.report import score
from clients.rounds import own_model
from clients.workplace import open_workplace
from foedus import __version__, demos
from foedus.cli.demo import summarise
from foedus.rewriting import with_values, without_section
from foedus.site import find_sites
from server.federation import Federation

LRS, PULLS = (0.02, 0.05, 0.2), (0.01, 0.1, 1.0)
LENGTH = {"federation.rounds": 20, "federation.patience": 5}


def own_validation_loss(federation: Federation, sites: Path) -> float:
    """Mean loss of each site's own Ditto model on its own validation examples."""
    losses, count = 0.0, 0
    for folder in find_sites(sites):
        site = open_workplace(folder, federation.study.to_json())
        own = own_model(site, federation.run_id)
        examples = site.examples("validation", standardiser=federation.standardiser)
        if own is not None and len(examples):
            losses += len(examples) * float(score(own.head, examples)["log_loss"] or 0.0)
            count += len(examples)
    return losses / count


def with_ditto(study: str, sites: Path) -> tuple[float, dict[str, Any]]:
    """Ditto's pull and the results with it, chosen by the sites' own validation."""
    found = []
    for pull in PULLS:
        text = with_values(study, {"backbone.personal": "ditto", "federation.ditto_lambda": pull})
        federation = enlisted(text, sites)
        rounds(federation)
        found.append((own_validation_loss(federation, sites), pull, text))
    _, pull, text = min(found)
    return pull, whole(text, sites).results


METHODS = {
    "FedAvg from zero": ("fedavg", "zero", "none"),
    "FedAvg": ("fedavg", "ridge", "none"),
    "FedProx": ("fedprox", "ridge", "none"),
    "FedAdam": ("fedadam", "ridge", "none"),
    "FedYogi": ("fedyogi", "ridge", "none"),
    "SCAFFOLD": ("scaffold", "ridge", "none"),
    "CORAL, FedAvg": ("fedavg", "ridge", "coral"),
}
"""Name to strategy, start and alignment."""
WITH_DITTO = ("FedAvg from zero", "FedAvg")
"""Ditto takes its place beside these, as do heads chosen by each site; the others would only move the shared model."""


def hospitals(study: str, sites: Path) -> dict[str, Any]:
    """Every method on one split: its settings, its results with own heads, with chosen ones, and with Ditto."""
    found: dict[str, Any] = {}
    for name, (strategy, start, align) in METHODS.items():
        study = with_values(study, {"backbone.personal": "head", "backbone.align": align, **LENGTH})
        settings = chosen(study, sites, grid(strategy, start, lrs=LRS))
        text = with_values(study, settings)
        results = whole(text, sites, reference=name == "FedAvg").results
        found[name] = {"settings": settings, "head": results}
        if name in WITH_DITTO:
            pull, ditto = with_ditto(text, sites)
            best = whole(with_values(text, {"backbone.personal": "best"}), sites).results
            found[name] |= {"ditto": ditto, "ditto_lambda": pull, "best": best}
    open_workplace.cache_clear()
    return found


def heart_repeat(which: str, seed: int) -> dict[str, Any]:
    """Every method on the hospitals' own split ("heart") or on FLamby's ("flamby")."""
    with tempfile.TemporaryDirectory() as scratch:
        prepared = demos.prepare("heart", Path(scratch), seed=seed)
        study = without_section(prepared.study_path.read_text(encoding="utf-8"), "fairness")
        sites = prepared.sites_path
        if which == "flamby":
            sites = places.write_flamby(Path(scratch) / "flamby", seed=seed)
            study = places.flamby_study(study)
        return hospitals(study, sites)


def summary(repeats: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and spread of every method; settings chosen; differences to local, paired by seed."""
    methods = {}
    for name in METHODS:
        head = summarise([{"results": r[name]["head"], "audit": None} for r in repeats])
        methods[name] = {
            "settings": [r[name]["settings"] for r in repeats],
            "best_rounds": [r[name]["head"]["best_round"] for r in repeats],
            "models": head["models"],
            "sites": head["sites"],
            "by_seed": _by_seed([r[name]["head"] for r in repeats]),
            "head_minus_local": differences([r[name]["head"] for r in repeats]),
        }
        if "ditto" in repeats[0][name]:
            ditto = summarise([{"results": r[name]["ditto"], "audit": None} for r in repeats])
            methods[name] |= {
                "ditto": ditto["models"]["personal"],
                "ditto_sites": {site: row["personal"] for site, row in ditto["sites"].items()},
                "ditto_lambda": [r[name]["ditto_lambda"] for r in repeats],
                "ditto_minus_local": differences([r[name]["ditto"] for r in repeats]),
                "best_minus_local": differences([r[name]["best"] for r in repeats]),
            }
    return methods


def _by_seed(results: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Accuracy on all test examples in each seed."""
    kinds = [kind for kind in ("local", "pooled", "federated", "personal") if results[0]["models"].get(kind)]
    return {kind: [round(float(r["models"][kind]["accuracy"]), 4) for r in results] for kind in kinds}


def main() -> None:
    """Measure, write the results, and print their tables."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["heart", "flamby", "skew", "show"])
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--first", type=int, default=0, help="first seed; others than 0 are kept apart")
    parser.add_argument("--fashion", type=Path)
    asked = parser.parse_args()
    begun = time.process_time()
    if asked.what in ("heart", "flamby"):
        seeds = asked.seeds or {"heart": 10, "flamby": 5}[asked.what]
        part = asked.what + (f" from {asked.first}" if asked.first else "")
        every = range(asked.first, asked.first + seeds)
        for found in _growing(heart_repeat(asked.what, seed) for seed in every):
            tables.keep("heart", part, {"methods": summary(found)}, _machine(every[: len(found)], begun))
    if asked.what == "skew":
        seeds = asked.seeds or 5
        sets = {"digits": places.digits()} | (
            {"fashion": places.fashion(asked.fashion)} if asked.fashion else {}
        )
        for name, images in sets.items():
            begun = time.process_time()
            for found in _growing(skew.skewed(images, seed=seed) for seed in range(seeds)):
                tables.keep("label-skew", name, skew.summary(found), _machine(range(len(found)), begun))
    tables.show()


def _growing(repeats: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """All repeats so far, after each one: a run that is stopped leaves what it found."""
    found = []
    for number, repeat in enumerate(repeats):
        print(f"seed {number} done", flush=True)
        found.append(repeat)
        yield found


def _machine(seeds: range, begun: float) -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "foedus": __version__,
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
        "seeds": list(seeds),
        "cpu_s": round(time.process_time() - begun),
    }


if __name__ == "__main__":
    main()
