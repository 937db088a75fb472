"""Rounds of episodes over whole studies: the pooled meta-gradient, the same bytes masked and resumed, refusals."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clients.workplace import open_workplace
from fewshot.episodes import EpisodeSampler
from foedus import simulation
from foedus.errors import ConfigError, RoundError
from foedus.runs import RunFolder
from foedus.study import parse_study

SITES, SEED, LR = ("a", "b", "c"), 5, 0.3
STUDY = """
[study]
name = "episodes"
classes = ["w", "x", "y", "z"]
seed = 5
[backbone]
source = "tabular"
{backbone}
[federation]
start = "zero"
rounds = {rounds}
lr = 0.3
min_sites = 3
{federation}
[meta]
n_way = 3
n_shot = 3
n_query = 4
inner_steps = 3
inner_lr = 0.5
episodes = 4
steps = 3
{meta}
[door]
mode = "{mode}"
[[table.columns]]
name = "p"
kind = "number"
[[table.columns]]
name = "q"
kind = "number"
"""


def study(
    *, meta: str = "", federation: str = "", backbone: str = "", mode: str = "open", rounds: int = 2
) -> str:
    return STUDY.format(meta=meta, federation=federation, backbone=backbone, mode=mode, rounds=rounds)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sites of unequal size; each turns the same four classes its own way."""
    folder = tmp_path_factory.mktemp("sites")
    for number, name in enumerate(SITES):
        rng = np.random.default_rng(number)
        n = 100 + 40 * number
        y = rng.integers(4, size=n)
        p, q = rng.normal(size=(2, n)) / 2 + np.stack([np.cos(1.6 * y + number), np.sin(1.6 * y + number)])
        split = rng.permutation(np.resize(["train", "train", "train", "train", "validation", "test"], n))
        (folder / name).mkdir()
        frame = pd.DataFrame({"p": p, "q": q, "label": np.array(list("wxyz"))[y], "split": split})
        frame.to_csv(folder / name / "data.csv", index=False)
        (folder / name / "site.toml").write_text(
            f'[site]\nname = "{name}"\n[data]\nkind = "table"\npath = "data.csv"\nlabel = "label"\n'
            '[split]\ncolumn = "split"\n[policy]\ndoors = ["open", "secure-only"]\n'
        )
    return folder


def run(folder: Path, sites: Path, text: str, name: str = "run") -> tuple[RunFolder, object]:
    (folder / name).mkdir(parents=True)
    (folder / name / "study.toml").write_text(text)
    return simulation.simulate(folder / name / "study.toml", sites, runs=folder / name, reference=False)


def head(found: RunFolder) -> bytes:
    return (found.path / "model/head.safetensors").read_bytes()


@pytest.mark.parametrize("first_order", [False, True], ids=["second-order", "first-order"])
def test_a_round_of_fedmeta_is_a_step_along_learn2learns_gradient_of_all_sites(
    sites: Path, tmp_path: Path, first_order: bool
) -> None:
    learn2learn = pytest.importorskip("learn2learn")
    import torch
    from torch.nn.functional import cross_entropy

    _, outcome = run(tmp_path, sites, study(meta=f"first_order = {str(first_order).lower()}", rounds=1))
    federation = outcome.federation
    places = [open_workplace(sites / name, federation.study.to_json()) for name in SITES]
    total = sum(len(place.data.rows("train")) for place in places)
    expected = np.zeros_like(outcome.training.model.head.weight, dtype=np.float64)
    for place in places:
        examples = place.examples("train", standardiser=federation.standardiser)
        seed = np.random.SeedSequence([int(place.rng(1).integers(2**31)), 0]).generate_state(1)[0]
        drawn = EpisodeSampler(examples.labels, 3, 3, 4, random_state=int(seed)).draw(4)
        x = torch.tensor(examples.features, dtype=torch.float64)
        layer = torch.nn.Linear(x.shape[1], 4, dtype=torch.float64)
        torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
        maml = learn2learn.algorithms.MAML(layer, lr=0.5, first_order=first_order)
        support, query = torch.arange(3).repeat_interleave(3), torch.arange(3).repeat_interleave(4)
        for i in range(4):
            learner = maml.clone()
            for _ in range(3):
                learner.adapt(cross_entropy(learner(x[drawn.support[i]])[:, drawn.classes[i]], support))
            (cross_entropy(learner(x[drawn.query[i]])[:, drawn.classes[i]], query) / 4).backward()
        expected -= LR * len(examples) / total * layer.weight.grad.numpy()
    np.testing.assert_allclose(outcome.training.model.head.weight, expected, atol=1e-6)
    assert np.abs(expected).max() > 0.01


@pytest.mark.parametrize("algorithm", ["fedmeta", "per-fedavg", "reptile"])
def test_masks_change_no_byte_and_every_algorithm_learns(sites: Path, tmp_path: Path, algorithm: str) -> None:
    chosen = f'algorithm = "{algorithm}"'
    plain, _ = run(tmp_path, sites, study(meta=chosen, rounds=6), "plain")
    masked, _ = run(tmp_path, sites, study(meta=chosen, rounds=6, mode="secure-only"), "masked")
    assert head(masked) == head(plain)
    losses = [line["train_loss"] for line in plain.rounds()]
    assert losses[-1] < losses[0]
    assert [line["validation_loss"] for line in plain.rounds()] == [None] * 6


def test_a_run_that_was_killed_ends_with_the_same_bytes(
    sites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = study(
        meta='algorithm = "per-fedavg"', federation='strategy = "fedadam"\nserver_lr = 0.05', rounds=4
    )
    whole, _ = run(tmp_path, sites, text, "whole")
    keep = RunFolder.checkpoint

    def killed(self: RunFolder, number: int, *args: object, **kwargs: object) -> None:
        keep(self, number, *args, **kwargs)  # type: ignore[arg-type]
        if number == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, sites, text, "killed")
    [broken] = [path for path in (tmp_path / "killed").iterdir() if path.is_dir()]
    found = RunFolder.open(broken)
    simulation.resume(found)
    assert head(found) == head(whole)
    assert [{**line, "seconds": 0} for line in found.rounds()] == [
        {**line, "seconds": 0} for line in whole.rounds()
    ]


def test_sites_without_enough_examples_are_named(sites: Path, tmp_path: Path) -> None:
    text = study().replace("n_query = 4", "n_query = 90")
    with pytest.raises(RoundError, match="too few classes or examples for the episodes"):
        run(tmp_path, sites, text)


@pytest.mark.parametrize(
    ("choices", "problem"),
    [
        ({"mode": "secure+ddp"}, r"clipping each unit's own, as door.mode \"secure\+ddp\" does"),
        ({"mode": "local-dp"}, r"clipping each unit's own, as door.mode \"local-dp\" does"),
        ({"federation": 'strategy = "scaffold"'}, '"scaffold" changes'),
        ({"federation": 'strategy = "fedprox"'}, '"fedprox" changes'),
        ({"federation": "patience = 3"}, "federation.patience waits for a validation"),
        (
            {"federation": 'balance = "group"\nbalance_groups = { s = ["f"] }'},
            "balance has no meaning in episodes",
        ),
        ({"backbone": 'personal = "ditto"'}, r'personal = "ditto" and \[meta\] are two ways'),
        ({"meta": 'algorithm = "anil"'}, 'algorithm = "per-fedavg", which is the same then'),
        ({"meta": 'algorithm = "reptile"\nfirst_order = true'}, "reptile has no second derivatives"),
        ({"rounds": 0}, r"\[meta\] needs gradient rounds"),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_sentence(choices: dict, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_study(study(**choices))
    assert len([p for p in caught.value.problems if re.search(problem, p)]) == 1


def test_more_ways_than_classes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"meta.n_way is 9 but there are 4 classes"):
        parse_study(study().replace("n_way = 3", "n_way = 9"))


def test_a_new_site_learns_what_the_start_is_worth_there(sites: Path, tmp_path: Path) -> None:
    text = study(rounds=3).replace("min_sites = 3", "min_sites = 2").replace("[meta]", "[meta]\n", 1)
    text += (
        '[fewshot]\nn_way = 3\nn_shot = 3\nn_query = 5\nepisodes = 40\nnew_sites = ["c"]\ncurve_shots = [3]\n'
    )
    found, outcome = run(tmp_path, sites, text)
    rows = outcome.fewshot["start"]
    assert [row["way"] for row in rows] == ["local", "shared", "adapted", "stepped"]
    assert all(row["episodes"] == 40 and 0 < row["ci95"] < 0.2 for row in rows)
    assert "shared, not adapted" in (found.path / "report.html").read_text()
    plain = re.sub(r"\[meta\].*?\[door\]", "[door]", text, flags=re.DOTALL)
    _, outcome = run(tmp_path, sites, plain, "plain")
    assert [row["way"] for row in outcome.fewshot["start"]] == ["local", "shared", "adapted"]
