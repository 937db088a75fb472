"""The grid of `--engine ray`: Flower's simulation runtime, one process a core, sites dealt out between them.

Left to itself Ray listens on every network interface, reports its use, keeps the sites' logs
below /tmp and changes the environment. Here it is bound to loopback, silent, in a private folder
that is gone afterwards, and the environment is put back.
"""

import importlib.util
import logging
import os
import queue
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore import telemetry

from foedus.door import SITE_REFUSED
from foedus.errors import ConfigError, RunError
from server.rounds import CohortGrid

OBJECT_STORE_BYTES = 256 * 2**20
"""Shared memory for messages under way; Ray's own choice is a third of the machine."""
START_TIMEOUT_S = 60.0
POLL_S = 0.05
ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_LOG_LEVEL": "CRITICAL",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Read when ray is imported: without a cluster, every socket is bound to loopback.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Leaves the devices alone: a site's own site.toml says which it uses.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Every line a site logs, as plain text: sites that fail alike are each worth a line.
    "RAY_DEDUP_LOGS": "0",
    "RAY_COLOR_PREFIX": "0",
}


@contextmanager
def ray_grid(client_app: ClientApp, n_sites: int, *, variables: Mapping[str, str]) -> Iterator[Grid]:
    """A grid of `n_sites` nodes; node configuration tells each its partition.

    Args:
        client_app: The app every site runs.
        n_sites: Number of nodes.
        variables: Environment of the processes that run the app.

    Raises:
        ConfigError: If Ray is not installed.
        RunError: If Ray is already in use in this process, or does not start.
    """
    with ExitStack() as stack:
        stack.enter_context(_environment({**ENVIRONMENT, **variables}))
        stack.enter_context(_quiet())
        _start_ray(stack, n_workers=min(_cores(), n_sites))
        yield stack.enter_context(_runtime(client_app, n_sites))


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Add `variables`, and afterwards put everything back, with what Ray and Flower changed."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Flower neither reports home nor tells what the round engine tells already."""
    logger, reports = logging.getLogger("flwr"), telemetry.FLWR_TELEMETRY_ENABLED
    before = logger.disabled
    logger.disabled, telemetry.FLWR_TELEMETRY_ENABLED = True, "0"
    try:
        yield
    finally:
        logger.disabled, telemetry.FLWR_TELEMETRY_ENABLED = before, reports


def _cores() -> int:
    """The cores this process may use: fewer than the machine has under taskset or a scheduler."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def require_ray() -> None:
    """Raise ConfigError if Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        problem = "engine 'ray' needs the extra foedus[ray]; install it or use --engine local"
        raise ConfigError("simulate", [problem])


def _start_ray(stack: ExitStack, *, n_workers: int) -> None:
    """Start a Ray of our own, which ends with `stack`."""
    require_ray()
    import ray

    if ray.is_initialized():
        raise RunError("Ray is already running in this process; call ray.shutdown() or use engine 'local'.")
    own_address: Callable[[], str] = ray.util.get_node_ip_address
    address = own_address()
    if address not in ("127.0.0.1", "::1"):  # any other, even 127.0.0.2, and Ray listens everywhere
        raise RunError(
            f"Ray would listen on {address}; set RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 before it is imported."
        )
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True))
    stack.callback(ray.shutdown)
    try:
        ray.init(
            address="local",
            num_cpus=n_workers,
            num_gpus=0,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            logging_level=logging.ERROR,
            _temp_dir=str(Path(folder, "r")),  # Ray opens its own folder to everyone; not the one above
        )
    except (RuntimeError, OSError, ValueError) as error:
        raise RunError(f"Ray did not start ({error}); mend that or use --engine local.") from error


@contextmanager
def _runtime(client_app: ClientApp, n_sites: int) -> Iterator[Grid]:
    """Flower's runtime in a thread; its ServerApp only hands over the grid, and waits.

    So the caller's errors and interrupts are the caller's own, not wrapped by the runtime.
    """
    from flwr.simulation import run_simulation

    grids: queue.SimpleQueue[Grid] = queue.SimpleQueue()
    done = Event()
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        grids.put(grid)
        done.wait()

    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    thread = Thread(
        target=run_simulation, args=(server_app, client_app, n_sites), kwargs={"backend_config": resources}
    )
    thread.start()
    try:
        grid = _await_nodes(grids, n_sites)
        yield RuntimeGrid(grid, sorted(grid.get_node_ids()))
    finally:
        done.set()
        thread.join()


def _await_nodes(grids: "queue.SimpleQueue[Grid]", n_sites: int) -> Grid:
    """The grid, once all nodes are on it: Flower starts the ServerApp before it registers them."""
    deadline = time.monotonic() + START_TIMEOUT_S
    grid: Grid | None = None
    while time.monotonic() < deadline:
        try:
            grid = grid or grids.get(timeout=POLL_S)
        except queue.Empty:
            continue
        if len(list(grid.get_node_ids())) == n_sites:
            return grid
        time.sleep(POLL_S)
    raise RunError(
        f"Flower's runtime did not start {n_sites} sites in {START_TIMEOUT_S:g} s; use --engine local."
    )


class RuntimeGrid(CohortGrid):
    """The runtime's grid. A site that fails is left out of a round; a runtime that fails ends the run."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that have come.

        Raises:
            RunError: If a process died, so that the sites it was running cannot answer.
        """
        replies = list(super().pull_messages(message_ids))
        for reply in replies:
            if reply.has_error() and reply.error.code != SITE_REFUSED:
                kind = str(reply.error.reason).partition(":")[0].strip("<>'").rpartition(".")[2]
                raise RunError(
                    f"a process that runs sites ended early ({kind}); most often memory ran out. "
                    "Free some, then foedus resume goes on from the last round."
                )
        return replies
