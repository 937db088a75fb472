"""Whole studies whose backbone learns: every way to tune and to keep something, resumed, masked and private."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from foedus import files, simulation
from foedus.backbones.saving import read_tuned
from foedus.errors import ConfigError
from foedus.runs import HEAD_FILE, RESULTS_FILE, RunFolder
from foedus.study import parse_study
from server.start import fits_exactly

STUDY = """
[study]
name = "notes"
classes = ["bank", "ship"]
seed = 1
[backbone]
source = "bundled:minilm-l6"
max_tokens = 8
tune = "{tune}"
{backbone}
[tuning]
{tuning}
[federation]
rounds = 3
batch_size = 8
min_sites = 2
{federation}
[door]
mode = "{mode}"
"""
SITE = """
[site]
name = "{name}"
[data]
kind = "text"
path = "data.csv"
label = "y"
[policy]
doors = ["open", "secure-only", "secure+ddp"]
epsilon_cap = 1000
release_site_metrics = true
"""
SUBJECTS = {
    "bank": ["rates rose", "loan due", "credit fell"],
    "ship": ["cargo sailed", "harbour full", "sea calm"],
}


def write(
    folder: Path, *, tune: str, backbone: str = "", tuning: str = "", federation: str = "", mode: str = "open"
) -> Path:
    """study.toml and three sites with 40 short texts each."""
    for seed, name in enumerate(["east", "north", "west"]):
        site = folder / "sites" / name
        if not site.exists():
            rng = np.random.default_rng(seed)
            rows = [
                {"text": f"{rng.choice(SUBJECTS[y])} {rng.integers(100)}", "y": y}
                for y in rng.permutation(["bank", "ship"] * 20)
            ]
            site.mkdir(parents=True)
            pd.DataFrame(rows).to_csv(site / "data.csv", index=False)
            (site / "site.toml").write_text(SITE.format(name=name))
    text = STUDY.format(tune=tune, backbone=backbone, tuning=tuning, federation=federation, mode=mode)
    (folder / "study.toml").write_text(text)
    return folder / "study.toml"


def run(folder: Path, study: Path, runs: str = "runs") -> RunFolder:
    return simulation.simulate(study, folder / "sites", runs=folder / runs)[0]


WAYS = {
    "lora": {"tune": "lora", "tuning": "blocks = 1"},
    "last blocks": {"tune": "last-blocks", "tuning": "lr = 1e-4"},
    "proximal": {"tune": "lora", "tuning": "blocks = 1", "federation": 'strategy = "fedprox"'},
    "adaptive": {
        "tune": "lora",
        "tuning": "blocks = 1",
        "federation": 'strategy = "fedadam"\nserver_lr = 1e-3',
    },
    "scaffold": {
        "tune": "lora",
        "tuning": 'blocks = 1\noptimizer = "sgd"\nlr = 0.01',
        "federation": 'strategy = "scaffold"',
    },
    "ditto": {"tune": "lora", "tuning": "blocks = 1", "backbone": 'personal = "ditto"'},
    "fedper": {"tune": "lora", "tuning": "blocks = 1", "backbone": 'personal = "fedper"'},
    "fedrep": {"tune": "lora", "tuning": "blocks = 1", "backbone": 'personal = "fedrep"'},
    "episodes": {
        "tune": "lora",
        "tuning": 'blocks = 1\noptimizer = "sgd"\nlr = 0.01',
        "federation": '[meta]\nalgorithm = "anil"\nn_way = 2\nn_shot = 3\nn_query = 4\n'
        "inner_steps = 2\nepisodes = 2\nsteps = 2",
    },
    "own norms": {"tune": "last-blocks", "tuning": "lr = 1e-4", "backbone": "local_norms = true"},
}


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=() if way == "lora" else pytest.mark.slow) for way in WAYS]
)
def test_every_way_to_tune_learns_and_resumes_to_the_same_bytes(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "episodes":
        pytest.importorskip("learn2learn")
    study = write(tmp_path, **WAYS[way])
    whole = run(tmp_path, study)
    results = files.read_json(whole.path / RESULTS_FILE)
    assert results["models"]["federated"]["accuracy"] >= 0.8
    expected_personal = {"ditto": True, "fedper": True, "fedrep": True}.get(way, False)
    assert (results["models"].get("personal") is not None) == expected_personal
    tuned = read_tuned(whole.path / "model")
    assert tuned
    assert all(np.isfinite(value).all() for value in tuned.values())  # type: ignore[call-overload]

    stop_after(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, study, "stopped")
    monkeypatch.undo()
    [path] = (tmp_path / "stopped").iterdir()
    resumed = RunFolder.open(path)
    simulation.resume(resumed)
    assert (resumed.path / HEAD_FILE).read_bytes() == (whole.path / HEAD_FILE).read_bytes()
    again = read_tuned(resumed.path / "model")
    assert all((again[name] == value).all() for name, value in tuned.items())
    assert files.read_json(resumed.path / RESULTS_FILE) == results


def stop_after(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is interrupted once round `number` is on disk."""
    keep = RunFolder.checkpoint

    def checkpoint(self: RunFolder, at: int, *args: object, **kwargs: object) -> None:
        keep(self, at, *args, **kwargs)  # type: ignore[arg-type]
        if at == number:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "checkpoint", checkpoint)


def test_masks_change_no_byte_of_a_tuned_model(tmp_path: Path) -> None:
    plain = run(tmp_path, write(tmp_path, **WAYS["scaffold"]))
    masked = run(tmp_path, write(tmp_path, **WAYS["scaffold"], mode="secure-only"), "masked")
    assert (plain.path / HEAD_FILE).read_bytes() == (masked.path / HEAD_FILE).read_bytes()
    left, right = (read_tuned(r.path / "model") for r in (plain, masked))
    assert all((left[name] == value).all() for name, value in right.items())


@pytest.mark.parametrize("rate", [1.0, 0.2])
def test_a_private_study_tunes_lora_within_its_budget(tmp_path: Path, rate: float) -> None:
    study = write(tmp_path, tune="lora", tuning="blocks = 1", mode="secure+ddp")
    study.write_text(study.read_text() + f"epsilon = 8\nsampling_rate = {rate}\n")
    found = run(tmp_path, study)
    results = files.read_json(found.path / RESULTS_FILE)
    assert results["privacy"]["epsilon"] <= 8
    assert results["privacy"]["attack"]["clipping_held"]
    assert read_tuned(found.path / "model")
    ledger = next((tmp_path / "sites/east/.foedus/ledger").rglob("*.jsonl")).read_text()
    assert "round 3" in ledger


def test_only_the_tensors_that_learn_travel(tmp_path: Path) -> None:
    found = run(tmp_path, write(tmp_path, **WAYS["lora"]))
    lora, head = 8 * 384 * 2 * 2, 2 * 385
    up = [line["bytes_up"] for line in found.rounds()]
    assert max(up) < 3 * 8 * (lora + head) * 1.1  # three sites, eight bytes a number on the open door


def test_a_tuned_model_is_audited_again_as_it_was(tmp_path: Path) -> None:
    study = write(tmp_path, **WAYS["lora"])
    (tmp_path / "policy.toml").write_text(
        '[policy]\nname = "p"\nprofile = "custom"\n[attributes]\nlength = ["long", "short"]\n'
        '[[gate]]\nmetric = "tpr"\nattribute = "length"\ncompare = "max_difference"\ntolerance = 0.5\n'
    )
    for site in (tmp_path / "sites").iterdir():
        frame = pd.read_csv(site / "data.csv")
        frame["size"] = np.where(np.arange(len(frame)) % 2, "l", "s")
        frame.to_csv(site / "data.csv", index=False)
        (site / "site.toml").write_text(
            (site / "site.toml").read_text()
            + '[groups.length]\ncolumn = "size"\nvalues = { l = "long", s = "short" }\n'
        )
    study.write_text(study.read_text() + '[fairness]\npolicy = "policy.toml"\n')
    found = run(tmp_path, study)
    before = json.loads((found.path / "audit.json").read_text())
    simulation.audit_again(found, policy=None)
    assert json.loads((found.path / "audit.json").read_text())["gates"] == before["gates"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[backbone]\nsource = "tabular"\ntune = "lora"', "a table has no network to tune"),
        ("[tuning]\nrank = 4", r'\[tuning\] is given but backbone.tune is "head"'),
        ('[backbone]\npersonal = "fedrep"', "needs a backbone that learns"),
        ('[backbone]\ntune = "lora"\nlocal_norms = true', "lora trains no normalisation layer"),
        ('[backbone]\ntune = "lora"\n[federation]\nstrategy = "scaffold"', 'set tuning.optimizer = "sgd"'),
        ('[federation]\nstrategy = "scaffold"', 'no place in the privacy budget of door.mode "secure\\+ddp"'),
        ('[backbone]\npersonal = "ditto"', "replaces by one noisy gradient"),
        ('[backbone]\ntune = "full"\n[tuning]\nblocks = 2', 'tune = "full" trains every block'),
        ('[backbone]\ntune = "deep"', "backbone.tune"),
    ],
)
def test_what_cannot_work_together_is_refused_with_what_to_do(text: str, says: str) -> None:
    columns = '\n[[table.columns]]\nname = "a"\nkind = "number"' if "tabular" in text else ""
    with pytest.raises(ConfigError, match=says):
        parse_study('[study]\nname = "x"\nclasses = ["a", "b"]\n' + text + columns)


def test_a_start_that_fits_any_labels_exactly_is_known() -> None:
    rng = np.random.default_rng(0)
    few, many = rng.normal(size=(40, 24)), rng.normal(size=(200, 24))
    fitted = []
    for x in (few, many):
        y = rng.choice([-1.0, 1.0], len(x))
        x = np.column_stack([x, np.ones(len(x))])
        fitted.append(bool((np.sign(x @ np.linalg.lstsq(x, y)[0]) == y).mean() > 0.9))
    assert fitted == [fits_exactly(40, 24), fits_exactly(200, 24)] == [True, False]
