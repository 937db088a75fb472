"""How often the audit's intervals and gates are right, in simulation; beside them what others use.

    python benchmarks/audit_coverage.py            # 20,000 runs a setting, half a minute
    python benchmarks/audit_coverage.py --runs 500 --out /tmp/coverage.json

Every run draws one count per group and decides as `fairness.gate` does. The intervals are
`fairness.infer`'s, vectorised over runs and checked against it on the first ones. Beside them:
the percentile bootstrap of the largest difference (what fairlearn's difference_ci does; resampling
rows is a binomial draw on the counts) and the four-fifths rule on the point estimate alone.

Truths. null: every group at the same rate. edge: half of the groups exactly at the tolerance from
the other half, the hardest place not to fail by chance. For coverage also a gap of 0.15.

Private audits: the noise is drawn as sites draw it, each its share of the discrete Gaussian.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairness.infer import Limits, largest_difference, limits, simultaneous_z, smallest_ratio, wilson
from fairness.tables import GroupTable
from foedus import noising
from foedus.privacy.accountant import calibrate
from foedus.privacy.noise import sigma_steps
from foedus.statistic import Quantity

Reals = NDArray[np.float64]
Ends = tuple[Reals, Reals]
SETTINGS = ((2, 200), (2, 1000), (5, 200), (5, 1000), (15, 200), (15, 1000))
"""Groups, and people in each (of those the rate is taken over)."""
RATE, TOLERANCE, GAP = 0.7, 0.05, 0.15
"""Differences: a true-positive rate, the gate's tolerance, and a gap that should be found."""
SELECTED, RATIO = 0.3, 0.8
"""Ratios: the highest group's selection rate, and the four fifths."""
ALPHA = 0.05
REPLICATES, BOOTSTRAP_RUNS = 300, 1000
CHECKED = 50
GOALS = {"coverage_null": 0.92, "false_fail_null": 0.01, "false_fail_edge": 0.035}
EPSILONS, DELTA, POSITIVES, RATES = (0.5, 1.0, 3.0), 1e-5, (20, 50, 200, 1000), (0.5, 0.7, 0.9)
"""Private audits: epsilon of the one noisy table, positives of a group, and its true-positive rate."""
HONEST, DRAWS = 3, 200_000
"""Sites that share the noise, and numbers drawn to compare its variance with theory."""
NOISE_GOALS = {"coverage": 0.93, "variance_off": 0.02}


def main() -> None:
    """Simulate every setting, print the table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/audit-coverage.json")
    options = parser.parse_args()
    begun = time.process_time()
    rows = [setting(g, n, runs=options.runs, seed=i) for i, (g, n) in enumerate(SETTINGS)]
    noisy = noise(options.runs)
    found = {
        "runs": options.runs,
        "bootstrap_runs": BOOTSTRAP_RUNS,
        "bootstrap_replicates": REPLICATES,
        "alpha": ALPHA,
        "rate": RATE,
        "tolerance": TOLERANCE,
        "selection_rate": SELECTED,
        "ratio": RATIO,
        "goals": GOALS,
        "missed": [*missed(rows), *missed_noise(noisy)],
        "cpu_s": round(time.process_time() - begun, 1),
        "settings": rows,
        "noise": noisy,
    }
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(markdown(rows))
    print(noise_markdown(noisy))
    print(f"\n{found['cpu_s']} CPU seconds; goals missed: {'; '.join(found['missed']) or 'none'}")


def setting(n_groups: int, n: int, *, runs: int, seed: int) -> dict[str, Any]:
    """Everything measured with so many groups of n people."""
    rng = np.random.default_rng([20, seed])
    null, edge, wide = (_halves(n_groups, RATE, RATE - gap) for gap in (0.0, TOLERANCE, GAP))
    equal, fifths = (_halves(n_groups, SELECTED, SELECTED * r) for r in (1.0, RATIO))
    draw: Callable[[Reals], NDArray[np.int64]] = lambda p: rng.binomial(n, p, (runs, n_groups))  # noqa: E731
    gaps = {name: differences(draw(p), n) for name, p in (("null", null), ("edge", edge), ("wide", wide))}
    counts = {"null": draw(equal), "edge": draw(fifths)}
    air = {name: ratios(found, n) for name, found in counts.items()}
    boot = {
        name: bootstrap(rng.binomial(n, p, (BOOTSTRAP_RUNS, n_groups)), n, rng)
        for name, p in (("null", null), ("edge", edge), ("wide", wide))
    }
    return {
        "groups": n_groups,
        "n": n,
        "difference": {
            "coverage_null": _covers(gaps["null"], 0.0),
            "coverage_edge": _covers(gaps["edge"], TOLERANCE),
            "coverage_wide": _covers(gaps["wide"], GAP),
            "false_fail_null": _share(gaps["null"][0] > TOLERANCE),
            "false_fail_edge": _share(gaps["edge"][0] > TOLERANCE),
            "false_pass_edge": _share(gaps["edge"][1] <= TOLERANCE),
            "fail_wide": _share(gaps["wide"][0] > TOLERANCE),
            "pass_null": _share(gaps["null"][1] <= TOLERANCE),
        },
        "ratio": {
            "coverage_null": _covers(air["null"], 1.0),
            "coverage_edge": _covers(air["edge"], RATIO),
            "false_fail_null": _share(air["null"][1] < RATIO),
            "false_fail_edge": _share(air["edge"][1] < RATIO),
            "false_pass_edge": _share(air["edge"][0] >= RATIO),
        },
        "bootstrap": {
            "coverage_null": _covers(boot["null"], 0.0),
            "coverage_edge": _covers(boot["edge"], TOLERANCE),
            "coverage_wide": _covers(boot["wide"], GAP),
            "false_fail_null": _share(boot["null"][0] > TOLERANCE),
            "false_fail_edge": _share(boot["edge"][0] > TOLERANCE),
        },
        "four_fifths": {
            "flags_null": _share(_quotient(counts["null"]) < RATIO),
            "flags_edge": _share(_quotient(counts["edge"]) < RATIO),
        },
    }


def differences(counts: NDArray[np.int64], n: int) -> Ends:
    """(runs,) ends of the interval of the largest difference; `infer.largest_difference`, vectorised.

    Args:
        counts: (runs, n_groups) successes of n people each.
    """
    value, low, high = _wilson(counts, n)
    up, down = high - value, value - low
    lower = np.full(len(counts), -np.inf)
    upper = np.full(len(counts), -np.inf)
    for i, j in _pairs(counts.shape[1]):
        gap = value[:, i] - value[:, j]
        lower = np.maximum(lower, gap - np.hypot(down[:, i], up[:, j]))
        upper = np.maximum(upper, gap + np.hypot(up[:, i], down[:, j]))
    found = np.maximum(lower, 0.0), np.minimum(upper, 1.0)
    _check(found, counts, n, largest_difference)
    return found


def ratios(counts: NDArray[np.int64], n: int) -> Ends:
    """(runs,) ends of the interval of the smallest ratio; `infer.smallest_ratio`, vectorised.

    Every count is above 0 here, so that all logarithms exist.
    """
    value, low, high = (np.log(part) for part in _wilson(counts, n))
    up, down = high - value, value - low
    lower = np.full(len(counts), np.inf)
    upper = np.full(len(counts), np.inf)
    for i, j in _pairs(counts.shape[1]):
        gap = value[:, i] - value[:, j]
        lower = np.minimum(lower, gap - np.hypot(down[:, i], up[:, j]))
        upper = np.minimum(upper, gap + np.hypot(up[:, i], down[:, j]))
    found = np.exp(lower), np.minimum(np.exp(upper), 1.0)
    _check(found, counts, n, smallest_ratio)
    return found


def bootstrap(counts: NDArray[np.int64], n: int, rng: np.random.Generator) -> Ends:
    """(runs,) percentiles of the largest difference over resampled rows."""
    low, high = np.empty(len(counts)), np.empty(len(counts))
    for start in range(0, len(counts), 100):
        part = counts[start : start + 100]
        again = rng.binomial(n, part[:, None, :] / n, (len(part), REPLICATES, part.shape[1])) / n
        gaps = again.max(axis=2) - again.min(axis=2)
        ends = np.quantile(gaps, (ALPHA / 2, 1 - ALPHA / 2), axis=1)
        low[start : start + 100], high[start : start + 100] = ends
    return low, high


def noise(runs: int) -> dict[str, Any]:
    """The variance of the noise that sites add over theory's, and coverage with and without knowing it.

    Theory adds up to 3 % to what is promised, for the grid that numbers are rounded to.
    """
    quantity = {"x": Quantity((DRAWS,), low=0.0, sensitivity=1.0)}
    rows, ratios_of, promised = [], {}, {}
    for epsilon in EPSILONS:
        multiplier = calibrate(epsilon, DELTA)
        [deviation] = noising.deviation(quantity, multiplier).values()
        shares = [
            noising.add_noise({"x": np.zeros(DRAWS)}, quantity, multiplier=multiplier, honest=HONEST)["x"]
            for _ in range(HONEST)
        ]
        total = np.sum(shares, axis=0)
        added = noising.declared(quantity, multiplier)["x"]
        sigma = sigma_steps(
            multiplier, sensitivity=1.0, resolution=added.resolution, size=DRAWS, honest=HONEST
        )
        theory = HONEST * (sigma * added.resolution) ** 2
        ratios_of[str(epsilon)] = round(float(total.var() / theory), 4)
        promised[str(epsilon)] = round(theory / deviation**2, 4)
        rng = np.random.default_rng(30)
        for positives in POSITIVES:
            for rate in RATES:
                hits = rng.binomial(positives, rate, runs)
                cells = np.zeros((runs, 2, 2))
                cells[:, 0] = 2 * positives
                cells[:, 1] = np.stack([positives - hits, hits], axis=1)
                seen = np.maximum(np.rint(cells + rng.choice(total, cells.shape)), 0).astype(np.int64)
                table = GroupTable(
                    "g",
                    ("",) * runs,
                    seen,
                    np.zeros((runs, 2, 2), np.int64),
                    np.full(runs, 3),
                    noise=deviation,
                )
                aware, naive = (
                    _share((found.low <= rate) & (found.high >= rate) | np.isnan(found.value))
                    for found in (
                        limits("tpr", replace(table, noise=sd), 1, z=1.959964) for sd in (deviation, 0.0)
                    )
                )
                rows.append(
                    {"epsilon": epsilon, "positives": positives, "rate": rate, "aware": aware, "naive": naive}
                )
    return {
        "delta": DELTA,
        "variance_over_theory": ratios_of,
        "theory_over_promise": promised,
        "goals": NOISE_GOALS,
        "coverage": rows,
    }


def missed_noise(found: dict[str, Any]) -> list[str]:
    """Goals that the noise does not meet."""
    off = {e: r for e, r in found["variance_over_theory"].items() if abs(r - 1) > NOISE_GOALS["variance_off"]}
    low = [row for row in found["coverage"] if row["aware"] < NOISE_GOALS["coverage"]]
    return [f"variance at epsilon {e} is {r} of theory" for e, r in off.items()] + [
        f"coverage {row}" for row in low
    ]


def noise_markdown(found: dict[str, Any]) -> str:
    """The table of private audits in docs/fairness.md."""
    lines = ["| ε | positives | coverage, noise known | noise ignored |", "|---|---|---|---|"]
    for epsilon in EPSILONS:
        for positives in POSITIVES:
            rows = [r for r in found["coverage"] if (r["epsilon"], r["positives"]) == (epsilon, positives)]
            aware, naive = (_cells(*(row[key] for row in rows)) for key in ("aware", "naive"))
            lines.append(f"| {epsilon:g} | {positives} | {aware} | {naive} |")
    return "\n".join([*lines, f"variance over theory: {found['variance_over_theory']}"])


def missed(rows: list[dict[str, Any]]) -> list[str]:
    """Goals that a setting does not meet."""
    found = []
    for row in rows:
        for kind in ("difference", "ratio"):
            for goal, limit in GOALS.items():
                value = row[kind][goal]
                if value < limit if goal.startswith("coverage") else value > limit:
                    found.append(f"{row['groups']} × {row['n']}, {kind}, {goal} {value:.4f} (goal {limit})")
    return found


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table of docs/fairness.md."""
    head = (
        "| groups × people | gap: coverage (none / 0.05 / 0.15) | false fail (none / at tolerance) "
        "| ratio: coverage (1 / 0.80) | false fail (1 / 0.80) | pass at 0.80 "
        "| bootstrap: coverage (none / 0.05 / 0.15) | false fail (none / at tolerance) "
        "| bare four-fifths rule flags (1 / 0.80) |"
    )
    lines = [head, "|" + "---|" * 9]
    for row in rows:
        d, r, b, f = (row[key] for key in ("difference", "ratio", "bootstrap", "four_fifths"))
        cells = [
            f"{row['groups']} × {row['n']}",
            _cells(d["coverage_null"], d["coverage_edge"], d["coverage_wide"]),
            _cells(d["false_fail_null"], d["false_fail_edge"]),
            _cells(r["coverage_null"], r["coverage_edge"]),
            _cells(r["false_fail_null"], r["false_fail_edge"]),
            _cells(r["false_pass_edge"]),
            _cells(b["coverage_null"], b["coverage_edge"], b["coverage_wide"]),
            _cells(b["false_fail_null"], b["false_fail_edge"]),
            _cells(f["flags_null"], f["flags_edge"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cells(*values: float) -> str:
    return " / ".join(f"{value:.3f}" for value in values)


def _halves(n_groups: int, high: float, low: float) -> Reals:
    """(n_groups,) rates: the first half at `high`, the others at `low`."""
    return np.where(np.arange(n_groups) < (n_groups + 1) // 2, high, low)


def _wilson(counts: NDArray[np.int64], n: int) -> tuple[Reals, Reals, Reals]:
    flat = counts.reshape(-1)
    found = wilson(flat, np.full(flat.shape, n), z=simultaneous_z(counts.shape[1], ALPHA))
    return tuple(part.reshape(counts.shape) for part in (found.value, found.low, found.high))  # type: ignore[return-value]


def _check(found: Ends, counts: NDArray[np.int64], n: int, own: Callable[[Limits], Any]) -> None:
    """The vectorised ends are the package's."""
    z = simultaneous_z(counts.shape[1], ALPHA)
    for i in range(min(CHECKED, len(counts))):
        interval = own(wilson(counts[i], np.full(len(counts[i]), n), z=z))
        assert np.allclose((found[0][i], found[1][i]), (interval.low, interval.high), atol=1e-12)


def _pairs(n_groups: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(n_groups) for j in range(n_groups) if i != j]


def _quotient(counts: NDArray[np.int64]) -> Reals:
    return np.asarray(counts.min(axis=1) / counts.max(axis=1))


def _covers(ends: Ends, truth: float) -> float:
    return _share((ends[0] <= truth + 1e-12) & (ends[1] >= truth - 1e-12))


def _share(hits: NDArray[np.bool_]) -> float:
    return float(hits.mean())


if __name__ == "__main__":
    main()
