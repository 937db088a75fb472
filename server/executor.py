"""What runs the ServerApp of a coordinator: its own installed code, on run folders of its own home.

    python -m server.executor --runtime HOST:PORT --secret FILE --authority FILE

Who holds a coordinator's token can start studies with it, but no other code, and no run elsewhere.
"""

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from queue import Queue
from typing import Any

from flwr.cli.config_utils import get_fab_metadata
from flwr.supercore.constant import TaskType

from foedus import executing
from foedus.errors import RunError
from server.app import NODES_KEY, RUN_KEY, app
from server.home import NODES, RUNS_VARIABLE

flower: Any = importlib.import_module("flwr.superlink.runtime.run_serverapp")
"""The module; its package has a function of the same name."""
PRIVATE_NAMES = (
    "flwr.superlink.runtime.run_serverapp:install_from_fab",
    "flwr.superlink.runtime.run_serverapp:get_project_config",
    "flwr.superlink.runtime.run_serverapp:get_fused_config_from_dir",
    "flwr.superlink.runtime.run_serverapp:run_",
    "flwr.superlink.runtime.run_serverapp:run_serverapp",
    "flwr.cli.config_utils:get_fab_metadata",
)
"""Flower's names that are replaced or called here and are not public; a test imports each."""


def look(content: bytes, **options: Any) -> None:
    """In place of Flower's installer: refuse another app or version; the bundle stays packed.

    Raises:
        RunError: If the run wants another.
    """
    if (problem := executing.mismatch(*get_fab_metadata(content))) is not None:
        raise RunError(problem)


def run_config(folder: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The one thing a run may say: its folder, which must be one of this coordinator's; and who the sites are.

    Raises:
        RunError: If it is elsewhere.
    """
    runs = Path(os.environ[RUNS_VARIABLE]).resolve()
    run = Path(str(given.get(RUN_KEY, ""))).resolve()
    if run.parent != runs:
        raise RunError("the run's folder is not one of this coordinator's; start studies with foedus run")
    return {RUN_KEY: str(run), NODES_KEY: str(runs.parent / NODES)}


def conduct(*, grid: Any, context: Any, **ignored: Any) -> Any:
    """In place of Flower's loader: the installed ServerApp."""
    app(grid=grid, context=context)
    return context


def answer(spec: Any) -> None:
    """One run."""
    flower.run_serverapp(
        runtime_api_address=spec.runtime_api_address,
        log_queue=Queue(),
        token=spec.token,
        insecure=spec.insecure,
        certificates=executing.certificates(spec),
        parent_pid=spec.parent_pid,
        runtime_dependency_install=False,
    )


def main() -> None:
    """Serve a SuperLink on this machine until stopped."""
    given = executing.arguments("Runs the installed ServerApp for a SuperLink.")
    flower.install_from_fab = look
    flower.get_project_config = lambda path: {
        "tool": {"flwr": {"app": {"components": {"serverapp": "server.app:app"}}}}
    }
    flower.get_fused_config_from_dir = run_config
    flower.run_ = conduct
    executing.serve(
        TaskType.SERVER_APP, answer, runtime=given.runtime, secret=given.secret, authority=given.authority
    )


if __name__ == "__main__":
    main()
