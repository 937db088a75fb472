"""Names of Flower's own that are not public: an upgrade that moves one fails here, not at a site."""

import importlib

import pytest
from flwr.clientapp.client_app import LoadClientAppError

from clients import executor, node
from foedus import __version__
from server import backup, gate


@pytest.mark.parametrize(
    "name",
    [*gate.PRIVATE_NAMES, *executor.PRIVATE_NAMES, *node.PRIVATE_NAMES, *backup.PRIVATE_NAMES],
)
def test_flowers_private_names_are_where_we_use_them(name: str) -> None:
    module, _, path = name.partition(":")
    found = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    assert callable(found)


def test_the_executor_runs_the_installed_app_of_the_same_version_only() -> None:
    assert executor.load("foedus/foedus", __version__, "any") is executor.installed
    for app, version in (("foedus/foedus", "0.0.1"), ("other/app", __version__)):
        with pytest.raises(LoadClientAppError, match="runs foedus/foedus"):
            executor.load(app, version, "any")


def test_the_executor_answers_as_a_client_and_nothing_else() -> None:
    kinds, _ = executor.only_clients(executor.SubprocessExecutor(), set())
    assert [kind.name for kind in kinds] == ["CLIENT_APP"]
    assert executor.keep_packed(b"PK") is None
