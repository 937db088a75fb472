"""foedus audit mitigate on a small run: what is logged and written, what stays as it was, what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foedus.runs import RunFolder

Toy = Any
"""The class in tests/foedus/conftest.py, which no test can import."""

POLICY = """
[policy]
name = "toy"
profile = "lending"
[attributes]
sex = ["f", "m"]
[evidence]
min_sites = 1
[mitigation]
max_accuracy_loss = 0.2
"""


@pytest.fixture
def biased(toy: Toy) -> Toy:
    """Men are labelled "yes" more often, and column b tells who is a man."""
    (toy.folder / "policy.toml").write_text(POLICY)

    def rewrite(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        rng = np.random.default_rng(len(rows))
        found = []
        for i in range(400):
            a, man = float(rng.normal()), i % 2
            b = man + 0.3 * float(rng.normal())
            y = "yes" if a + 1.5 * man + 0.5 * float(rng.normal()) > 0.75 else "no"
            found.append({"id": str(i), "a": f"{a:.4f}", "b": f"{b:.4f}", "y": y, "sex": "fm"[man]})
        return found

    for name in ("east", "north", "west"):
        toy.spoil(name, rewrite)
    return toy


def finished(toy: Toy) -> Path:
    assert toy.simulate("--no-reference").code in (0, 1)
    [run] = toy.finished()
    return Path(run)


def test_candidates_are_logged_and_the_chosen_one_is_audited(biased: Toy) -> None:
    run = finished(biased)
    before = (run / "audit.json").read_bytes()
    done = biased.foedus("audit", "mitigate", run.name, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found == json.loads((run / "mitigation.json").read_text())
    assert (run / "audit.json").read_bytes() == before
    alternatives = found["alternatives"]
    assert {each["attribute"] for each in alternatives} == {None, "sex"}
    assert len({each["threshold"] for each in alternatives}) == 5
    [chosen] = [each for each in alternatives if each["chosen"]]
    key = "selection_rate by sex"
    assert chosen["figures"][key] > alternatives[0]["figures"][key]
    lines = RunFolder.open(run).events("alternative")
    assert [line["name"] for line in lines] == [each["name"] for each in alternatives]
    offers = {each["name"]: each for each in found["offers"]}
    assert "legal_basis" in offers["thresholds by sex"]["refused"]
    [trained] = [
        offer for name, offer in offers.items() if name.startswith("balanced") or "as trained" in name
    ]
    [gate] = trained["gates"]
    assert gate["after"]["value"] > gate["before"]["value"]
    html = (run / "report.html").read_text()
    assert 'id="mitigation"' in html
    assert "Search for a less discriminatory alternative" in html


def test_everything_still_verifies_afterwards(biased: Toy) -> None:
    run = finished(biased)
    done = biased.foedus("audit", "mitigate", run.name)
    assert done.code == 0, done.err
    assert "every metric before → after, on test data" in " ".join(done.out.split())
    assert biased.foedus("audit", "verify", run.name).code == 0
    for site in ("east", "north", "west"):
        assert biased.foedus("site", "verify-audit", str(run), "--folder", f"sites/{site}").code == 0


def test_the_same_run_gives_the_same_mitigation(biased: Toy) -> None:
    run = finished(biased)
    assert biased.foedus("audit", "mitigate", run.name).code == 0
    first = (run / "mitigation.json").read_bytes()
    assert biased.foedus("audit", "mitigate", run.name).code == 0
    assert (run / "mitigation.json").read_bytes() == first


def test_a_run_without_an_audit_has_nothing_to_mitigate(toy: Toy) -> None:
    toy.change('[fairness]\npolicy = "policy.toml"\n', "")
    run = finished(toy)
    done = toy.foedus("audit", "mitigate", run.name)
    assert done.code == 2
    assert "the run has no audit; there is no gap to look at" in done.err
