"""What watches a coordinator: Prometheus metrics and gRPC health, on private ports beside Control's."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from foedus.errors import ConfigError
from server.health import HealthServer
from server.home import Home
from server.metrics import CoordinatorCollector, MetricsServer

log = logging.getLogger(__name__)
OFF = "off"


def default_metrics(home: Home) -> str:
    """On this machine only, on the port after Control's."""
    return f"127.0.0.1:{home.settings['control_port'] + 1}"


def default_health(home: Home) -> str:
    """On this machine only, two ports after Control's."""
    return f"127.0.0.1:{home.settings['control_port'] + 2}"


@contextmanager
def monitoring(
    home: Home, *, metrics: str | None, health: str | None, restarts: Mapping[str, int]
) -> Iterator[dict[str, str]]:
    """Metrics and health while a coordinator runs; yields what answers where.

    Args:
        home: The coordinator's folder.
        metrics: host:port, "off", or None for the default, which is left out when it is taken.
        health: Likewise.
        restarts: Of the supervised processes.

    Raises:
        ConfigError: If an address that was asked for cannot be used.
    """
    asked = {"metrics": (metrics, default_metrics(home)), "health": (health, default_health(home))}
    places = {}
    with ExitStack() as stack:
        for name, (given, default) in asked.items():
            address = given or default
            if address == OFF:
                continue
            try:
                _check(name, address)
                if name == "metrics":
                    collector = CoordinatorCollector(home, restarts=restarts)
                    stack.callback(MetricsServer(collector, address=address).stop)
                else:
                    server = HealthServer(home, address=address)
                    server.start()
                    stack.callback(server.stop)
            except ConfigError:
                if given is not None:
                    raise
                log.warning("no %s: %s is taken; choose another with --%s", name, address, name)
            else:
                places[name] = address
        yield places


def _check(name: str, address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"--{name}", [f"'{address}' is not HOST:PORT; for example 127.0.0.1:9445, or off"])
