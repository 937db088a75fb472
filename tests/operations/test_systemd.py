"""The systemd units: valid, hardened, and with commands that exist."""

import configparser
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "deploy/systemd"
NAMES = ("foedus-coordinator.service", "foedus-site@.service")
PROGRAM = "/opt/foedus/bin/foedus"
HARDENED = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "CapabilityBoundingSet": "",
    "RestrictNamespaces": "yes",
    "UMask": "0077",
}
MOST_EXPOSED = 20
"""Of 100, as systemd-analyze security counts; 13 was measured, and a service without hardening has 96."""


def read(name: str) -> configparser.ConfigParser:
    """A unit's sections; of a key that is repeated the last."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment]
    parser.read(UNITS / name)
    return parser


@pytest.mark.parametrize("name", NAMES)
def test_a_unit_is_hardened_and_stops_its_supervisor_first(name: str) -> None:
    service = read(name)["Service"]
    assert HARDENED.items() <= dict(service).items()
    assert service["User"] not in ("root", "")
    assert (service["Restart"], service["KillMode"]) == ("always", "mixed")


@pytest.mark.parametrize("name", NAMES)
def test_the_commands_of_a_unit_exist(name: str, is_a_command: Callable[[str], None]) -> None:
    begins = read(name)["Service"]["ExecStart"]
    assert begins.startswith(f"{PROGRAM} ")
    typed = re.findall(
        rf"{PROGRAM} ((?:[^#\n]| #)+?)(?:\s\s+#.*)?$", (UNITS / name).read_text(), flags=re.MULTILINE
    )
    assert len(typed) == 2
    for words in typed:
        is_a_command(words)


@pytest.mark.parametrize("name", NAMES)
def test_systemd_finds_nothing_wrong_with_a_unit(name: str, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not on this machine")
    program = shutil.which("true")  # ours is not installed where the unit says
    unit = tmp_path / name
    unit.write_text((UNITS / name).read_text().replace(PROGRAM, str(program)))
    done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False)
    assert name not in done.stderr, done.stderr
    judged = subprocess.run(
        [analyze, "security", "--offline=yes", f"--threshold={MOST_EXPOSED}", "--no-pager", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert judged.returncode == 0, judged.stdout[-300:] + judged.stderr
