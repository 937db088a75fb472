"""Names of Flower's own that are not public: an upgrade that moves one fails here, not at a site."""

import importlib
import subprocess
from pathlib import Path

import pytest
from flwr.clientapp.client_app import LoadClientAppError

from clients import executor, node
from foedus import __version__, executing
from foedus.errors import RunError
from server import app, backup, callers, control, gate, replies, turns
from server import executor as server_executor
from server.home import RUNS_VARIABLE


@pytest.mark.parametrize(
    "name",
    [
        *(*gate.PRIVATE_NAMES, *backup.PRIVATE_NAMES, *server_executor.PRIVATE_NAMES, *app.PRIVATE_NAMES),
        *(*callers.PRIVATE_NAMES, *replies.PRIVATE_NAMES, *turns.PRIVATE_NAMES),
        *(*executor.PRIVATE_NAMES, *node.PRIVATE_NAMES, *executing.PRIVATE_NAMES),
    ],
)
def test_flowers_private_names_are_where_we_use_them(name: str) -> None:
    module, _, path = name.partition(":")
    found = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    assert found is not None


def test_the_executor_runs_the_installed_app_of_the_same_version_only() -> None:
    assert executor.load("foedus/foedus", __version__, "any") is executor.installed
    for name, version in (("foedus/foedus", "0.0.1"), ("other/app", __version__)):
        with pytest.raises(LoadClientAppError, match="runs foedus/foedus"):
            executor.load(name, version, "any")


def test_a_coordinator_runs_the_installed_app_in_its_own_folder_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RUNS_VARIABLE, str(tmp_path))
    inside = {"run-folder": str(tmp_path / "a"), "more": 1}
    said = {"run-folder": str(tmp_path / "a"), "nodes-file": str(tmp_path.parent / "nodes.json")}
    assert server_executor.run_config(Path(), inside) == said
    for folder in (str(tmp_path), str(tmp_path / "a/../../b"), "/etc", ""):
        with pytest.raises(RunError, match="not one of this coordinator's"):
            server_executor.run_config(Path(), {"run-folder": folder})
    for version in ("0.0.1", __version__):
        bundle = control._bundle(tmp_path / "foedus", version=version)
        if version == __version__:
            server_executor.look(bundle)
        else:
            with pytest.raises(RunError, match="runs foedus/foedus"):
                server_executor.look(bundle)


def test_what_is_left_of_an_earlier_message_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executing, "GRACE_S", 0.0)
    forks = executing.Forks()
    children = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    try:
        for child in children:
            forks.add(child.pid)
        forks.end_old()
        assert children[0].wait(10) == -9
        assert children[1].poll() is None
    finally:
        for child in children:
            child.kill()
            child.wait()
