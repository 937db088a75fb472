"""personal = "best": each site keeps what does clearly best on its own validation examples."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clients.choosing import choose_head, clearly_best, few_shot_head
from clients.training import own_head
from foedus import files, simulation
from foedus.examples import Examples
from foedus.head import LinearHead

CENTRES = 2 * np.eye(3, 8)


def cases(n: int, seed: int, *, turned: int = 0, noise: float = 1.0) -> Examples:
    """n examples of three classes; `turned` exchanges the classes' means."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    x = np.roll(CENTRES, turned, axis=0)[y] + noise * rng.normal(size=(n, 8))
    return Examples(x.astype(np.float32), y.astype(np.int64))


SHARED = LinearHead(CENTRES.astype(np.float32), -(CENTRES**2).sum(1).astype(np.float32) / 2)
"""The best there is where no site turns its classes."""


def test_a_good_shared_head_is_kept_as_it_is() -> None:
    head, kept, losses = choose_head(SHARED, cases(30, 0), cases(300, 1), seed=0)
    assert kept == "federated"
    assert head is SHARED
    assert set(losses) == {"federated", "personal", "local", "few-shot"}
    assert losses["federated"] == min(losses.values())


def test_a_site_unlike_the_others_keeps_a_head_of_its_own() -> None:
    head, kept, losses = choose_head(SHARED, cases(60, 0, turned=1), cases(60, 1, turned=1), seed=0)
    assert kept != "federated"
    assert losses[kept] == min(losses.values()) < losses["federated"] / 2
    test = cases(300, 2, turned=1)
    assert (head.scores(test.features).argmax(1) == test.labels).mean() > 0.8


def test_the_personal_head_stays_unless_another_is_better_by_more_than_the_error() -> None:
    own = np.array([1.0, 1.0, 1.0, 1.0])
    lucky = np.array([0.0, 1.4, 1.4, 1.1])  # mean -0.025, standard error 0.33
    better = np.array([0.9, 0.8, 0.9, 0.8])
    best = np.array([0.5, 0.6, 0.5, 0.6])
    assert clearly_best({"personal": own, "local": lucky}) == "personal"
    assert clearly_best({"personal": own, "local": lucky, "federated": better}) == "federated"
    assert clearly_best({"personal": own, "federated": better, "few-shot": best}) == "few-shot"
    assert clearly_best({"personal": own[:1], "few-shot": best[:1]}) == "personal"


def test_a_site_whose_classes_are_turned_and_that_has_many_cases_keeps_what_it_learns_alone() -> None:
    train, validation = cases(150, 0, turned=1), cases(300, 1, turned=1)
    sure = LinearHead(np.float32(3) * SHARED.weight, np.float32(3) * SHARED.bias)
    head, kept, _ = choose_head(sure, train, validation, seed=0)
    assert kept == "local"
    both = Examples(
        np.concatenate([train.features, validation.features]),
        np.concatenate([train.labels, validation.labels]),
    )
    zero = LinearHead.zeros(3, 8)
    np.testing.assert_array_equal(
        head.weight, own_head(both, prior=zero, rng=np.random.default_rng(0)).weight
    )


def test_without_validation_examples_the_shared_head_stays() -> None:
    assert choose_head(SHARED, cases(30, 0), cases(0, 0), seed=0)[1:] == ("federated", {})


def test_few_shot_steps_leave_the_rows_of_absent_classes_where_they_were() -> None:
    some = cases(30, 0)
    two = some.take(np.flatnonzero(some.labels < 2))
    head = few_shot_head(SHARED, two)
    assert head is not None
    ratio = head.weight[2, 2] / SHARED.weight[2, 2]
    np.testing.assert_allclose(head.weight[2], ratio * SHARED.weight[2], rtol=1e-5)
    assert few_shot_head(SHARED, some.take(np.flatnonzero(some.labels == 0))) is None


STUDY = """
[study]
name = "best"
classes = ["x", "y", "z"]
[backbone]
source = "tabular"
personal = "best"
[federation]
rounds = 3
min_sites = 3
[door]
mode = "open"
"""


@pytest.mark.parametrize("release", ["true", "false"])
def test_every_site_reports_what_it_kept(tmp_path: Path, release: str) -> None:
    columns = "".join(f'[[table.columns]]\nname = "f{i}"\nkind = "number"\n' for i in range(8))
    (tmp_path / "study.toml").write_text(STUDY + columns)
    for number, name in enumerate(("a", "b", "c")):
        found = cases(90, number, turned=int(name == "c"))
        frame = pd.DataFrame(found.features, columns=[f"f{i}" for i in range(8)])
        frame["label"] = np.array(list("xyz"))[found.labels]
        site = tmp_path / "sites" / name
        site.mkdir(parents=True)
        frame.to_csv(site / "data.csv", index=False)
        (site / "site.toml").write_text(
            f'[site]\nname = "{name}"\n[data]\nkind = "table"\npath = "data.csv"\nlabel = "label"\n'
            f'[policy]\ndoors = ["open"]\nrelease_site_metrics = {release}\n'
        )
    run, outcome = simulation.simulate(
        tmp_path / "study.toml", tmp_path / "sites", runs=tmp_path / "runs", reference=False
    )
    reports = {
        name: files.read_json(tmp_path / "sites" / name / ".foedus/reports" / run.run_id / "report.json")
        for name in ("a", "b", "c")
    }
    for report in reports.values():
        losses = report["validation_log_loss"]
        assert report["kept"] in losses
    assert reports["c"]["kept"] != "federated"
    assert reports["c"]["personal"]["accuracy"] > reports["c"]["federated"]["accuracy"]
    assert (
        outcome.results["models"]["personal"]["accuracy"] > outcome.results["models"]["federated"]["accuracy"]
    )
