"""Names of Flower's own that are not public: an upgrade that moves one fails here, not at a site."""

import importlib
import os
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from flwr.clientapp.client_app import LoadClientAppError

from clients import executor, node
from foedus import __version__, executing
from foedus.errors import RunError
from server import app, backup, callers, control, delivery, gate, turns
from server import executor as server_executor
from server.home import RUNS_VARIABLE

SPEC = ("runtime_api_address", "token", "insecure", "parent_pid", "root_certificates_path")
"""What Flower tells an executor of a task."""


@pytest.mark.parametrize(
    "name",
    [
        *(*gate.PRIVATE_NAMES, *backup.PRIVATE_NAMES, *server_executor.PRIVATE_NAMES, *app.PRIVATE_NAMES),
        *(*callers.PRIVATE_NAMES, *delivery.PRIVATE_NAMES, *turns.PRIVATE_NAMES),
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


def test_work_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "LONGEST_S", 1)
    monkeypatch.setattr(executor.flower, "run_clientapp", lambda **given: time.sleep(60))
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # pytest's own timeout uses it, too
            executor.answer(SimpleNamespace(**dict.fromkeys(SPEC)), keeper=1)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGALRM


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


def test_work_ends_with_the_supervisor_and_not_with_the_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}
    monkeypatch.setattr(executor.flower, "run_clientapp", lambda **words: given.update(words))
    monkeypatch.setattr(executor.signal, "alarm", lambda seconds: None)
    spec = SimpleNamespace(**(dict.fromkeys(SPEC) | {"parent_pid": 17}))
    executor.answer(spec, keeper=4)
    assert given["parent_pid"] == 4
