"""What the report's later sections show: what would settle a gate, mitigation, clauses."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from math import isnan
from typing import Any

import numpy as np
from markupsafe import Markup

from fairness import charts
from fairness.clauses import index
from fairness.infer import largest_difference, simultaneous_z, smallest_ratio, wilson
from fairness.metrics import PROPORTIONS
from fairness.models import DASH, num

MOST_TIMES = 1000.0
"""More test data than this many times what there was is not worth a number."""


def context(
    audit: Mapping[str, Any] | None,
    results: Mapping[str, Any],
    study: Mapping[str, Any],
    *,
    mitigation: Mapping[str, Any] | None,
    on: date | None,
) -> dict[str, Any]:
    """What the templates of these sections read."""
    start = results.get("audit_of_start")
    belongs = mitigation and audit and mitigation["model_digest"] == audit["model_digest"]
    same = belongs and mitigation and audit and mitigation["policy_digest"] == audit["policy"]["digest"]
    shown = mitigation if same else None
    sources = {"audit": audit, "results": results, "study": study, "mitigation": shown}
    return {
        "settling": settling(audit) if audit else [],
        "start": start if start and audit and start["policy_digest"] == audit["policy"]["digest"] else None,
        "mitigation": shown,
        "front": front(shown) if shown else Markup(""),
        "day": None if on is None else on.isoformat(),
        "clauses": index(audit["policy"]["profile"], on, sources) if audit and on else [],
    }


def settling(audit: Mapping[str, Any]) -> list[str]:
    """For each gate whose interval holds the tolerance: how much more test data would settle it."""
    tables = {each["attribute"]: each for each in (*audit["attributes"], *audit["intersections"])}
    found = []
    for gate in audit["gates"]:
        table = tables.get(gate["attribute"])
        undecided = gate["verdict"] == "inconclusive" and not gate.get("hidden") and not gate.get("positive")
        if table is None or not undecided or gate["metric"] not in PROPORTIONS:
            continue
        times, verdict = _times(gate, table, gate.get("alpha") or audit["policy"]["alpha"])
        if times is not None:
            found.append(
                f"{gate['metric']} by {gate['attribute']}: if every rate stays as it was found, about "
                f"{times:.1f} times this test data would settle it, as a {verdict}."
            )
    return found


def _times(gate: Mapping[str, Any], table: Mapping[str, Any], alpha: float) -> tuple[float | None, str]:
    rates = [
        group["rates"][gate["metric"]]
        for group in table["groups"]
        if not group["suppressed"] and group["compared"]
    ]
    known = [
        (rate["value"], rate["trials"]) for rate in rates if rate["value"] is not None and rate["trials"]
    ]
    if len(known) < 2:
        return None, ""
    value, n = (np.array(column, np.float64) for column in zip(*known, strict=True))
    z = simultaneous_z(len(known), alpha)
    measure = largest_difference if gate["compare"] == "max_difference" else smallest_ratio

    def settled(times: float) -> bool:
        interval = measure(wilson(value * n * times, n * times, z=z))
        return isnan(interval.value) or not interval.low <= gate["tolerance"] <= interval.high

    today = measure(wilson(value * n, n, z=z)).value
    if isnan(today) or settled(1.0) or not settled(MOST_TIMES):
        return None, ""
    low, high = 1.0, MOST_TIMES
    while high / low > 1.01:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if settled(middle) else (middle, high)
    beyond = today > gate["tolerance"] if gate["compare"] == "max_difference" else today < gate["tolerance"]
    return high, "fail" if beyond else "pass"


def front(mitigation: Mapping[str, Any]) -> Markup:
    """Accuracy of every candidate by the gated figure in which they differ most, one marker a kind of model."""
    alternatives = mitigation["alternatives"]
    if not alternatives:
        return Markup("")
    gate = max(alternatives[0]["figures"], key=lambda name: _range(alternatives, name))
    points: dict[str, list[charts.Point]] = {}
    for each in alternatives:
        if (x := each["figures"][gate]) is not None:
            kind = "as trained" if each["attribute"] is None else f"by {each['attribute']}"
            points.setdefault(kind, []).append((x, each["accuracy"], None, None))
    return charts.scatter(
        [charts.Series(kind, found) for kind, found in points.items()],
        title=f"Accuracy of every candidate by its {gate}, on training and validation data",
        x_label=gate,
        y_label="Accuracy",
    )


def _range(alternatives: Sequence[Mapping[str, Any]], gate: str) -> float:
    values = [each["figures"][gate] for each in alternatives if each["figures"][gate] is not None]
    return max(values) - min(values) if values else -1.0


def attributes(offer: Mapping[str, Any]) -> list[str]:
    """The attributes whose gaps an offer changes."""
    return list(dict.fromkeys(each["of"] for each in offer["changes"] if each["of"] != "everyone"))


def before_after(offer: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Each metric with its cells: everyone, then difference and ratio of each attribute."""
    found = {(each["metric"], each["of"], each["kind"]): each for each in offer["changes"]}
    columns = [("everyone", "overall")]
    columns += [(key, kind) for key in attributes(offer) for kind in ("difference", "ratio")]
    for metric in dict.fromkeys(each["metric"] for each in offer["changes"]):
        cells = [_cell(found.get((metric, *column))) for column in columns]
        if set(cells) != {DASH}:
            yield metric, cells


def _cell(change: Mapping[str, Any] | None) -> str:
    if change is None or change["before"]["value"] is change["after"]["value"] is None:
        return DASH
    return f"{num(change['before']['value'])} → {num(change['after']['value'])}"


def group_curves(table: Mapping[str, Any]) -> list[Markup]:
    """ROC and calibration of the groups whose curves may be written; nothing where there is none."""
    roc, calibration = [], []
    for group in table["groups"]:
        if points := group.get("roc"):
            roc.append(charts.Series(group["group"], [(p["fpr"], p["tpr"], None, None) for p in points]))
        if points := group.get("calibration"):
            line = [(p["predicted"], p["observed"], None, None) for p in points]
            calibration.append(charts.Series(group["group"], line))
    name = table["attribute"]
    drawn = [
        charts.reliability(
            roc,
            title=f"ROC by {name}: true-positive by false-positive rate; the dashed diagonal is guessing",
            x_label="false-positive rate",
            y_label="True-positive rate",
        ),
        charts.reliability(
            calibration,
            title=f"Calibration by {name}: observed by predicted share; the dashed diagonal is perfect",
            x_label="predicted probability",
            y_label="Observed share",
        ),
    ]
    return [each for each in drawn if each]


def gap_to_largest(
    group: Mapping[str, Any], table: Mapping[str, Any], metric: str
) -> tuple[float, str] | None:
    """A group's rate minus that of the largest compared group, and that group's name; None for itself."""
    compared: Sequence[Mapping[str, Any]] = [
        each
        for each in table["groups"]
        if not each["suppressed"] and each["compared"] and each["rates"][metric]["value"] is not None
    ]
    if not group["compared"] or group["rates"][metric]["value"] is None or len(compared) < 2:
        return None
    largest = max(compared, key=lambda each: each["rates"][metric]["trials"] or each["n"] or 0)
    if largest["group"] == group["group"]:
        return None
    return group["rates"][metric]["value"] - largest["rates"][metric]["value"], str(largest["group"])
