"""How fast the audit counts at a site and reports at the coordinator; fairlearn's bootstrap beside it.

    python benchmarks/audit_speed.py
    python benchmarks/audit_speed.py --rows 100000 --replicates 1 --out /tmp/speed.json

Times are CPU seconds of this process, the least of a few runs. The site counts a million rows in 15
groups and 128 score bins; its features are already in memory. fairlearn's MetricFrame is timed at
100,000 rows without a bootstrap and with a few replicates; the time with 100 of them is the first
plus 100 times the difference for one, not measured.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fairness.audit import audit_request, build_audit
from fairness.counts import AuditCounts
from fairness.edges import AuditEdges
from fairness.policy import Policy, parse_policy
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.statistic import Arrays, add

GROUPS = [f"group {i}" for i in range(15)]
GOALS = {"site_s": 0.3, "payload_bytes": 65_536, "coordinator_s": 1.0, "times_fairlearn": 5000}
FAIRLEARN_ROWS, REPLICATES = 100_000, 100
HEAD = LinearHead(np.array([[0, 0, 0, 0], [1, -1, 0.5, 0]], np.float32), np.zeros(2, np.float32))


def main() -> None:
    """Time everything, print it, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument(
        "--replicates", type=int, default=2, help="Bootstrap replicates of fairlearn that are run."
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/audit-speed.json")
    options = parser.parse_args()
    policy = policy_of()
    ours = audit(policy, options.rows)
    small = audit(policy, FAIRLEARN_ROWS)
    frame = metric_frame(FAIRLEARN_ROWS, options.replicates)
    total = small["site_s"] + small["coordinator_s"]
    found = {
        "rows": options.rows,
        "groups": len(GROUPS),
        "bins": 128,
        **ours,
        "at_100k_rows": small,
        "fairlearn_at_100k_rows": frame,
        "times_fairlearn": round(frame["bootstrap_100_s_scaled"] / total),
        "goals": GOALS,
    }
    found["missed"] = [name for name, goal in GOALS.items() if missed(name, found[name], goal)]
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def missed(name: str, value: float, goal: float) -> bool:
    """Whether a figure is on the wrong side of its goal."""
    return value < goal if name == "times_fairlearn" else value > goal


def policy_of() -> Policy:
    """One attribute of 15 groups, two gates."""
    return parse_policy(
        f"""
[policy]
name = "speed"
[attributes]
region = {json.dumps(GROUPS[:-1])}
[[gate]]
metric = "tpr"
compare = "max_difference"
tolerance = 0.1
[[gate]]
metric = "auc"
compare = "max_difference"
tolerance = 0.05
"""
    )


def rows_of(n: int, seed: int = 0) -> Examples:
    """Rows with four features and a group each; one group is "unknown"."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 4)).astype(np.float32)
    chance = 1 / (1 + np.exp(-(features[:, 0] - features[:, 1])))
    names = np.array([*GROUPS[:-1], "unknown"])
    groups = {"region": names[rng.integers(0, len(names), n)]}
    return Examples(features, (rng.random(n) < chance).astype(np.int64), groups, owners=np.arange(n))


def audit(policy: Policy, n: int) -> dict[str, Any]:
    """Seconds at one site and at the coordinator, and the bytes a site sends."""
    site = rows_of(n)
    edges = AuditEdges(HEAD, 1)
    cut = edges.read(edges.measure(site))
    request = audit_request(policy, head=HEAD, positive=1, edges=cut)
    contribution: Arrays = request.measure(site)
    total = add(add(contribution, contribution), contribution)  # three sites
    return {
        "edges_s": least(lambda: edges.measure(site)),
        "site_s": least(lambda: request.measure(site)),
        "payload_bytes": sum(array.nbytes for array in contribution.values()),
        "coordinator_s": least(lambda: report(policy, request, total)),
    }


def report(policy: Policy, request: AuditCounts, total: Arrays) -> None:
    """What the coordinator does once the sums are in."""
    build_audit(
        policy, request.read(total), model_digest="d", study_name="speed", classes=["no", "yes"]
    ).to_json()


def metric_frame(n: int, replicates: int) -> dict[str, Any]:
    """fairlearn on as many rows: the eleven rates by 15 groups that our report has beside AUC and calibration."""
    from fairlearn import metrics as fl
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, precision_score

    rng = np.random.default_rng(1)
    y, p = rng.integers(0, 2, n), rng.integers(0, 2, n)
    groups = rng.integers(0, len(GROUPS), n)
    named: dict[str, Callable[..., float]] = {
        "selection_rate": fl.selection_rate,
        "tpr": fl.true_positive_rate,
        "fnr": fl.false_negative_rate,
        "fpr": fl.false_positive_rate,
        "tnr": fl.true_negative_rate,
        "accuracy": accuracy_score,
        "base_rate": lambda y_true, y_pred: fl.selection_rate(y_pred, y_true),
        "ppv": lambda y_true, y_pred: precision_score(y_true, y_pred, zero_division=0.0),
        "npv": lambda y_true, y_pred: precision_score(1 - y_true, 1 - y_pred, zero_division=0.0),
        "balanced_accuracy": balanced_accuracy_score,
        "f1": f1_score,
    }

    def frame(n_boot: int | None) -> None:
        more: dict[str, Any] = {"n_boot": n_boot, "ci_quantiles": [0.025, 0.975]} if n_boot else {}
        fl.MetricFrame(metrics=named, y_true=y, y_pred=p, sensitive_features=groups, random_state=0, **more)

    plain, boot = least(lambda: frame(None), times=1), least(lambda: frame(replicates), times=1)
    each = (boot - plain) / replicates
    return {
        "metrics": len(named),
        "no_bootstrap_s": plain,
        "replicates_run": replicates,
        "with_them_s": boot,
        "bootstrap_100_s_scaled": round(plain + REPLICATES * each, 1),
    }


def least(work: Callable[[], object], times: int = 3) -> float:
    """CPU seconds of the quickest of a few runs."""
    found = []
    for _ in range(times):
        begun = time.process_time()
        work()
        found.append(time.process_time() - begun)
    return round(min(found), 4)


if __name__ == "__main__":
    main()
