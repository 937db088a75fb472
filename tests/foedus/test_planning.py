"""The plan of a study against the study itself: bytes, records, noise, and sites that cannot take part."""

import json
from typing import Any

import numpy as np
import pytest

from foedus import planning
from foedus.backbones import open_backbone
from foedus.backbones.cost import seconds_per_example, trunk_size
from foedus.backbones.spec import Embedder
from foedus.study import BackboneSection, load_study

Toy = Any
"""The class in conftest.py, which no test can import."""
PRIVATE = ("secure+ddp", "local-dp")


def _use(toy: Toy, mode: str) -> None:
    toy.change('mode = "open"', f'mode = "{mode}"')
    if mode in PRIVATE:
        toy.change('kind = "number"', 'kind = "number"\nrange = [-4.0, 4.0]')
    for name in ("east", "north", "west"):
        toy.change('doors = ["open"]', f'doors = ["{mode}"]', file=f"sites/{name}/site.toml")


def _plan(toy: Toy, *, code: int = 0) -> dict[str, Any]:
    done = toy.simulate("--plan", "--json")
    assert done.code == code, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def _round(plan: dict[str, Any]) -> dict[str, int]:
    [found] = [each for each in plan["exchanges"] if each["what"] == "training round"]
    return dict(found["masked" if plan["masked"] else "plain"])


@pytest.mark.parametrize("mode", ["open", "secure-only", *PRIVATE])
def test_the_bytes_of_a_round_are_those_of_the_run(toy: Toy, mode: str) -> None:
    _use(toy, mode)
    plan = _plan(toy)
    assert toy.simulate().code == 0
    [run] = toy.finished()
    for line in map(json.loads, (run / "rounds.jsonl").read_text().splitlines()):
        assert line["bytes_up"] == pytest.approx(3 * _round(plan)["up"], rel=0.02)
        if line["round"] > 1 or mode != "secure+ddp":
            assert line["bytes_down"] == pytest.approx(3 * _round(plan)["down"], rel=0.02)


def test_a_plan_says_what_there_is_and_writes_nothing(toy: Toy) -> None:
    before = sorted(toy.folder.rglob("*"))
    plan = _plan(toy)
    assert sorted(toy.folder.rglob("*")) == before
    assert [site["site"] for site in plan["sites"]] == ["east", "north", "west"]
    assert all(sum(site["records"].values()) == 60 for site in plan["sites"])
    assert plan["trained"] == {"weight": [2, 4], "bias": [2]}
    assert (plan["n_trained"], plan["backbone"]["dim"], plan["backbone"]["parameters"]) == (10, 4, 0)
    assert plan["missing"] is None
    assert plan["privacy"] == {"mode": "open", "guarantee": None}
    each = sum(e["times"] * (e["plain"]["down"] + e["plain"]["up"]) for e in plan["exchanges"])
    assert plan["total_bytes"] == 3 * each


def test_a_private_plan_holds_the_noise_of_every_release(toy: Toy) -> None:
    _use(toy, "secure+ddp")
    plan = _plan(toy)
    assert plan["privacy"]["epsilon"] == pytest.approx(3.0, abs=1e-3)
    assert set(plan["privacy"]["releases"]) == {"centre", "start", "round 1", "round 2", "test", "audit"}
    asked = [(e["what"], e["times"]) for e in plan["exchanges"] if e["masked"]]
    assert asked == [
        ("where the examples lie", 1),
        ("ridge sums", 1),
        ("training round", 2),
        ("final test", 1),
        ("audit", 1),
    ]
    shown = toy.simulate("--plan").out
    assert "epsilon 3.00" in shown
    assert "Noise multiplier of each release: centre" in shown


def test_every_exchange_of_a_run_is_in_its_plan(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    from server.exchange import Cohort

    gather, seen = Cohort.gather, []

    def listening(self: Cohort, messages: Any, accept: Any, *, what: str) -> Any:
        found = gather(self, messages, accept, what=what)
        seen.append(found.bytes_up + found.bytes_down)
        return found

    toy.change("release_site_metrics = true", "release_site_metrics = false", file="sites/east/site.toml")
    plan = _plan(toy)
    monkeypatch.setattr(Cohort, "gather", listening)
    assert toy.simulate("--no-reference").code == 0
    assert len(seen) == plan["n_exchanges"]
    assert sum(seen) == pytest.approx(plan["total_bytes"], rel=0.05)


def test_sites_that_cannot_take_part_are_named_with_their_reason(toy: Toy) -> None:
    toy.change('doors = ["open"]', 'doors = ["local-dp"]', file="sites/east/site.toml")
    toy.change('name = "north"', 'name = "west"', file="sites/north/site.toml")
    plan = _plan(toy, code=1)
    problems = {site["site"]: site["problem"] for site in plan["sites"] if site["problem"]}
    assert 'the study asks for "open"' in problems["east"]
    assert "site names must differ" in problems["west"]
    assert plan["missing"] == "1 sites can take part, 2 are needed; mend the others or lower min_sites."
    for name in ("north", "west"):
        toy.change('doors = ["open"]', "doors = []", file=f"sites/{name}/site.toml")
    done = toy.simulate("--plan")
    assert (done.code, done.err.partition(".")[0]) == (1, "RoundError: no site can take part")


def test_masks_need_three_sites(toy: Toy) -> None:
    _use(toy, "secure-only")
    (toy.site("west") / "data.csv").unlink()
    assert _plan(toy, code=1)["missing"].startswith("2 sites can take part, 3 are needed")


def test_a_study_beyond_a_sites_cap_is_seen_before_launch(toy: Toy) -> None:
    _use(toy, "local-dp")
    toy.change("release_site_metrics", "epsilon_cap = 2.0\nrelease_site_metrics", file="sites/east/site.toml")
    [east] = [site for site in _plan(toy)["sites"] if site["site"] == "east"]
    assert east["problem"] == "its ledger's cap is epsilon 2 at delta 1e-05; the study spends 3"


def test_trainable_names_the_head(toy: Toy) -> None:
    study = load_study(toy.folder / "study.toml")
    assert planning.trainable(study, 7) == {"weight": (2, 7), "bias": (2,)}


@pytest.fixture(scope="module")
def lite0() -> Embedder:
    return open_backbone(BackboneSection(tap="blocks.1", image_size=32), None)


def test_a_trunk_is_counted_up_to_its_tap(lite0: Embedder) -> None:
    parameters, size_bytes = trunk_size(lite0)
    model: Any = lite0.model  # type: ignore[attr-defined]
    assert parameters == sum(p.numel() for p in model.parameters())
    assert size_bytes >= 4 * parameters


def test_speed_is_measured_on_no_more_than_asked(lite0: Embedder) -> None:
    images = [np.zeros((8, 8), np.uint8)] * 20
    seconds, timed = seconds_per_example(lite0, images, at_most=5)
    assert timed == 5
    assert 0 < seconds < 1
    assert seconds_per_example(lite0, images[:1], at_most=5)[1] == 1
