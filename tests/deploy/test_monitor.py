"""A service's journal against its audit: quiet while nothing changes, and a breach closes the gate."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from deploy.bundle import Bundle
from deploy.monitor import monitor, reopen
from deploy.serve import Service, Settings
from foedus.errors import DataError, ReleaseError
from foedus.releasing import release
from foedus.runs import RunFolder
from foedus.simulation import audit_again

Made = Any
Row = dict[str, Any]


def people(n: int, *, seed: int, shift: float = 0.0) -> list[Row]:
    """Like the sites': yes where a + noise is above b."""
    rng = np.random.default_rng(seed)
    a, b, noise = rng.normal(size=(3, n))
    return [
        {
            "id": f"p{seed}/{i}",
            "a": float(a[i] + shift),
            "b": float(b[i]),
            "colour": ["red", "green"][i % 2],
            "label": "yes" if a[i] + noise[i] / 2 > b[i] else "no",
            "sex": "fm"[i // 2 % 2],
        }
        for i in range(n)
    ]


def tensors(rows: list[Row]) -> list[Any]:
    found = []
    for name, kind in (("a", "FP64"), ("b", "FP64"), ("colour", "BYTES")):
        tensor = triton.InferInput(name, [len(rows)], kind)
        values = [row[name].encode() if kind == "BYTES" else row[name] for row in rows]
        tensor.set_data_from_numpy(np.array(values, object if kind == "BYTES" else np.float64))
        found.append(tensor)
    return found


@pytest.fixture(scope="module")
def stopping(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A release whose policy stops the service on a breach."""
    from foedus.approval import approve

    folder = tmp_path_factory.mktemp("stopping")
    run = RunFolder(Path(shutil.copytree(made.run.path, folder / "runs" / made.run.run_id)))
    policy = folder / "policy.toml"
    text = (made.folder / "policy.toml").read_text()
    policy.write_text(text + '[monitoring]\nbreach = "stop"\n')
    audit_again(run, policy=policy)
    approve(run, made.jane, waive={"policy": "monitoring was added"})
    return release(run, made.hub, keys=[made.jane.public], to=folder / "releases")


@pytest.fixture
def ask(stopping: Bundle, made: Made, tmp_path: Path) -> Callable[[list[Row]], Service]:
    """Sends rows to a service with a journal, then stops it so that the journal is whole."""

    def send(rows: list[Row]) -> Service:
        service = Service(
            Settings(stopping.path, made.keys, address="127.0.0.1:0", journal=tmp_path / "journal")
        )
        service.start()
        client = triton.InferenceServerClient(f"127.0.0.1:{service.port}")
        for at in range(0, len(rows), 200):
            part = rows[at : at + 200]
            client.infer("toy", tensors(part), request_id=part[0]["id"].split("/")[0] + f"-{at}")
        service.stop()
        return service

    return send


def labels_of(path: Path, rows: list[Row]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label", "sex"])
        for i, row in enumerate(rows):
            name = row["id"].split("/")[0]
            writer.writerow([f"{name}-{i // 200 * 200}/{i % 200}", row["label"], row["sex"]])
    return path


def test_the_same_people_raise_no_alarm(
    ask: Callable[..., Service], stopping: Bundle, tmp_path: Path
) -> None:
    rows = people(1000, seed=11)
    ask(rows)
    found = monitor(stopping, tmp_path / "journal", labels=labels_of(tmp_path / "labels.csv", rows))
    assert (found.n, found.n_labelled, found.notes) == (1000, 1000, [])
    assert found.breaches == []
    assert {"feature a", "score of yes", "winning probability", "abstentions", "calibration"} <= {
        finding.what for finding in found.findings
    }
    assert {"accuracy in sex f", "tpr in sex m"} <= {finding.what for finding in found.findings}
    assert [line["n"] for line in found.groups if line["metric"] == "accuracy"] == [500, 500]
    assert not (tmp_path / "journal/toy/gate.json").exists()


def test_a_shifted_column_closes_the_gate_until_someone_opens_it(
    ask: Callable[..., Service], stopping: Bundle, made: Made, tmp_path: Path
) -> None:
    ask(people(2000, seed=12, shift=0.3))
    journal = tmp_path / "journal"
    found = monitor(stopping, journal)
    assert "feature a" in [finding.what for finding in found.breaches]
    assert found.action == "stop"
    service = Service(
        Settings(stopping.path, made.keys, address="127.0.0.1:0", journal=journal, refresh_s=60)
    )
    service.start()
    try:
        client = triton.InferenceServerClient(f"127.0.0.1:{service.port}")
        assert not client.is_server_ready()
        with pytest.raises(InferenceServerException, match="monitoring has closed the gate: feature a"):
            client.infer("toy", tensors(people(1, seed=1)))
        reopen(journal, "toy", reason="a new scanner, looked at")
        service.models.refresh()
        assert client.is_server_ready()
    finally:
        service.stop()
    with pytest.raises(ReleaseError, match="is open"):
        reopen(journal, "toy", reason="again")
    log = [json.loads(line)["action"] for line in (journal / "toy/gate.jsonl").read_text().splitlines()]
    assert log == ["stop", "none"]


def test_a_groups_error_doubling_closes_the_gate(
    ask: Callable[..., Service], stopping: Bundle, tmp_path: Path
) -> None:
    rows = people(1200, seed=13)
    ask(rows)
    journal, path = tmp_path / "journal", tmp_path / "labels.csv"
    lines = (journal / "toy/predictions").glob("*.jsonl")
    said = [json.loads(text)["label"] for file in lines for text in file.read_text().splitlines()]
    women = [i for i, row in enumerate(rows) if row["sex"] == "f"]
    wrong = [i for i in women if said[i] != rows[i]["label"]]
    right = [i for i in women if said[i] == rows[i]["label"]]
    for i in right[: len(wrong)]:
        rows[i]["label"] = "no" if said[i] == "yes" else "yes"
    found = monitor(stopping, journal, labels=labels_of(path, rows))
    assert "accuracy in sex f" in [finding.what for finding in found.breaches]
    assert "gate tpr:sex" in [finding.what for finding in found.findings]
    assert not {"accuracy in sex m", "feature a"} & {finding.what for finding in found.breaches}
    assert json.loads((journal / "toy/gate.json").read_text())["action"] == "stop"


def test_too_little_says_so_and_nothing_is_an_error(
    ask: Callable[..., Service], stopping: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="holds nothing of version 1"):
        monitor(stopping, tmp_path / "journal")
    rows = people(20, seed=14)
    ask(rows)
    journal = tmp_path / "journal"
    kept = shutil.move(journal / "toy/windows", tmp_path / "windows")
    assert monitor(stopping, journal).notes == [
        "0 records are fewer than the policy's 200: nothing is said of drift; 20 more have no histogram yet (one is "
        "written for every 500, and at the end)"
    ]
    shutil.move(kept, journal / "toy/windows")
    found = monitor(stopping, journal, labels=labels_of(tmp_path / "labels.csv", rows))
    assert [note.split(" are ")[0] for note in found.notes] == ["20 records", "20 labels"]
    assert found.action == "none"
    bad = tmp_path / "bad.csv"
    bad.write_text("name,label\nx,yes\n")
    with pytest.raises(DataError, match="it needs id and label"):
        monitor(stopping, tmp_path / "journal", labels=bad)
