"""False alarms on windows that did not drift, and windows in which a shift is found, of `foedus monitor`'s tests.

Usage: python benchmarks/drift.py [--windows 1000]. Features are normal; each window has its own audit of 600 test
records, and 2,000 requests of which a shift of 0.3 standard deviations, if any, is in one feature.
"""

import argparse
from pathlib import Path

import numpy as np

from deploy.drift import decided, drift_tests
from foedus import files
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.histograms import UNLABELLED, Histograms
from foedus.statistic import Arrays
from server.serving import coarsened

OUT = Path(__file__).parent / "results" / "drift.json"
N_TEST, N_LIVE, ALPHA, LEAST_PSI = 600, 2000, 0.005, 0.02
"""ALPHA: half of the policy's default, as `foedus monitor` spends it on these tests."""


def histograms(rng: np.random.Generator, n: int, d: int, shift: float) -> Arrays:
    """Of n records with d features, the first of which is shifted."""
    head = LinearHead(np.linspace(-1, 1, 2 * d, dtype=np.float32).reshape(2, d), np.zeros(2, np.float32))
    features = rng.normal(size=(n, d)).astype(np.float32)
    features[:, 0] += np.float32(shift)
    return Histograms(head).measure(Examples(features, np.full(n, UNLABELLED, np.int64)))


def alarms(rng: np.random.Generator, d: int, shift: float) -> list[str]:
    """Figures that raise an alarm in one window."""
    audited = coarsened(histograms(rng, N_TEST, d, 0.0), fewest=11)
    live = histograms(rng, N_LIVE, d, shift)
    names = [str(i) for i in range(d)]
    tests = drift_tests(live, audited, features=names, classes=["yes"], least=LEAST_PSI)
    return [finding.what for finding in decided(tests, alpha=ALPHA) if finding.breach]


def main() -> None:
    """Measure, print and keep the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=1000)
    windows = parser.parse_args().windows
    found = {}
    for d in (8, 24, 100):
        rng = np.random.default_rng(d)
        quiet = sum(bool(alarms(rng, d, 0.0)) for _ in range(windows))
        seen = sum("feature 0" in alarms(rng, d, 0.3) for _ in range(windows // 5))
        found[f"{d} features"] = {
            "false_alarms": quiet / windows,
            "shift_found": seen / (windows // 5),
            "windows": windows,
        }
        print(d, found[f"{d} features"])
    files.write_json(OUT, {"n_test": N_TEST, "n_live": N_LIVE, "shift_sd": 0.3, "alpha": ALPHA, **found})


if __name__ == "__main__":
    main()
