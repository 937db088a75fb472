"""The models of a study side by side in the report: which figures are shown, and how."""

from collections.abc import Mapping
from typing import Any

from fairness import charts

DASH = "–"
MODEL_NAMES = {
    "pooled": "Pooled (all data in one place, for comparison)",
    "federated": "Federated",
    "start": "Start (before gradient rounds)",
    "zero_shot": "Zero-shot baseline (class texts alone, no example)",
    "personal": "Personal",
    "local": "Local (each site alone)",
    "local_everywhere": "Local, on all sites' test data",
}
SITE_MODELS = ("local", "personal", "federated", "pooled")
SITE_METRICS = (
    ("accuracy", "Accuracy"),
    ("balanced_accuracy", "Balanced accuracy"),
    ("macro_f1", "Macro-F1"),
    ("auc", "AUC"),
    ("log_loss", "Log-loss"),
    ("observed_expected", "O/E"),
)
DETAIL_METRICS = (
    ("macro_precision", "Precision, mean of classes"),
    ("macro_recall", "Recall, mean of classes"),
    ("brier", "Brier score"),
    ("observed_expected", "O/E"),
    ("calibration_error", "Expected calibration error"),
)
LABEL_METRICS = (
    ("hamming_loss", "Hamming loss"),
    ("micro_precision", "Precision, all labels alike"),
    ("micro_recall", "Recall, all labels alike"),
    ("micro_f1", "F1, all labels alike"),
)
CLASS_METRICS = (
    ("precision", "Precision"),
    ("recall", "Recall"),
    ("f1", "F1"),
    ("auc", "AUC"),
    ("observed_expected", "O/E"),
)
DETAILED = ("federated", "personal", "local")
"""Models whose confusion and calibration are shown."""
MOST_CLASSES = 20
"""Larger confusion matrices are in results.json alone."""


def context(results: Mapping[str, Any]) -> dict[str, Any]:
    """What the templates of the models' section read beside the results themselves."""
    models, sites = results.get("models") or {}, results.get("sites") or []
    several = results.get("task") == "multilabel"
    return {
        "model_names": MODEL_NAMES,
        "site_models": [m for m in SITE_MODELS if any(site.get(m) for site in sites)],
        "site_metrics": SITE_METRICS,
        "best": best,
        "several": several,
        "detailed": {name: models[name] for name in DETAILED if (models.get(name) or {}).get("confusion")},
        "detail_metrics": (*LABEL_METRICS, *DETAIL_METRICS) if several else DETAIL_METRICS,
        "class_metrics": (*CLASS_METRICS, ("log_loss", "Log-loss")) if several else CLASS_METRICS,
        "most_classes": MOST_CLASSES,
        "reliability": reliability(models),
    }


def num(value: float | None, digits: int = 3) -> str:
    """A figure with fixed digits; a dash where there is none."""
    return DASH if value is None else f"{value:,.{digits}f}"


def best(site: Mapping[str, Any], metric: str) -> str | None:
    """The best figure among a site's models, as it is shown."""
    found = [site[name].get(metric) for name in SITE_MODELS if site.get(name)]
    values = [value for value in found if value is not None]
    if not values:
        return None
    match metric:
        case "log_loss":
            return num(min(values))
        case "observed_expected":
            return num(min(values, key=lambda value: abs(value - 1)))
        case _:
            return num(max(values))


def reliability(models: Mapping[str, Any]) -> str:
    """Observed by predicted probability, one line per model; bins without examples are left out."""
    series = []
    for name in DETAILED:
        bins = (models.get(name) or {}).get("reliability") or []
        points = [(b["predicted"], b["observed"], None, None) for b in bins if b["n"]]
        if points:
            series.append(charts.Series(name, points))
    return charts.reliability(
        series,
        title="Reliability: share that came true by predicted probability; the dashed diagonal is perfect",
        x_label="predicted probability",
        y_label="Observed share",
    )
