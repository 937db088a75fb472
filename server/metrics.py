"""What a coordinator tells Prometheus: counts of runs, rounds and sites, never a site's data.

Every figure is read when it is asked for, from run folders and the server, so that a restart loses none.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flwr
import httpx
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from foedus import __version__, pki
from foedus.errors import ConfigError, FoedusError
from foedus.runs import ROUNDS_FILE, STATE_FILE, RunFolder
from server.control import Control, key_bytes
from server.health import unwritable
from server.home import Home

log = logging.getLogger(__name__)

BUCKETS_S = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
STATUSES = ("running", "finished", "failed", "stopped", "unreadable")
CERTIFICATES = {"server": pki.SERVER_CERTIFICATE, "authority": pki.CA_CERTIFICATE}


@dataclass(frozen=True)
class RunFigures:
    """What counts of one run.

    Attributes:
        status: As in run.json; "unreadable" if it is not to be read.
        attempts: Times it was submitted again.
        planned: Rounds the study asks for.
        seconds: Of each finished round.
        failures: Site name to the rounds it did not count in.
        bytes_up: To the coordinator.
        bytes_down: To the sites.
    """

    status: str
    attempts: int
    planned: int
    seconds: tuple[float, ...]
    failures: Mapping[str, int]
    bytes_up: int
    bytes_down: int


UNREADABLE = RunFigures("unreadable", 0, 0, (), {}, 0, 0)


def read_run(path: Path) -> RunFigures:
    """The figures of one run folder; a damaged one is counted as unreadable, nothing more."""
    try:
        run = RunFolder.open(path)
        state, lines = run.state(), run.rounds()
        failures = Counter(refused["site"] for line in lines for refused in line["rejected"])
        return RunFigures(
            status=str(state["status"]) if state["status"] in STATUSES else "unreadable",
            attempts=int(state.get("attempts", 0)),
            planned=run.study().federation.rounds,
            seconds=tuple(float(line["seconds"]) for line in lines),
            failures=failures,
            bytes_up=sum(int(line["bytes_up"]) for line in lines),
            bytes_down=sum(int(line["bytes_down"]) for line in lines),
        )
    except (FoedusError, OSError, ValueError, KeyError, TypeError):
        return UNREADABLE


class CoordinatorCollector(Collector):
    """Prometheus' view of a coordinator.

    Args:
        home: Its folder.
        restarts: Name of each supervised process to how often it was started again.
    """

    def __init__(self, home: Home, *, restarts: Mapping[str, int] | None = None) -> None:
        self._home = home
        self._restarts = restarts or {}
        self._known: dict[Path, tuple[object, RunFigures]] = {}

    def collect(self) -> Iterator[Metric]:
        """Every metric, as it is now."""
        yield from self._server()
        yield from self._sites()
        yield from self._runs(self._read_runs())

    def describe(self) -> Iterable[Metric]:
        """Nothing: so that registering asks no server."""
        return []

    def _server(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("foedus_build_info", "Versions.", labels=["foedus", "flwr"])
        build.add_metric([__version__, flwr.__version__], 1)
        yield build
        writable = not unwritable(self._home.database)
        yield GaugeMetricFamily(
            "foedus_state_writable", "1 if the server's state can be written.", value=writable
        )
        days = GaugeMetricFamily(
            "foedus_certificate_days_left", "Days until a certificate expires.", labels=["certificate"]
        )
        for name, file in CERTIFICATES.items():
            days.add_metric([name], pki.days_left(self._home.pki / file))
        yield days
        restarts = CounterMetricFamily(
            "foedus_process_restarts", "Times a process was started again.", labels=["process"]
        )
        for name, count in self._restarts.items():
            restarts.add_metric([name], count)
        yield restarts

    def _sites(self) -> Iterator[Metric]:
        approved = self._home.approved()
        try:
            nodes = Control(self._home, role="auditor").nodes()
        except (FoedusError, OSError, httpx.HTTPError):
            nodes = None
        yield GaugeMetricFamily("foedus_server_up", "1 if the server answers.", value=nodes is not None)
        yield GaugeMetricFamily("foedus_sites_approved", "Sites that may sign in.", value=len(approved))
        online = GaugeMetricFamily("foedus_site_online", "1 if a site is signed in.", labels=["site"])
        states = {
            name: (nodes or {}).get(key_bytes(request.node), (0, ""))[1] == "online"
            for name, request in approved.items()
        }
        for name, is_online in states.items():
            online.add_metric([name], is_online)
        yield online
        yield GaugeMetricFamily("foedus_sites_online", "Sites signed in.", value=sum(states.values()))

    def _runs(self, runs: Mapping[str, RunFigures]) -> Iterator[Metric]:
        states = GaugeMetricFamily("foedus_runs", "Runs by status.", labels=["status"])
        counted = Counter(run.status for run in runs.values())
        for status in STATUSES:
            states.add_metric([status], counted[status])
        yield states
        again = sum(run.attempts for run in runs.values())
        yield CounterMetricFamily(
            "foedus_run_resubmissions", "Runs submitted again after a kill.", value=again
        )
        current = GaugeMetricFamily("foedus_run_round", "Finished rounds of a running run.", labels=["run"])
        planned = GaugeMetricFamily("foedus_run_rounds_planned", "Rounds of a running run.", labels=["run"])
        for name, run in runs.items():
            if run.status == "running":
                current.add_metric([name], len(run.seconds))
                planned.add_metric([name], run.planned)
        yield from (current, planned)
        seconds = [value for run in runs.values() for value in run.seconds]
        yield CounterMetricFamily("foedus_rounds", "Finished rounds.", value=len(seconds))
        yield _histogram("foedus_round_seconds", "Seconds of a finished round's training.", seconds)
        traffic = CounterMetricFamily("foedus_round_bytes", "Bytes of finished rounds.", labels=["direction"])
        traffic.add_metric(["up"], sum(run.bytes_up for run in runs.values()))
        traffic.add_metric(["down"], sum(run.bytes_down for run in runs.values()))
        yield traffic
        failures = CounterMetricFamily(
            "foedus_site_failures", "Rounds in which a site did not count.", labels=["site"]
        )
        total: Counter[str] = Counter(dict.fromkeys(self._home.approved(), 0))
        for run in runs.values():
            total.update(run.failures)
        for site, count in sorted(total.items()):
            failures.add_metric([site], count)
        yield failures

    def _read_runs(self) -> dict[str, RunFigures]:
        """Each run's figures; a folder that did not change since is not read again."""
        known: dict[Path, tuple[object, RunFigures]] = {}
        for path in sorted(file.parent for file in self._home.runs.glob(f"*/{STATE_FILE}")):
            stamp = (_stamp(path / STATE_FILE), _stamp(path / ROUNDS_FILE))
            before = self._known.get(path)
            known[path] = before if before and before[0] == stamp else (stamp, read_run(path))
        self._known = known
        return {path.name: figures for path, (_, figures) in known.items()}


class MetricsServer:
    """Serves /metrics over HTTP, for this machine or a private network.

    Args:
        collector: What to show.
        address: host:port to listen on.

    Raises:
        ConfigError: If that address cannot be listened on.
    """

    def __init__(self, collector: CoordinatorCollector, *, address: str) -> None:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(collector)
        host, _, port = address.rpartition(":")
        try:
            self._server, self._thread = start_http_server(
                int(port), addr=host.strip("[]"), registry=registry
            )
        except OSError as error:
            problem = f"{address} cannot be listened on ({error.strerror}); choose another"
            raise ConfigError("--metrics", [problem]) from None

    def stop(self) -> None:
        """No longer answer."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _histogram(name: str, what: str, values: list[float]) -> Metric:
    buckets = [(str(limit), float(sum(value <= limit for value in values))) for limit in BUCKETS_S]
    found = HistogramMetricFamily(name, what)
    found.add_metric([], [*buckets, ("+Inf", float(len(values)))], sum_value=sum(values))
    return found


def _stamp(path: Path) -> Any:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
