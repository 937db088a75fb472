"""Whole studies with aligned features, and with a zero-shot baseline."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from clients.workplace import Workplace
from foedus import files, simulation
from foedus.adaptation import fit
from foedus.backbones import Standardiser
from foedus.errors import FewShotError
from foedus.runs import HEAD_FILE, RunFolder

TEXTS = """
[study]
name = "stories"
classes = ["grain", "oil"]
class_texts = ["wheat and corn", "crude oil"]
[backbone]
source = "bundled:minilm-l6"
[federation]
rounds = 1
min_sites = 2
[door]
mode = "open"
"""
TEXT_SITE = """
[site]
name = "{name}"
[data]
kind = "text"
path = "data.csv"
label = "topic"
[policy]
doors = ["open"]
"""
FEWSHOT = """
[fewshot]
methods = ["ridge"]
n_way = 2
n_shot = 2
n_query = 2
episodes = 20
curve_shots = [2]
new_sites = ["west"]
"""


def _stretch(folder: Path, a: float, b: float) -> None:
    """A site whose columns are in other units, and mixed."""
    frame = pd.read_csv(folder / "data.csv")
    frame["a"], frame["b"] = a * frame["a"] + 0.8 * frame["b"], b * frame["b"] + 5
    frame.to_csv(folder / "data.csv", index=False)


def _simulate(toy: Path, align: str, name: str, *, more: str = "", door: str = "open") -> RunFolder:
    text = (toy / "study.toml").read_text().replace("[backbone]", f'[backbone]\nalign = "{align}"')
    (toy / f"{name}.toml").write_text(text.replace('mode = "open"', f'mode = "{door}"') + more)
    run, _ = simulation.simulate(toy / f"{name}.toml", toy / "sites", runs=toy / name)
    return run


def _results(run: RunFolder) -> Any:
    return files.read_json(run.path / "results.json")


@pytest.fixture
def shifted(toy: Path) -> Path:
    for folder, a, b in (("east", 1.0, 9.0), ("south", 6.0, 0.3)):
        _stretch(toy / "sites" / folder, a, b)
    return toy


def test_aligned_sites_share_a_better_head(shifted: Path) -> None:
    plain, aligned = (_results(_simulate(shifted, align, align)) for align in ("none", "coral"))
    for model in ("federated", "pooled"):
        assert aligned["models"][model]["auc"] > plain["models"][model]["auc"] + 0.05
        assert aligned["models"][model]["log_loss"] < plain["models"][model]["log_loss"]


def test_alignment_gives_the_same_bytes_twice_and_nearly_the_same_under_masks(shifted: Path) -> None:
    first, second = (_simulate(shifted, "coral", name) for name in ("one", "two"))
    for name in (HEAD_FILE, "results.json", "audit.json"):
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes()
    for site in (shifted / "sites").iterdir():
        config = site / "site.toml"
        config.write_text(config.read_text().replace('["open"]', '["open", "secure-only"]'))
    masked = _simulate(shifted, "coral", "masked", door="secure-only")
    colours = [files.read_arrays(run.path / HEAD_FILE)["feature-colour"] for run in (first, masked)]
    np.testing.assert_array_equal(*colours)


def test_a_newcomer_is_aligned_by_its_own_covariance_and_a_saved_head_is_refused(shifted: Path) -> None:
    run = _simulate(shifted, "coral", "new", more=FEWSHOT)
    assert files.read_json(run.path / "fewshot.json")["sites"] == ["west"]
    standardiser = Standardiser.from_arrays(files.read_arrays(run.path / HEAD_FILE))
    west = Workplace(shifted / "sites/west", run.study())
    features = west.examples("train", standardiser=standardiser).features
    assert np.abs(features.mean(axis=0)).max() < 1e-5
    assert standardiser.colour is not None
    with pytest.raises(FewShotError, match=r"aligns features \(backbone.align\)"):
        fit(run, shifted / "sites/west", classes=None, method="ridge", out=shifted / "head.safetensors")


def test_text_studies_have_a_zero_shot_baseline(tmp_path: Path) -> None:
    stories = {
        "grain": [
            "The wheat harvest was poor.",
            "Corn exports rise.",
            "Farmers plant barley.",
            "Rice prices.",
        ],
        "oil": ["OPEC cuts barrels.", "Crude prices rise.", "A refinery burns.", "Petrol is dear."],
    }
    rows = [f'"{text} {i}",{topic}' for topic, texts in stories.items() for text in texts for i in range(6)]
    (tmp_path / "study.toml").write_text(TEXTS)
    for name in ("east", "north", "west"):
        folder = tmp_path / "sites" / name
        folder.mkdir(parents=True)
        (folder / "data.csv").write_text("\n".join(["text,topic", *rows]) + "\n")
        (folder / "site.toml").write_text(TEXT_SITE.format(name=name))
    found = {}
    for align in ("none", "coral"):
        (tmp_path / "study.toml").write_text(TEXTS.replace("[backbone]", f'[backbone]\nalign = "{align}"'))
        run, _ = simulation.simulate(tmp_path / "study.toml", tmp_path / "sites", runs=tmp_path / align)
        found[align] = _results(run)["models"]["zero_shot"]
        assert "Zero-shot baseline" in (run.path / "report.html").read_text()
    assert found["none"]["accuracy"] > 0.8
    assert found["none"]["brier"] is not None
    assert found["coral"]["accuracy"] == found["none"]["accuracy"]
    assert found["coral"]["log_loss"] == pytest.approx(found["none"]["log_loss"], abs=1e-3)


def test_results_hold_every_figure(toy: Path) -> None:
    with (toy / "policy.toml").open("a") as policy:
        policy.write("[disclosure]\nk = 1\n")  # else counts of fewer than eleven are left out
    run, _ = simulation.simulate(toy / "study.toml", toy / "sites", runs=toy / "runs")
    results = _results(run)
    assert "zero_shot" not in results["models"]
    for model in ("federated", "personal", "local", "pooled", "start"):
        found = results["models"][model]
        assert found["per_class"]["f1"]
        assert sum(map(sum, found["confusion"])) == sum(b["n"] for b in found["reliability"]) == found["n"]
        assert found["calibration_error"] is not None
    site = results["sites"][0]["federated"]
    assert site["observed_expected"] > 0
    assert results["mean"]["federated"]["brier"] > 0
    assert "In detail" in (run.path / "report.html").read_text()
