"""The same study on Flower's Ray runtime: the bytes of the local engine, and nothing left behind."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foedus import simulation
from foedus.errors import ConfigError
from foedus.runs import RunFolder

SAME = ("model/head.safetensors", "audit.json", "results.json")
# Not importorskip: Ray has to be imported by the engine, which first binds it to loopback.
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="foedus[ray] is not installed")


@pytest.mark.slow
@needs_ray
def test_a_ray_run_killed_and_resumed_gives_the_bytes_of_the_local_engine(
    toy: Path, killed: Callable[[int, str], RunFolder]
) -> None:
    local, _ = simulation.simulate(toy / "study.toml", toy / "sites", runs=toy / "local")
    run, environment, addresses = killed(1, "ray"), dict(os.environ), set()

    def look(stage: str, found: dict[str, Any]) -> None:
        import ray

        addresses.add(ray.get_runtime_context().gcs_address)

    simulation.resume(run, stage=look)
    for name in SAME:
        assert (run.path / name).read_bytes() == (local.path / name).read_bytes(), name
    [address] = addresses
    assert address.startswith("127.0.0.1:")
    assert dict(os.environ) == environment
    assert _processes_of(address, within_s=10) == []


@pytest.mark.slow
@needs_ray
def test_an_error_on_ray_is_one_sentence_json_and_the_exit_code(toy: Path) -> None:
    for name in ("north", "south", "west"):
        (toy / f"sites/{name}/data.csv").unlink()
    command = [str(Path(sys.executable).with_name("foedus")), "simulate", "study.toml", "--sites", "sites"]
    done = subprocess.run(
        [*command, "--engine", "ray", "--json"], cwd=toy, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "RoundError"
    assert error["message"].startswith("1 sites can take part, federation.min_sites is 2.")
    assert done.stderr.splitlines()[-1] == f"RoundError: {error['message']}"
    assert "site 'west': [data] path 'data.csv' does not exist" in done.stderr
    assert not any(noise in done.stderr for noise in ("Traceback", "WARNING", "DEPRECATED", "Ray"))


def test_without_ray_the_engine_says_what_to_install(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"needs the extra foedus\[ray\]; install it or use --engine local"):
        simulation.simulate(toy / "study.toml", toy / "sites", runs=toy / "runs", engine="ray")
    assert not (toy / "runs").exists()


def _processes_of(address: str, *, within_s: float) -> list[Path]:
    """Processes whose command line names the Ray at `address`, once they had time to end."""
    deadline = time.monotonic() + within_s
    while found := [path for path in Path("/proc").glob("[0-9]*/cmdline") if address in _text(path)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it ended meanwhile
        return ""
