"""report.html: one file that opens offline, reads well on paper, and says the verdict first."""

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fairness import charts, models, sections
from fairness.groups import SEPARATOR
from fairness.models import DASH, num

METRIC_NAMES = {
    "base_rate": "Base rate",
    "selection_rate": "Selection rate",
    "tpr": "True-positive rate",
    "fnr": "False-negative rate",
    "fpr": "False-positive rate",
    "tnr": "True-negative rate",
    "ppv": "Positive predictive value",
    "npv": "Negative predictive value",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "f1": "F1",
    "auc": "AUC",
    "oe_ratio": "Observed over expected",
    "brier": "Brier score",
    "calibration_error": "Calibration error",
    "smd": "Standardised mean difference",
}
VERDICTS = {
    "pass": ("Pass", "Every gate of the policy is met, with the evidence the policy asks for."),
    "fail": ("Fail", "At least one gate of the policy is not met."),
    "inconclusive": ("Inconclusive", "The evidence does not settle every gate. This is not a pass."),
}
DEFAULT_METRICS = ("tpr", "fpr", "selection_rate", "auc")
EMPTY: dict[str, Any] = {
    "models": {},
    "sites": [],
    "mean": {},
    "held_out": [],
    "notes": [],
    "privacy": None,
    "data_quality": None,
}


def render_report(
    results: Mapping[str, Any],
    rounds: Sequence[Mapping[str, Any]],
    fewshot: Mapping[str, Any] | None,
    audit: Mapping[str, Any] | None,
    *,
    study: Mapping[str, Any],
    mitigation: Mapping[str, Any] | None = None,
    commitments: Mapping[str, Any] | None = None,
    on: date | None = None,
) -> str:
    """The report as HTML. The same input gives the same bytes; there is no clock in it.

    Args:
        results: Figures of the models, over all sites and per site where released.
        rounds: The lines of rounds.jsonl.
        fewshot: fewshot.json, or None.
        audit: `AuditReport.to_dict()`, or None when the study has no policy.
        study: The study as plain values.
        mitigation: mitigation.json, or None.
        commitments: commitments.json, or None.
        on: The audit's day, which says which clauses apply; no clause index without it.
    """
    page = _environment().get_template("report.html")
    shown = sections.context(audit, results, study, mitigation=mitigation, on=on)
    return page.render(
        results={**EMPTY, **{key: value for key, value in results.items() if value is not None}},
        rounds=rounds,
        fewshot=fewshot,
        audit=audit,
        setup=_setup(study),
        verdict=VERDICTS[audit["verdict"]] if audit else None,
        gates=_gate_tables(audit) if audit else [],
        shown=_shown_metrics(audit) if audit else [],
        traffic={key: sum(line.get(key) or 0 for line in rounds) for key in ("bytes_up", "bytes_down")},
        training=_training_curves(rounds),
        rejected=[(line["round"], each) for line in rounds for each in line.get("rejected") or []],
        shots=_fewshot_curve(fewshot, "curve", "n_shot", "examples per class") if fewshot else "",
        ways=_fewshot_curve(fewshot, "ways", "n_way", "classes to tell apart") if fewshot else "",
        metric_names=METRIC_NAMES,
        commitments=commitments,
        contents=_contents(audit, results, rounds, fewshot, shown),
        **shown,
        **models.context(results),
    )


def _contents(
    audit: Mapping[str, Any] | None,
    results: Mapping[str, Any],
    rounds: Sequence[Mapping[str, Any]],
    fewshot: Mapping[str, Any] | None,
    shown: Mapping[str, Any],
) -> list[tuple[str, str]]:
    """Anchor and name of every section that is there."""
    sections_of = {
        ("gates", "Gates"): audit,
        ("groups", "Groups"): audit,
        ("intersections", "Intersections"): audit and audit["intersections"],
        ("start", "Before and after training"): shown["start"],
        ("models", "Models"): True,
        ("rounds", "Rounds"): rounds,
        ("privacy", "Privacy"): results.get("privacy"),
        ("fewshot", "Few-shot adaptation"): fewshot,
        ("mitigation", "Mitigation"): shown["mitigation"],
        ("limits", "Limits and notes"): audit or results.get("notes") or results.get("data_quality"),
        ("clauses", "Clause index"): shown["clauses"],
        ("hashes", "Digests and signatures"): audit,
    }
    return [each for each, there in sections_of.items() if there]


def _environment() -> Environment:
    folder = Path(__file__).parent / "templates"
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        cross=cross, many=many, num=num, interval=interval, size=size, half_width=half_width
    )
    environment.filters.update(
        attributes=sections.attributes, before_after=sections.before_after, people=people, figure=figure
    )
    environment.globals.update(
        rate_cell=_rate_cell, gap_to_largest=sections.gap_to_largest, group_curves=sections.group_curves
    )
    return environment


def cross(name: str) -> str:
    """The name of an attribute or group, its parts joined as a reader would."""
    return name.replace(SEPARATOR, " × ")


def interval(found: Mapping[str, Any], digits: int = 2) -> str:
    """[low, high], or nothing."""
    if found["low"] is None or found["high"] is None:
        return ""
    return f"[{found['low']:.{digits}f}, {found['high']:.{digits}f}]"


def people(found: Mapping[str, Any], key: str) -> str:
    """A number of people, or the two between which it lies where it may not be written."""
    between = found.get(f"{key}_between")
    return f"{between[0]:,}–{between[1]:,}" if between else f"{found[key]:,}"


def figure(rate: Mapping[str, Any]) -> str:
    """A rate, or why there is none."""
    if rate["value"] is not None:
        return num(rate["value"])
    return "hidden" if rate.get("hidden") else "undefined"


def many(sites: int | Sequence[str]) -> int:
    """How many sites, given a number or their names."""
    return sites if isinstance(sites, int) else len(sites)


def size(n_bytes: float | None) -> str:
    """Bytes in the unit a reader would use."""
    if n_bytes is None:
        return DASH
    for unit, step in (("B", 1), ("kB", 1e3), ("MB", 1e6)):
        if n_bytes < step * 1000:
            return f"{n_bytes / step:.3g} {unit}"
    return f"{n_bytes / 1e9:.3g} GB"


def half_width(ci95: float | Sequence[float] | None) -> float | None:
    """Half the width of an interval given as ± or as [low, high]."""
    if ci95 is None or isinstance(ci95, int | float):
        return ci95
    return (ci95[1] - ci95[0]) / 2


def _setup(study: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a reader has to know about how the model was trained."""
    rows = [
        ("Task", "study", "task"),
        ("Backbone", "backbone", "source"),
        ("Tap", "backbone", "tap"),
        ("Trained", "backbone", "tune"),
        ("Strategy", "federation", "strategy"),
        ("Rounds", "federation", "rounds"),
        ("Door", "door", "mode"),
        ("Seed", "study", "seed"),
    ]
    found = [(name, (study.get(section) or {}).get(key)) for name, section, key in rows]
    return [(name, str(value)) for name, value in found if value is not None]


def _gate_tables(audit: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Gates by kind, each with its strip on an axis shared by the kind."""
    kinds = (
        ("max_difference", "Largest difference between groups", "at most"),
        ("min_ratio", "Lowest over highest group", "at least"),
    )
    tables = []
    for kind, heading, rule in kinds:
        gates = [gate for gate in audit["gates"] if gate["compare"] == kind]
        if not gates:
            continue
        highs = [gate["found"]["high"] or 0.0 for gate in gates]
        top = (
            1.0 if kind == "min_ratio" else min(1.0, max(*highs, *(2 * g["tolerance"] for g in gates)) * 1.05)
        )
        rows = [(gate, _strip(gate, top)) for gate in gates]
        tables.append({"heading": heading, "rule": rule, "rows": rows, "axis": charts.axis_strip(top)})
    return tables


def _strip(gate: Mapping[str, Any], top: float) -> str:
    found, tolerance = gate["found"], gate["tolerance"]
    band = (0.0, tolerance) if gate["compare"] == "max_difference" else (tolerance, 1.0)
    return charts.interval_strip(
        found["value"],
        found["low"],
        found["high"],
        band=band,
        top=top,
        title=f"{gate['metric']} by {gate['attribute']}: {num(found['value'])} {interval(found, 3)}, "
        f"accepted {band[0]:g} to {band[1]:g}",
    )


def _shown_metrics(audit: Mapping[str, Any]) -> list[str]:
    """The gated metrics first, then the usual ones, four in all."""
    wanted = [*(gate["metric"] for gate in audit["gates"]), *DEFAULT_METRICS]
    return list(dict.fromkeys(wanted))[:4]


def _rate_cell(audit: Mapping[str, Any], group: Mapping[str, Any], metric: str) -> str:
    rate = group["rates"][metric]
    return charts.rate_cell(
        rate["value"],
        rate["low"],
        rate["high"],
        overall=audit["overall"][metric]["value"],
        title=f"{metric} of {group['group']}: {num(rate['value'])} {interval(rate)}",
    )


def _training_curves(rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    loss = [_series("training", rounds, "train_loss"), _series("validation", rounds, "validation_loss")]
    accuracy = [_series("validation", rounds, "validation_accuracy")]
    drawn = [
        charts.curve([s for s in loss if s.points], title="Loss by round", x_label="round", y_label="Loss"),
        charts.curve(
            [s for s in accuracy if s.points], title="Accuracy by round", x_label="round", y_label="Accuracy"
        ),
    ]
    return [chart for chart in drawn if chart]


def _series(name: str, rounds: Sequence[Mapping[str, Any]], key: str) -> charts.Series:
    points = [(line["round"], line[key], None, None) for line in rounds if line.get(key) is not None]
    return charts.Series(name, points)


def _fewshot_curve(fewshot: Mapping[str, Any], rows: str, key: str, axis: str) -> str:
    """Accuracy by examples per class or by classes, one line per method; nothing for a single point."""
    points: dict[str, list[tuple[float, float, float | None, float | None]]] = {}
    for row in fewshot.get(rows) or []:
        half = half_width(row.get("ci95"))
        low, high = (None, None) if half is None else (row["accuracy"] - half, row["accuracy"] + half)
        points.setdefault(row["method"], []).append((row[key], row["accuracy"], low, high))
    series = [charts.Series(name, sorted(found)) for name, found in points.items()]
    if rows == "ways" and all(len(each.points) < 2 for each in series):
        return ""
    title = f"Few-shot accuracy by {axis}"
    return charts.curve(series, title=title, x_label=axis, y_label="Accuracy")
