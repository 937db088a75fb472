"""fairlearn on a site's own rows: the second implementation our counts are checked against.

It runs where the rows are; nothing of it leaves the site.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from fairness.counts import AuditCounts
from fairness.edges import positive_logit, scores
from fairness.metrics import group_metrics
from foedus.errors import AuditError
from foedus.examples import Examples

TOLERANCE = 1e-12


def check_against_fairlearn(statistic: AuditCounts, examples: Examples) -> float:
    """The largest absolute difference between our group rates and fairlearn's on these rows.

    Every attribute and intersection, and every rate that is defined; where we say undefined,
    fairlearn says 0.0 and there is nothing to compare.

    Raises:
        AuditError: If a rate differs by more than 1e-12.
    """
    found = scores(statistic.head, examples.features)
    decided = found.argmax(axis=1)
    if statistic.n_classes == 2:
        probability = expit(positive_logit(found, statistic.positive))
        decided = np.where(probability >= statistic.threshold, statistic.positive, 1 - statistic.positive)
    codes = statistic.plan.codes(examples)
    measured = statistic.measure(examples)
    largest = 0.0
    for key, groups in statistic.plan.tables().items():
        ours = group_metrics(measured[f"confusion:{key}"].astype(np.int64), statistic.positive)
        theirs = fairlearn_rates(examples.labels, decided, codes[key], positive=statistic.positive)
        for metric, by_group in theirs.items():
            for code, value in by_group.items():
                mine = float(ours[metric][code])
                largest = max(largest, 0.0 if np.isnan(mine) else abs(mine - value))
                if largest > TOLERANCE:
                    raise AuditError(f"{metric} of {groups[code]} differs from fairlearn's by {largest:.1e}")
    return largest


def fairlearn_rates(
    labels: NDArray[np.int64], decided: NDArray[np.int64], codes: NDArray[np.int64], *, positive: int
) -> dict[str, dict[int, float]]:
    """Metric to group code to fairlearn's value, for the groups that have rows."""
    from fairlearn import metrics as fl  # seconds to import, and only the oracle needs it
    from sklearn.metrics import accuracy_score, precision_score

    y, p = (labels == positive).astype(int), (decided == positive).astype(int)
    one_against_rest = {
        "base_rate": lambda y_true, y_pred: fl.selection_rate(y_pred, y_true),
        "selection_rate": fl.selection_rate,
        "tpr": fl.true_positive_rate,
        "fnr": fl.false_negative_rate,
        "fpr": fl.false_positive_rate,
        "tnr": fl.true_negative_rate,
        "ppv": lambda y_true, y_pred: precision_score(y_true, y_pred, zero_division=0.0),
    }
    frame = fl.MetricFrame(metrics=one_against_rest, y_true=y, y_pred=p, sensitive_features=codes)
    plain = fl.MetricFrame(
        metrics={"accuracy": accuracy_score}, y_true=labels, y_pred=decided, sensitive_features=codes
    )
    columns = {**frame.by_group.to_dict(), **plain.by_group.to_dict()}
    return {metric: {int(code): float(value) for code, value in by.items()} for metric, by in columns.items()}
