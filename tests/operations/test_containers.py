"""The image and compose.yaml: as small in rights as they say, and with commands that exist."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from foedus import __version__
from foedus.secure.roster import MIN_SITES

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "deploy/docker"
Check = Callable[[list[str] | str], None]


def instructions() -> list[tuple[str, str]]:
    """Instruction and argument of each line of the Dockerfile, continuation lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1].strip()) for line in lines]


def stage(name: str) -> list[tuple[str, str]]:
    """The instructions of one stage."""
    found, inside = [], False
    for key, value in instructions():
        if key == "FROM":
            inside = value.endswith(f" AS {name}")
        elif inside:
            found.append((key, value))
    return found


def compose() -> dict[str, Any]:
    """compose.yaml, its anchors resolved."""
    return dict(yaml.safe_load((DOCKER / "compose.yaml").read_text()))


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed (extra operations)")
    done = subprocess.run([hadolint, DOCKER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_is_not_root_has_a_health_check_and_no_secret() -> None:
    cpu = dict(stage("cpu"))
    assert re.fullmatch(r"\d{4,}:\d{4,}", cpu["USER"]), "a number, so that runAsNonRoot can be checked"
    assert "foedus-health" in cpu["HEALTHCHECK"]
    assert cpu["ENTRYPOINT"] == '["foedus"]'
    assert [key for key, _ in stage("gpu")] == ["ENV"], "the same image with a GPU's variables"
    for key, value in instructions():
        assert key not in ("ADD", "MAINTAINER")
        assert not re.search(r"(?i)(password|token|secret)=", value)
        assert "://" not in value, "no host is named"
    froms = [value.split()[0] for key, value in instructions() if key == "FROM"]
    assert froms == ["python:${PYTHON}-slim-bookworm"] * 2 + ["cpu"]


def test_the_build_gets_every_package_and_nothing_else() -> None:
    copied = [value.split()[:-1] for key, value in stage("build") if key == "COPY"]
    sources = {name for names in copied for name in names}
    packages = {"foedus", "server", "clients", "fewshot", "fairness", "deploy"}
    assert sources == packages | {"pyproject.toml", "constraints.txt", "README.md", "LICENSE"}
    ignore = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    lines = [line for line in ignore if line and not line.startswith("#")]
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == sources
    assert all((ROOT / name).exists() for name in sources)


def test_the_health_script_asks_commands_that_exist(is_a_command: Check, tmp_path: Path) -> None:
    script = DOCKER / "health.sh"
    called = re.findall(r"exec foedus (.+)", script.read_text())
    assert len(called) == 2
    for words in called:
        is_a_command(words.replace('"$home"', "/x"))
    fake = tmp_path / "foedus"
    fake.write_text('#!/bin/sh\necho "$@"\n')
    fake.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "FOEDUS_HOME": str(tmp_path)}

    def asked() -> str:
        done = subprocess.run(["sh", script], env=environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert asked() == f"site health {tmp_path}"
    (tmp_path / "coordinator.json").touch()
    assert asked() == f"coordinator health --home {tmp_path}"


def test_compose_has_one_coordinator_and_as_many_sites_as_a_secure_sum_needs() -> None:
    services = compose()["services"]
    assert [name for name, found in services.items() if found["command"][:2] == ["coordinator", "up"]] == [
        "coordinator"
    ]
    sites = [name for name, found in services.items() if found["command"][:2] == ["site", "start"]]
    assert len(sites) == MIN_SITES == len(services) - 1


def test_compose_gives_no_right_that_is_not_needed() -> None:
    found = compose()
    for name, service in found["services"].items():
        assert service["image"] == f"foedus:{__version__}"
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["user"] == "10001:10001"
        assert not {"privileged", "cap_add", "network_mode", "pid", "environment"} & set(service)
        if name == "coordinator":
            assert [port for port in service["ports"] if not port.startswith("127.0.0.1:")] == ["9443:9443"]
        else:
            assert "ports" not in service, "sites only open connections"
            assert service["networks"] == ["federation"]
    assert found["networks"]["federation"] == {"internal": True}


def test_the_commands_of_compose_exist(is_a_command: Check) -> None:
    text = (DOCKER / "compose.yaml").read_text()
    for service in compose()["services"].values():
        is_a_command(service["command"])
    typed = re.findall(r"docker compose run --rm (?:--no-deps )?\S+ ((?:coordinator|site) [^;\n]+)", text)
    assert len(typed) == 2
    for words in typed:
        is_a_command(words)


def test_a_command_that_does_not_exist_is_noticed(is_a_command: Check) -> None:
    """Otherwise the tests here would show nothing."""
    for words in ("coordinator upp", "coordinator up --metric 1", "site start", "site start a b"):
        with pytest.raises(click.UsageError):
            is_a_command(words)
