"""Results of benchmarks/heterogeneity.py as JSON, and as the tables of docs/heterogeneity.md."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESULTS = Path(__file__).parent / "results"
SHOWN_ROUNDS = (0, 1, 3, 10, 40)
PAIRS = (("ridge start, FedAvg", "FedAvg"), ("SCAFFOLD", "FedAvg"))
"""Methods whose difference in accuracy is shown, paired by division."""


def keep(file: str, part: str, found: dict[str, Any], machine: dict[str, Any]) -> None:
    """Put `found` into benchmarks/results/FILE.json under `part`; the other parts stay."""
    path = RESULTS / f"{file}.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**known, part: {**machine, **found}}, indent=1) + "\n", encoding="utf-8")


def show() -> None:
    """Print what is kept."""
    for file, print_part in (("heart", _hospitals), ("label-skew", _skew)):
        path = RESULTS / f"{file}.json"
        for part, found in (json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}).items():
            print(f"\n{file}: {part}, {len(found['seeds'])} seeds, {found['cpu_s']} CPU-s")
            print_part(found)


def _hospitals(found: dict[str, Any]) -> None:
    methods = found["methods"]
    first = methods["FedAvg"]
    sites = list(first["sites"])
    for metric in ("accuracy", "auc"):
        print(f"\n| {metric} | all | " + " | ".join(sites) + " |\n|" + "---|" * (len(sites) + 2))
        for kind in ("local", "pooled"):
            _row(kind, first["models"][kind], [first["sites"][s][kind] for s in sites], metric)
        for name, row in methods.items():
            _row(name, row["models"]["federated"], [row["sites"][s]["federated"] for s in sites], metric)
            _row(
                "… own head", row["models"]["personal"], [row["sites"][s]["personal"] for s in sites], metric
            )
            if "ditto" in row:
                _row("… Ditto", row["ditto"], [row["ditto_sites"][s] for s in sites], metric)
    for kind in ("head", "best", "ditto"):
        print(
            f"\n| {kind} minus local | " + " | ".join(["all", *sites]) + " |\n|" + "---|" * (len(sites) + 2)
        )
        for name, row in methods.items():
            for metric in ("accuracy", "log_loss"):
                gaps = row.get(f"{kind}_minus_local")
                if gaps:
                    print(
                        f"| {name}, {metric} | "
                        + " | ".join(_gap(gaps[s][metric]) for s in ["all", *sites])
                        + " |"
                    )


def _row(name: str, overall: dict[str, Any], sites: list[dict[str, Any]], metric: str) -> None:
    print(f"| {name} | " + " | ".join(_spread(row[metric]) for row in [overall, *sites]) + " |")


def _spread(value: dict[str, Any]) -> str:
    if value["mean"] is None:
        return "–"
    return f"{value['mean']:.3f}" + (f" ± {value['sd']:.3f}" if value["sd"] is not None else "")


def _gap(value: dict[str, Any]) -> str:
    if value["mean"] is None:
        return "–"
    error = (value["sd"] or 0) / value["seeds"] ** 0.5
    return f"{value['mean']:+.3f} ± {error:.3f} ({value['not_worse']}/{value['seeds']})"


def _error(gaps: NDArray[np.float64]) -> str:
    """Mean of paired differences and its standard error."""
    error = gaps.std(ddof=1) / np.sqrt(len(gaps)) if len(gaps) > 1 else np.nan
    return f"{gaps.mean():+.3f} ± {error:.3f}"


def _skew(found: dict[str, Any]) -> None:
    for epochs, methods in found["epochs"].items():
        print(f"\n| local epochs: {epochs} | " + " | ".join(f"{n} rounds" for n in SHOWN_ROUNDS) + " |")
        print("|" + "---|" * (len(SHOWN_ROUNDS) + 1))
        for name, row in methods.items():
            cells = [
                _spread({"mean": row["accuracy"][n], "sd": row["sd"][n] if row["sd"] else None})
                for n in SHOWN_ROUNDS
            ]
            print(f"| {name} | " + " | ".join(cells) + " |")
        for first, second in PAIRS:
            gaps = np.array(methods[first]["by_seed"]) - np.array(methods[second]["by_seed"])
            print(f"| {first} - {second} | " + " | ".join(_error(gaps[:, n]) for n in SHOWN_ROUNDS) + " |")
        for name, row in methods.items():
            for below, numbers in row["rounds_to_ridge"].items():
                print(f"rounds of {name} to the ridge start's first round less {below}: {numbers}")
    for kind, row in found["personal"].items():
        print(f"{kind} over all sites' own test pictures: {_spread(row['accuracy'])}")
    print(f"own head minus local: {_gap(found['head_minus_local']['all']['accuracy'])}")
