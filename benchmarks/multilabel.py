"""Three findings at four hospitals, as one study of several labels: federated, personal, local and pooled, by seed.

python benchmarks/multilabel.py       # ten seeds, about a minute; prints the table of docs/study.md and keeps
                                      # benchmarks/results/multilabel.json
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from foedus import simulation
from foedus.demos.heart.findings import LABELS, write_sites

RESULTS = Path(__file__).parent / "results/multilabel.json"
KINDS = ("local", "federated", "personal", "pooled")
FIGURES = ("auc", "log_loss", "macro_f1", "micro_f1", "hamming_loss", "accuracy")
HIGHER = frozenset(FIGURES) - {"log_loss", "hamming_loss"}
STUDY = """
[study]
name = "findings"
task = "multilabel"
classes = {labels}
seed = {seed}
[backbone]
source = "tabular"
personal = "head"
[federation]
rounds = 10
lr = 0.02
batch_size = 32
[door]
mode = "open"
"""
NUMBERS = {"age": "", "trestbps": "missing = [0]", "chol": "missing = [0]"}
CATEGORIES = {
    "sex": ["Female", "Male"],
    "cp": ["asymptomatic", "atypical angina", "non-anginal", "typical angina"],
    "restecg": ["lv hypertrophy", "normal", "st-t abnormality"],
}


def study(seed: int) -> str:
    """study.toml: what is known at rest goes in."""
    lines = [STUDY.format(labels=json.dumps(LABELS), seed=seed)]
    for name, more in NUMBERS.items():
        lines.append(f'[[table.columns]]\nname = "{name}"\nkind = "number"\n{more}\n')
    for name, known in CATEGORIES.items():
        lines.append(
            f'[[table.columns]]\nname = "{name}"\nkind = "category"\ncategories = {json.dumps(known)}\n'
        )
    return "\n".join(lines)


def one(seed: int) -> dict[str, Any]:
    """The figures of one division of the patients: of all test patients, and the mean over the hospitals."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_sites(folder / "sites", seed=seed)
        (folder / "study.toml").write_text(study(seed), encoding="utf-8")
        _, outcome = simulation.simulate(folder / "study.toml", folder / "sites", runs=folder / "runs")
    parts = {"all": outcome.results["models"], "mean of hospitals": outcome.results["mean"]}
    return {
        where: {kind: {key: found[kind][key] for key in FIGURES} for kind in KINDS}
        for where, found in parts.items()
    }


def main() -> None:
    """Run, keep, and print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10)
    seeds = range(parser.parse_args().seeds)
    found = [one(seed) for seed in seeds]
    RESULTS.write_text(json.dumps({"seeds": len(found), "found": found}, indent=1) + "\n", encoding="utf-8")
    print(f"| | {' | '.join(FIGURES)} |\n|---|{'---|' * len(FIGURES)}")
    for where in found[0]:
        for kind in KINDS:
            cells = [_cell([each[where] for each in found], kind, key) for key in FIGURES]
            print(f"| {kind}, {where} | {' | '.join(cells)} |")


def _cell(found: list[dict[str, Any]], kind: str, key: str) -> str:
    """Mean over seeds and, beside the local heads', in how many seeds it is no worse."""
    values, local = (np.array([each[k][key] for each in found]) for k in (kind, "local"))
    not_worse = int((values >= local).sum() if key in HIGHER else (values <= local).sum())
    return f"{values.mean():.3f}" + ("" if kind == "local" else f" ({not_worse}/{len(found)})")


if __name__ == "__main__":
    main()
