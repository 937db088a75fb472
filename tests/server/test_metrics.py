"""What Prometheus sees of a coordinator, over HTTP and through its own parser."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from clients.membership import Membership
from clients.service import free_port
from foedus.runs import RunFolder
from server.home import Home
from server.metrics import CoordinatorCollector, MetricsServer

ROOT = Path(__file__).parents[2]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def line(number: int, *, seconds: float, refused: tuple[str, ...] = ()) -> dict[str, object]:
    """A finished round."""
    return {
        "round": number,
        "seconds": seconds,
        "bytes_up": 100,
        "bytes_down": 10,
        "rejected": [{"site": site, "reason": "a secret reason"} for site in refused],
    }


def write_run(
    home: Home, toy: Path, status: str, lines: list[dict[str, object]], **more: object
) -> RunFolder:
    """A run folder as a run leaves it."""
    run = RunFolder.create(home.runs, toy / "study.toml", policy=None, engine="superlink", sites="")
    run.set_state(status, **more)
    (run.path / "rounds.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    return run


@pytest.fixture
def home(toy: Path) -> Home:
    home = Home.create(
        toy / "coordinator", name="f", host="127.0.0.1", port=free_port(), control_port=free_port()
    )
    for name in ("east", "north", "south"):
        home.approve(Membership(toy / "sites" / name).request())
    return home


@pytest.fixture
def address(home: Home) -> Iterator[str]:
    address = f"127.0.0.1:{free_port()}"
    server = MetricsServer(CoordinatorCollector(home, restarts={"superlink": 2}), address=address)
    yield address
    server.stop()


def scrape(address: str) -> Samples:
    """Every sample, as Prometheus' own parser reads it."""
    answer = httpx.get(f"http://{address}/metrics")
    assert answer.status_code == 200
    families = list(text_string_to_metric_families(answer.text))
    assert all(family.name.startswith("foedus_") and family.documentation for family in families)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def one(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def test_runs_rounds_sites_and_certificates_are_counted(home: Home, address: str, toy: Path) -> None:
    write_run(home, toy, "finished", [line(1, seconds=0.5), line(2, seconds=40.0, refused=("north",))])
    running = write_run(home, toy, "running", [line(1, seconds=3.0, refused=("north", "east"))], attempts=2)
    (write_run(home, toy, "failed", []).path / "run.json").write_text("{")
    found = scrape(address)
    assert [one(found, "foedus_runs", status=s) for s in ("running", "finished", "failed", "unreadable")] == [
        *(1, 1, 0, 1)
    ]
    assert one(found, "foedus_rounds_total") == 3
    assert one(found, "foedus_round_seconds_count") == 3
    assert one(found, "foedus_round_seconds_sum") == 43.5
    assert one(found, "foedus_round_seconds_bucket", le="5.0") == 2
    assert one(found, "foedus_round_bytes_total", direction="up") == 300
    assert one(found, "foedus_site_failures_total", site="north") == 2
    assert one(found, "foedus_site_failures_total", site="east") == 1
    assert one(found, "foedus_site_failures_total", site="south") == 0
    assert one(found, "foedus_run_round", run=running.run_id) == 1
    assert one(found, "foedus_run_rounds_planned", run=running.run_id) == 4
    assert one(found, "foedus_run_resubmissions_total") == 2
    assert one(found, "foedus_process_restarts_total", process="superlink") == 2
    assert one(found, "foedus_sites_approved") == 3
    assert one(found, "foedus_sites_online") == 0
    assert one(found, "foedus_server_up") == 0
    assert one(found, "foedus_state_writable") == 0
    assert 396 <= one(found, "foedus_certificate_days_left", certificate="server") <= 398
    running.set_state("finished")
    assert one(scrape(address), "foedus_runs", status="finished") == 2


def test_nothing_of_a_site_is_shown_but_its_name_and_counts(home: Home, address: str, toy: Path) -> None:
    write_run(home, toy, "failed", [line(1, seconds=1.0, refused=("north",))], problem="a private reason")
    text = httpx.get(f"http://{address}/metrics").text
    assert "reason" not in text
    assert str(toy) not in text
    assert set(re.findall(r"[{,](\w+)=", text)) <= {
        *("foedus", "flwr", "certificate", "process", "site", "status", "run", "le", "direction")
    }
