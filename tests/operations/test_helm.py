"""The chart, rendered and linted by Helm's own engine and checked against Kubernetes' schemas."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from foedus import __version__

CHART = Path(__file__).parents[2] / "deploy/helm/foedus"
COORDINATOR: dict[str, Any] = {
    "coordinator": {"host": "f.example.org", "backupSecret": "b", "storage": {"className": "fast"}}
}
SITE: dict[str, Any] = {
    "role": "site",
    "image": {"digest": "sha256:" + "0" * 64, "pullSecrets": ["registry"]},
    "site": {
        "config": '[site]\nname = "north"\n',
        "data": {"claim": "images"},
        "coordinator": {"cidr": "203.0.113.7/32"},
        "environmentSecret": "database",
    },
}
JOINED: dict[str, Any] = {
    **SITE,
    "site": {**SITE["site"], "kit": {"secret": "kit", "fingerprint": "0c05-c0a3"}},
}
CASES = pytest.mark.parametrize("values", [COORDINATOR, SITE, JOINED], ids=["coordinator", "site", "joined"])
KUBERNETES = "1.30"


@pytest.fixture(scope="module")
def helm() -> Any:
    return pytest.importorskip("helm_python", reason="Helm is not installed (extra operations)")


def render(helm: Any, values: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """Every manifest, and the notes."""
    with helm.Chart.load(str(CHART)) as chart:
        files: dict[str, str] = chart.render(values, name="demo", namespace="prod")
    notes = next(text for name, text in files.items() if name.endswith("NOTES.txt"))
    manifests = [text for name, text in files.items() if name.endswith(".yaml")]
    return [found for text in manifests for found in yaml.safe_load_all(text) if found], notes


def pods(manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pods that are made."""
    return [found["spec"]["template"]["spec"] for found in manifests if "template" in found.get("spec", {})]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """All, those that run before too."""
    return [*pod.get("initContainers", []), *pod["containers"]]


@CASES
def test_helm_lints_it_without_a_complaint(helm: Any, values: dict[str, Any]) -> None:
    messages = helm.lint(str(CHART), values)["messages"]
    assert [message["error"] for message in messages] == ["icon is recommended"]


@CASES
def test_kubernetes_takes_every_manifest(helm: Any, values: dict[str, Any]) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="it is in the extra operations")
    manifests, _ = render(helm, values)
    for manifest in manifests:
        validate.validate(manifest, KUBERNETES, strict=True)
    kinds = [manifest["kind"] for manifest in manifests]
    workload = "StatefulSet" if values is COORDINATOR else "Deployment"
    assert kinds.count(workload) == 1
    assert kinds.count("NetworkPolicy") == 1
    assert "Secret" not in kinds, "keys are made where they are used, and are in no manifest"


@CASES
def test_a_pod_has_no_right_that_is_not_needed(helm: Any, values: dict[str, Any]) -> None:
    [pod] = pods(render(helm, values)[0])
    security = pod["securityContext"]
    assert (security["runAsNonRoot"], security["runAsUser"]) == (True, 10001)
    assert security["fsGroupChangePolicy"] == "OnRootMismatch", "or keys become readable by their group"
    assert pod["automountServiceAccountToken"] is False
    for container in containers(pod):
        rights = container["securityContext"]
        assert rights == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]
        names = {volume["name"] for volume in pod["volumes"]} | {"state"}
        assert {mount["name"] for mount in container["volumeMounts"]} <= names


def test_a_site_takes_no_connection_and_opens_one_to_the_coordinator_only(helm: Any) -> None:
    manifests, _ = render(helm, JOINED)
    assert "Service" not in [manifest["kind"] for manifest in manifests]
    policy = next(found["spec"] for found in manifests if found["kind"] == "NetworkPolicy")
    assert policy["ingress"] == []
    names, coordinator = policy["egress"]
    assert {port["port"] for port in names["ports"]} == {53}
    assert coordinator == {
        "to": [{"ipBlock": {"cidr": "203.0.113.7/32"}}],
        "ports": [{"port": 9443, "protocol": "TCP"}],
    }
    [pod] = pods(manifests)
    data = next(volume for volume in pod["volumes"] if volume["name"] == "data")
    assert data["persistentVolumeClaim"] == {"claimName": "images", "readOnly": True}


def test_a_coordinator_is_one_pod_shows_sites_one_port_and_opens_no_connection(helm: Any) -> None:
    manifests, _ = render(helm, COORDINATOR)
    state = next(found["spec"] for found in manifests if found["kind"] == "StatefulSet")
    assert state["replicas"] == 1
    assert state["volumeClaimTemplates"][0]["spec"]["storageClassName"] == "fast"
    services = {found["metadata"]["name"]: found["spec"] for found in manifests if found["kind"] == "Service"}
    public = services["demo-coordinator"]
    assert [port["port"] for port in public["ports"]] == [9443]
    policy = next(found["spec"] for found in manifests if found["kind"] == "NetworkPolicy")
    assert policy["egress"] == []
    sites, prometheus = policy["ingress"]
    assert [port["port"] for port in sites["ports"]] == [9443]
    assert [port["port"] for port in prometheus["ports"]] == [9445]
    assert "namespaceSelector" in prometheus["from"][0]


@CASES
def test_the_commands_of_the_chart_exist(
    helm: Any, values: dict[str, Any], is_a_command: Callable[[list[str] | str], None]
) -> None:
    manifests, notes = render(helm, values)
    [pod] = pods(manifests)
    lines = []
    for container in containers(pod):
        if "command" not in container:
            lines.append(container["args"])
            continue
        assert container["command"] == ["sh", "-c"]
        for typed in re.findall(r"foedus ((?:coordinator|site) [^|&;]+)", container["args"][0]):
            lines.append(shlex.split(typed.replace("$", "")))
    probes = [
        container[probe] for container in pod["containers"] for probe in container if probe.endswith("Probe")
    ]
    lines += [probe["exec"]["command"][1:] for probe in probes if "exec" in probe]
    lines += [shlex.split(typed) for typed in re.findall(r"-- foedus (.+)", notes)]
    assert len(lines) >= (1 if values is SITE else 3)
    for line in lines:
        is_a_command(line)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "coordinator.host: the name that sites reach the service by"),
        ({"role": "both"}, "role"),
        ({"coordinator": {"host": "h", "metrics": {"open": True}}}, "metrics"),
        ({"role": "site"}, "site.config: the text of site.toml"),
        ({**JOINED, "site": {**JOINED["site"], "kit": {"secret": "kit"}}}, "site.kit.fingerprint"),
    ],
)
def test_values_that_are_missing_or_wrong_are_named(helm: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(helm.HelmError, match=re.escape(message)):
        render(helm, values)


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)
