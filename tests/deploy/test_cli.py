"""The commands, as their entry point runs them, and the exit codes scripts rely on."""

import json
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from deploy.answering import Answers
from deploy.journal import Journal
from deploy.serve import Service, Settings
from foedus.cli import main
from foedus.histograms import Histograms

Made = Any
Foedus = Callable[..., tuple[int, str, str]]


@pytest.fixture
def foedus(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Foedus:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["foedus", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


def test_release_verify_withdraw_and_roll_back(foedus: Foedus, made: Made) -> None:
    keys = made.folder / "keys"
    asked = (str(made.run.path), "--key", f"{keys}/hub.key", "--trust", f"{keys}/jane.pub", "--to", "out")
    for version in (1, 2):
        code, out, _ = foedus("release", *asked, "--json")
        assert (code, json.loads(out)["version"]) == (0, version)
    assert foedus("release", "out/toy", "--verify", "--trust", str(keys))[0] == 0
    code, _, err = foedus("release", "out/toy/0002", "--verify", "--trust", f"{keys}/hub.pub")
    assert code == 1
    assert "no auditor's public key" in err
    assert foedus("release", "out/toy", "--withdraw", "--key", f"{keys}/hub.key")[0] == 2
    why = ("--key", f"{keys}/hub.key", "--reason", "recalled")
    assert foedus("release", "out/toy", "--withdraw", *why)[0] == 0
    code, _, err = foedus("serve", "out/toy", "--trust", str(keys))
    assert code == 1
    assert "was withdrawn" in err
    assert foedus("release", "out/toy", "--rollback", *why)[0] == 0
    code, out, _ = foedus("release", "out/toy", "--log", "--trust", str(keys), "--json")
    assert [entry["state"] for entry in json.loads(out)][-2:] == ["withdrawn", "released"]
    assert foedus("release", "out/toy", "--log", "--verify")[0] == 2
    assert foedus("serve", "out/toy", "--trust", str(keys), "--tls-key", "x")[0] == 2


def test_monitor_and_feedback(foedus: Foedus, made: Made, released: Any, tmp_path: Path) -> None:
    keys, bundle = str(made.folder / "keys"), str(released.path)
    service = Service(Settings(released.path, made.keys, address="127.0.0.1:0"))
    served = service.models.get("toy", "").served
    import pandas as pd

    frame = pd.DataFrame({"a": [3.0] * 300, "b": [0.0] * 300, "colour": ["red"] * 300})
    answers: Answers = served.head.answer(served.embedder.embed(frame))
    journal = Journal(tmp_path / "journal")
    journal.note("toy", "1", "day", answers, Histograms(served.head.head))
    journal.close()
    service.stop()
    code, out, _ = foedus("monitor", bundle, "--journal", "journal", "--trust", keys, "--json")
    found = json.loads(out)
    assert (code, found["action"], found["n"]) == (1, "shadow", 300)
    assert foedus("monitor", bundle, "--journal", "journal", "--trust", keys)[0] == 1
    again = ("monitor", bundle, "--journal", "journal", "--trust", keys, "--reopen")
    assert foedus(*again)[0] == 2
    assert foedus(*again, "--reason", "one kind of patient that day")[0] == 0
    Path("reviews.csv").write_text("id,label,reviewer,a,b,colour\nday/0,no,jane,3,0,red\n")
    asked = ("--reviews", "reviews.csv", "--journal", "journal", "--trust", keys)
    code, out, _ = foedus("feedback", "add", bundle, *asked, "--json")
    assert (code, json.loads(out)["added"]) == (0, 1)
    assert foedus("feedback", "check", "--by", "jane")[0] == 2
    assert foedus("feedback", "check", "--by", "maria")[0] == 0
    code, out, _ = foedus("feedback", "list", "--json")
    assert json.loads(out) == {"quarantine": 0, "accepted": 1, "rejected": 0}


def test_an_approval_that_runs_out_while_served_ends_the_service(
    made: Made, released: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deploy import bundle

    service = Service(Settings(released.path, made.keys, address="127.0.0.1:0"))
    try:
        assert service.models.ready
        yesterday = datetime.now(UTC).date() - timedelta(days=1)
        monkeypatch.setattr(bundle.Bundle, "expires", property(lambda _: yesterday))
        service.models.refresh()
        assert not service.models.ready
        assert "expired" in str(service.models.problem)
    finally:
        service.stop()


def test_a_shadow_answers_but_leaves_every_decision_to_a_person(
    made: Made, released: Any, tmp_path: Path
) -> None:
    import tritonclient.grpc as triton

    from foedus import files

    files.write_json(tmp_path / "toy/gate.json", {"action": "shadow", "reasons": ["drift"]})
    service = Service(Settings(released.path, made.keys, address="127.0.0.1:0", journal=tmp_path))
    service.start()
    try:
        client = triton.InferenceServerClient(f"127.0.0.1:{service.port}")
        inputs = []
        for name, kind, value in (("a", "FP64", 3.0), ("b", "FP64", 0.0), ("colour", "BYTES", b"red")):
            tensor = triton.InferInput(name, [1], kind)
            tensor.set_data_from_numpy(np_array(value, kind))
            inputs.append(tensor)
        found = client.infer("toy", inputs)
        assert found.as_numpy("abstain").tolist() == [True]
        assert found.get_response().parameters["gate"].string_param == "shadow"
    finally:
        service.stop()
    shutil.rmtree(tmp_path / "toy")


def np_array(value: Any, kind: str) -> Any:
    import numpy as np

    return np.array([value], object if kind == "BYTES" else np.float64)
