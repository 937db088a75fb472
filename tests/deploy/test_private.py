"""A private study has no budget for thresholds and histograms: it is served without, and monitored by labels."""

from pathlib import Path
from typing import Any

import pytest

from deploy.served import load
from foedus import files
from foedus.approval import approve
from foedus.releasing import release
from foedus.runs import HISTOGRAMS_FILE, SERVING_FILE
from foedus.simulation import simulate

Made = Any


@pytest.mark.slow
def test_a_private_study_is_released_without_what_it_could_not_pay_for(made: Made, tmp_path: Path) -> None:
    study = (made.folder / "study.toml").read_text()
    study = study.replace('mode = "open"', 'mode = "local-dp"\nepsilon = 10.0')
    (tmp_path / "study.toml").write_text(study.replace('kind = "number"', 'kind = "number"\nrange = [-5, 5]'))
    text = (made.folder / "policy.toml").read_text()
    (tmp_path / "policy.toml").write_text(text.replace("tolerance = 0.9", "tolerance = 0.99"))
    for name in ("east", "north", "west"):
        site = tmp_path / "sites" / name
        files.write_bytes(site / "data.csv", (made.folder / "sites" / name / "data.csv").read_bytes())
        about = (made.folder / "sites" / name / "site.toml").read_text()
        (site / "site.toml").write_text(
            about.replace('["open", "secure-only"]', '["local-dp"]\nepsilon_cap = 20.0')
        )
    run, outcome = simulate(
        tmp_path / "study.toml", tmp_path / "sites", runs=tmp_path / "runs", reference=False
    )
    assert not (run.path / HISTOGRAMS_FILE).exists()
    assert files.read_json(run.path / SERVING_FILE)["prediction_sets"] is None
    assert outcome.audit is not None
    waive = {} if outcome.audit.verdict == "pass" else {"tpr:sex": "noise; reviewed"}
    approve(run, made.jane, waive=waive)
    found = release(run, made.hub, keys=[made.jane.public], to=tmp_path / "out")
    served = load(found.path, made.keys)
    assert not served.head.with_sets
    privacy = files.read_json(found.path / "privacy.json")
    assert privacy["at_site"] is None or privacy["at_site"]["site"] == "one site"
    served.batcher.close()
