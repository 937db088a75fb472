"""`foedus tune` on real folders: the right trial wins, from validation sums alone, inside the budget."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients.memory import forgotten
from clients.workplace import Workplace
from foedus import files, simulation, tuning
from foedus.budget import plan, search_releases
from foedus.door import LEDGER_FOLDER
from foedus.errors import ConfigError, RoundError
from foedus.privacy.accountant import Gaussian, epsilon
from foedus.privacy.status import status
from foedus.site import find_sites
from foedus.study import Study, load_study
from foedus.variants import trial_study
from server.federation import Federation
from server.rounds import Training, run_rounds

Toy = Any
"""The class in conftest.py, which no test can import."""

SEARCH = """
[search]
trials = 4
eta = 2
[search.space]
"federation.lr" = [1e-5, 1e-4, 0.3, 0.5]
"federation.strategy" = ["{strategy}"]
"""
PRIVATE = "\n[search]\ntrials = 6\nepsilon_share = 0.4\n"


def with_search(toy: Toy, text: str = "", *, strategy: str = "fedavg", audited: bool = False) -> None:
    if not audited:
        toy.change('[fairness]\npolicy = "policy.toml"\n', "")
    toy.change("rounds = 2", 'rounds = 2 # of gradients\nstart = "zero"')
    path = toy.folder / "study.toml"
    path.write_text(path.read_text() + (text or SEARCH.format(strategy=strategy)))


def through(toy: Toy, mode: str) -> None:
    """Make study and sites use a door mode, with declared ranges."""
    toy.change('mode = "open"', f'mode = "{mode}"')
    toy.change('kind = "number"', 'kind = "number"\nrange = [-4.0, 4.0]')
    for site in find_sites(toy.folder / "sites"):
        file = site / "site.toml"
        file.write_text(file.read_text().replace('doors = ["open"]', f'doors = ["{mode}"]'))


def tuned(toy: Toy, runs: str = "runs") -> tuple[Path, dict[str, Any]]:
    folder = tuning.tune(toy.folder / "study.toml", toy.folder / "sites", runs=toy.folder / runs)
    return folder, dict(files.read_json(folder / tuning.TRIALS_FILE))


def spent(toy: Toy) -> list[float]:
    return [status(site / LEDGER_FOLDER)[0].epsilon for site in find_sites(toy.folder / "sites")]


def without_seconds(found: dict[str, Any]) -> dict[str, Any]:
    return {**found, "trials": [{**trial, "seconds": None} for trial in found["trials"]]}


def test_a_badly_chosen_learning_rate_loses(toy: Toy) -> None:
    with_search(toy)
    folder, found = tuned(toy)
    rates = [trial["values"]["federation.lr"] for trial in found["trials"]]
    assert set(rates[:2]) == {0.3, 0.5}
    assert [(trial["rung"], trial["rounds"]) for trial in found["trials"]] == [(2, 4), (2, 4), (1, 2), (1, 2)]
    assert found["starts"] == 1
    best = found["trials"][0]
    assert best["scores"][1] <= found["trials"][1]["scores"][1]
    assert found["best"] == {"trial": best["trial"], "values": best["values"], "score": best["scores"][1]}
    text = (folder / "study.toml").read_text()
    assert "rounds = 2 # of gradients" in text
    assert "search" not in text
    before, after = load_study(toy.folder / "study.toml"), load_study(folder / "study.toml")
    assert after.search is None
    assert after.federation == before.federation.model_copy(update={"lr": rates[0], "strategy": "fedavg"})


def test_the_same_study_gives_the_same_trials_and_winner(toy: Toy) -> None:
    with_search(toy)
    (one, first), (two, second) = tuned(toy), tuned(toy, "again")
    assert without_seconds(first) == without_seconds(second)
    assert (one / "study.toml").read_bytes() == (two / "study.toml").read_bytes()


def test_masks_change_no_score(toy: Toy) -> None:
    with_search(toy)
    _, plain = tuned(toy)
    through(toy, "secure-only")
    _, masked = tuned(toy, "masked")
    assert without_seconds(plain) == without_seconds(masked)


@pytest.mark.parametrize("mode", ["open", "local-dp"])
def test_no_test_record_is_ever_asked_about(toy: Toy, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    with_search(toy, PRIVATE if mode == "local-dp" else "")
    through(toy, mode)
    asked: set[str] = set()
    ask, rows = Federation.ask, Workplace.rows

    def hear(self: Federation, statistic: Any, *, split: str, **more: Any) -> Any:
        asked.add(split)
        return ask(self, statistic, split=split, **more)

    def read(self: Workplace, *splits: Any) -> Any:
        asked.update(splits)
        return rows(self, *splits)

    monkeypatch.setattr(Federation, "ask", hear)
    monkeypatch.setattr(Workplace, "rows", read)
    tuned(toy)
    assert asked == {"train", "validation"}


@pytest.mark.parametrize(
    ("strategy", "more"),
    [
        ("fedadam", ""),
        ("fedavgm", ""),
        ("scaffold", ""),
        ("fedavg", 'balance = "group"\nbalance_groups = { sex = ["f", "m"] }\n'),
    ],
)
def test_the_winner_is_to_the_byte_what_a_plain_run_of_as_many_rounds_gives(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, strategy: str, more: str
) -> None:
    with_search(toy, strategy=strategy)
    toy.change("min_sites = 2\n", f"min_sites = 2\n{more}")
    ended: dict[str, Training] = {}

    def keep(federation: Federation, *more: Any) -> Training:
        ended[federation.run_id] = run_rounds(federation, *more)
        return ended[federation.run_id]

    monkeypatch.setattr(tuning, "run_rounds", keep)
    folder, found = tuned(toy)
    [winner] = [run for name, run in ended.items() if name.endswith(f"-trial-{found['best']['trial']}")]
    assert winner.round == 4
    path = folder / "study.toml"
    path.write_text(path.read_text().replace("rounds = 2", "rounds = 4"))
    run, _ = simulation.simulate(path, toy.folder / "sites", runs=toy.folder / "runs", reference=False)
    _, arrays = run.latest() or pytest.fail("no checkpoint")
    for name, value in winner.model.head.arrays().items():
        assert np.array_equal(arrays[f"model/{name}"], value), name
    for site in find_sites(toy.folder / "sites"):
        assert not list((site / ".foedus/own").glob("tune-*"))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_trial_that_diverges_loses_and_the_others_go_on(toy: Toy) -> None:
    space = (
        '"federation.lr" = [0.1, 100.0]\n"federation.weight_decay" = [10.0]\n"federation.local_epochs" = [50]'
    )
    with_search(toy, f"\n[search]\ntrials = 2\nrounds = 4\n[search.space]\n{space}\n")
    _, found = tuned(toy)
    good, bad = found["trials"]
    assert (good["values"]["federation.lr"], good["problem"]) == (0.1, None)
    assert "sites answered" in bad["problem"] or "finite" in bad["problem"]
    assert bad["scores"] == []


def test_when_no_trial_can_be_judged_the_first_reason_is_told_and_nothing_is_kept(toy: Toy) -> None:
    with_search(toy)
    toy.change("min_sites = 2", "min_sites = 7")
    with pytest.raises(RoundError, match="no trial of rung 1 could be judged: 3 sites can take part"):
        tuned(toy)
    assert list((toy.folder / "runs").iterdir()) == []


def test_a_search_that_is_stopped_leaves_nothing(toy: Toy) -> None:
    with_search(toy, strategy="scaffold")

    def stop(done: int, total: int, name: str) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuning.tune(toy.folder / "study.toml", toy.folder / "sites", runs=toy.folder / "runs", tell=stop)
    assert list((toy.folder / "runs").iterdir()) == []
    for site in find_sites(toy.folder / "sites"):
        assert not list((site / ".foedus/own").glob("tune-*"))


def test_what_a_killed_search_left_at_a_site_goes_with_the_next_one(tmp_path: Path) -> None:
    own = tmp_path / ".foedus/own"
    left, running, kept = own / "tune-0a1b2c3d-trial-1", own / "tune-ffffffff-trial-2", own / "tune-up-2026"
    for folder in (left, kept):
        folder.mkdir(parents=True)
    with forgotten(tmp_path, "tune-ffffffff"):
        assert not left.exists()
        running.mkdir()
        with forgotten(tmp_path, "tune-eeeeeeee"):  # another search, at the same time
            assert running.exists()
        assert running.exists()
    assert [path.name for path in own.iterdir() if path.is_dir()] == [kept.name]


def test_ctrl_c_says_what_became_of_the_search(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "tune", stop)
    done = toy.foedus("tune", "study.toml", "--sites", "sites")
    assert (done.code, done.out) == (130, "")
    assert done.err == "stopped; nothing of the search was kept, and the study is as it was\n"


def test_a_study_that_cannot_be_edited_in_place_is_refused_before_anything_runs(toy: Toy) -> None:
    with_search(toy)
    path = toy.folder / "study.toml"
    text = path.read_text()
    table = re.search(r"\[federation\]\n((?:.*\n)*?)(?=\[)", text)
    assert table is not None
    path.write_text("federation = { rounds = 2, min_sites = 2 }\n" + text.replace(table[0], ""))
    load_study(path)
    with pytest.raises(ConfigError, match="cannot be edited in place; write its sections as"):
        tuned(toy)
    assert not (toy.folder / "runs").exists()


@pytest.mark.parametrize("mode", ["secure+ddp", "local-dp"])
def test_a_private_search_and_the_study_it_leaves_stay_within_the_epsilon_that_was_asked(
    toy: Toy, mode: str
) -> None:
    with_search(toy, PRIVATE)
    through(toy, mode)
    folder, found = tuned(toy)
    budget = found["privacy"]
    assert found["metric"] == "accuracy"
    assert spent(toy) == pytest.approx([budget["search"]] * 3, rel=1e-6)
    assert budget["together"] <= budget["asked"] == 3.0
    assert load_study(folder / "study.toml").door.epsilon == budget["left"]
    simulation.simulate(
        folder / "study.toml", toy.folder / "sites", runs=toy.folder / "runs", reference=False
    )
    assert spent(toy) == pytest.approx([budget["together"]] * 3, rel=1e-6)
    assert budget["together"] == pytest.approx(3.0, abs=2e-3)


def test_a_private_study_that_still_has_its_search_leaves_it_its_share(toy: Toy) -> None:
    with_search(toy, PRIVATE)
    through(toy, "local-dp")
    study = load_study(toy.folder / "study.toml")
    assert study.search is not None
    run = plan(study)
    assert sum(run.shares.values()) == pytest.approx(0.6)
    trials = _releases_of_all_trials(study)
    assert len(trials) == search_releases(study, study.search) == 6 * 3 + 2 * 5 + 1
    whole = [*trials, *(Gaussian(run.multiplier(name)) for name in run.shares)]
    assert epsilon(whole, study.door.delta) == pytest.approx(3.0, rel=1e-5)


def _releases_of_all_trials(study: Study) -> list[Gaussian]:
    """What every trial on every rung releases, as its own plan says; the start once."""
    search = study.search
    assert search is not None
    found: list[Gaussian] = []
    for place, rung in enumerate(search.bracket):
        for number in range(1, rung.trials + 1):
            own = plan(trial_study(study, search, {}, number=number, rounds=rung.rounds))
            new = [f"round {k}" for k in range(rung.rounds - rung.new + 1, rung.rounds + 1)]
            first = ["centre"] if place == 0 and number == 1 else []
            found += [Gaussian(own.multiplier(name)) for name in [*first, *new, "test"]]
    return found


def test_the_command_shows_the_trials_and_what_to_run_next(toy: Toy) -> None:
    with_search(toy, audited=True)
    done = toy.foedus("tune", "study.toml", "--sites", "sites")
    assert done.code == 0, done.err
    assert "4 trials to round 2, then 2 trials to round 4" in done.out
    assert "study: 0/12 rounds, rung 1/2, trial 1" in done.err
    following = re.search(r"Next: foedus (simulate .*study\.toml --sites sites)", done.out)
    assert following is not None
    assert toy.foedus(*following[1].split()).code == 0
    machine = toy.foedus("tune", "study.toml", "--sites", "sites", "--json", "--runs", "others")
    found = json.loads(machine.out)
    assert (toy.folder / found["folder"] / "policy.toml").is_file()
    assert found["next"].startswith("foedus simulate others/tune-toy-")


def test_combinations_that_are_no_study_are_named(toy: Toy) -> None:
    with_search(
        toy, SEARCH.replace("trials = 4", "trials = 3").replace('["{strategy}"]', '["fedavg", "krum"]')
    )
    through(toy, "secure-only")
    done = toy.foedus("tune", "study.toml", "--sites", "sites")
    assert done.code == 0, done.err
    assert "that are no valid study, such as federation.lr = " in " ".join(done.out.split())
