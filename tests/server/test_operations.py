"""A coordinator in service: watched, backed up while it runs, restored elsewhere and started there."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from clients.service import free_port

FOEDUS = str(Path(sys.executable).parent / "foedus")
ENVIRONMENT = {**os.environ, "FOEDUS_PASSPHRASE": "correct horse battery"}


def foedus(*words: object, code: int = 0) -> str:
    """Run a command as a user would; what it printed."""
    done = subprocess.run(
        [FOEDUS, *map(str, words)], capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=120
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@contextmanager
def up(home: Path, *, metrics: str, health: str) -> Iterator[None]:
    """A coordinator that runs."""
    words = ("coordinator", "up", "--listen", "127.0.0.1", "--metrics", metrics, "--health", health)
    process = subprocess.Popen([FOEDUS, *words, "--home", str(home)], start_new_session=True)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def until_serving(address: str, home: Path) -> None:
    """Within a minute and a half."""
    from server.health import ask

    end = time.monotonic() + 90
    while ask(address) != "SERVING":
        logs = "".join(path.read_text()[-800:] for path in home.glob("logs/*.log"))
        assert time.monotonic() < end, logs
        time.sleep(0.5)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_coordinator_is_watched_backed_up_and_restored(toy: Path, tmp_path: Path) -> None:
    home, file = tmp_path / "coordinator", tmp_path / "backup.foedus"
    ports = ("--port", free_port(), "--control-port", free_port())
    foedus("coordinator", "init", "--host", "127.0.0.1", *ports, "--home", home)
    metrics, health = (f"127.0.0.1:{free_port()}" for _ in range(2))
    foedus("coordinator", "health", "--address", health, "--home", home, code=1)
    with up(home, metrics=metrics, health=health):
        until_serving(health, home)
        foedus("coordinator", "health", "--address", health, "--home", home)
        text = httpx.get(f"http://{metrics}/metrics").text
        values = {
            sample.name: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        assert (values["foedus_server_up"], values["foedus_state_writable"]) == (1, 1)
        foedus("coordinator", "backup", file, "--home", home)
        audit = tmp_path / "audit"  # as docs/federation.md says
        for path in ("coordinator.json", "pki/ca.crt", "tokens/auditor"):
            (audit / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(home / path, audit / path)
        foedus("coordinator", "roster", "--home", audit)
        foedus("run", toy / "study.toml", "--home", audit, code=2)
        assert not (audit / "runs").exists()
    shutil.rmtree(home)
    foedus("coordinator", "restore", file, "--home", tmp_path / "elsewhere")
    with up(tmp_path / "elsewhere", metrics=metrics, health=health):
        until_serving(health, tmp_path / "elsewhere")
