"""The model card: front matter that model hubs read, and model-card.yaml with the fields that CHAI and HTI-1 ask for.

What Foedus cannot know is "not stated", in so many words, so that nobody takes silence for an answer.
"""

import json
from collections.abc import Mapping
from typing import Any

NOT_STATED = "not stated"
TASKS = {"image": "image-classification", "text": "text-classification", "table": "tabular-classification"}
"""Modality of the backbone to the hub's name of the task."""
METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced_accuracy",
    "auc": "roc_auc",
    "macro_f1": "f1",
    "brier": "brier_score",
}
"""Our name to the hub's."""
ABSENT = (
    "developer", "contact", "funding", "license", "intended_use", "intended_users", "intended_population",
    "out_of_scope_uses", "cautions", "inclusion_and_exclusion_criteria", "clinical_risk_level",
    "external_validation", "update_cadence", "monitoring_plan", "decommissioning", "stakeholders_consulted",
)  # fmt: skip
"""Fields that only people can fill."""


def front_matter(
    study: Mapping[str, Any], results: Mapping[str, Any], *, modality: str, verdict: str | None
) -> str:
    """YAML front matter of the card, in the form model hubs read, with its fences."""
    found = results["models"]["federated"]
    measured = [
        {"type": hub, "name": ours.replace("_", " "), "value": round(found[ours], 4)}
        for ours, hub in METRICS.items()
        if found.get(ours) is not None
    ]
    name = study["study"]["name"]
    task = {"type": TASKS.get(modality, "other")}
    result = {"task": task, "dataset": {"type": "federated", "name": f"{name}, test data of all sites"}}
    values = {
        "license": "other",
        "license_name": "not-stated",
        "library_name": "foedus",
        "pipeline_tag": TASKS.get(modality, "other"),
        "tags": [
            "federated-learning",
            "fairness-audit",
            *([f"fairness-verdict-{verdict}"] if verdict else []),
        ],
        "metrics": [each["type"] for each in measured],
        "model-index": [{"name": name, "results": [{**result, "metrics": measured}]}] if measured else [],
    }
    return f"---\n{to_yaml(values)}---\n"


def card_yaml(
    study: Mapping[str, Any],
    results: Mapping[str, Any],
    audit: Mapping[str, Any] | None,
    *,
    modality: str,
    model_digest: str,
    version: str,
) -> str:
    """model-card.yaml: what is known of the model, and "not stated" for the rest."""
    found = results["models"]["federated"]
    table = study.get("table")
    values: dict[str, Any] = {
        "format": "foedus-model-card/1",
        "name": study["study"]["name"],
        "model_digest": model_digest,
        "made_with": f"foedus {version}",
        "output": {"type": study["study"].get("task", "classification"), "classes": results["classes"]},
        "inputs": [column["name"] for column in table["columns"]] if table else [modality],
        "backbone": {"source": study["backbone"]["source"], "tuned": study["backbone"]["tune"]},
        "training": {
            "strategy": study["federation"]["strategy"],
            "rounds": results["rounds"],
            "sites": len(results["sites"]),
            "groups_balanced": study["federation"].get("balance", "none") == "group",
            "way_out_of_a_site": study["door"]["mode"],
            "guarantee": (results.get("privacy") or {}).get("guarantee") or "none",
        },
        "validity_in_local_data": {
            "test_examples": found["n"],
            **{key: round(found[key], 4) for key in METRICS if found.get(key) is not None},
        },
        "fairness": _fairness(audit),
        "known_limits": audit["limits"] if audit else [NOT_STATED],
    }
    return to_yaml({**values, **dict.fromkeys(ABSENT, NOT_STATED)})


def _fairness(audit: Mapping[str, Any] | None) -> dict[str, Any]:
    if audit is None:
        return {"verdict": "not audited"}
    return {
        "verdict": audit["verdict"],
        "policy": audit["policy"]["name"],
        "policy_digest": audit["policy"]["digest"],
        "profile": audit["policy"]["profile"],
        "reasons": audit["reasons"],
        "gates": [
            {
                "metric": gate["metric"],
                "attribute": gate["attribute"],
                "rule": f"{gate['compare']} {gate['tolerance']:g}",
                "found": gate["found"]["value"],
                "interval": [gate["found"]["low"], gate["found"]["high"]],
                "verdict": gate["verdict"],
            }
            for gate in audit["gates"]
        ],
        "representation": {
            each["attribute"]: {group["group"]: group["n"] or group["suppressed"] for group in each["groups"]}
            for each in audit["attributes"]
        },
    }


def to_yaml(value: Mapping[str, Any], indent: int = 0) -> str:
    """Plain values as YAML; strings are quoted as in JSON, which YAML reads alike."""
    lines = []
    for key, each in value.items():
        lines.append(" " * indent + f"{_key(key)}:{_under(each, indent)}")
    return "\n".join(lines) + "\n"


def _under(value: Any, indent: int) -> str:
    if isinstance(value, Mapping) and value:
        return "\n" + to_yaml(value, indent + 2).rstrip("\n")
    if isinstance(value, list) and value:
        pad = " " * (indent + 2)
        return "".join(f"\n{pad}-{_item(each, indent + 2)}" for each in value)
    return " " + json.dumps(value, ensure_ascii=False)


def _item(value: Any, indent: int) -> str:
    if isinstance(value, Mapping) and value:
        return " " + to_yaml(value, indent + 2).strip("\n").removeprefix(" " * (indent + 2))
    if isinstance(value, list) and value:
        return " " + json.dumps(value, ensure_ascii=False)
    return _under(value, indent)


def _key(key: str) -> str:
    return key if key.replace("-", "").replace("_", "").isalnum() and key[0].isalpha() else json.dumps(key)
