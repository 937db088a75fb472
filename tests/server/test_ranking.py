"""Ranking backbones on real site folders: from sums alone, under masks or not, and never in a private study."""

import json
import re
from dataclasses import asdict
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from PIL import Image
from scipy.special import log_softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge

from clients.statistics import KNOWN
from clients.workplace import open_workplace
from foedus import ranking
from foedus.backbones import Moments
from foedus.backbones.shift import NOISE, SITES, SQUARED, Shift, SiteShift
from foedus.errors import BackboneError, ConfigError
from foedus.examples import Examples
from foedus.ranking import Row, parse_candidate, rank
from foedus.simulation import concatenate
from foedus.site import find_sites
from foedus.statistic import add
from foedus.study import load_study
from server.exchange import Cohort
from server.start import PENALTIES, TEMPERATURES

LITE0 = "bundled:efficientnet-lite0"


def _use(toy: Path, mode: str) -> None:
    for path in (toy / "study.toml", *(site / "site.toml" for site in find_sites(toy / "sites"))):
        text = path.read_text().replace('mode = "open"', f'mode = "{mode}"')
        path.write_text(text.replace('doors = ["open"]', f'doors = ["{mode}"]'))


def _rank(toy: Path, *candidates: str) -> list[Row]:
    return rank(toy / "study.toml", toy / "sites", candidates=candidates)


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Three sites with 60 digits each, of three classes."""
    found = load_digits(n_class=3)
    for place, name in enumerate(("east", "north", "south")):
        site = tmp_path / "sites" / name
        for row in range(60 * place, 60 * place + 60):
            folder = site / "digits" / str(found.target[row])
            folder.mkdir(parents=True, exist_ok=True)
            pixels = (255 - found.images[row] * 15.9).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{row}.png")
        (site / "site.toml").write_text(
            f'[site]\nname = "{name}"\n[data]\nkind = "images"\npath = "digits"\n[policy]\ndoors = ["open"]\n'
        )
    (tmp_path / "study.toml").write_text(
        '[study]\nname = "digits"\nclasses = ["0", "1", "2"]\n[door]\nmode = "open"\n'
        f'[backbone]\nsource = "{LITE0}"\ntap = "blocks.1"\nimage_size = 32\n'
    )
    return tmp_path


def test_the_best_stands_first_and_what_cannot_be_opened_last(
    digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ranking.CANDIDATES, "images", [f"{LITE0}@blocks.2@2x2", f"{LITE0}@blocks.1@1x1"])
    told: list[str] = []
    rows = rank(
        digits / "study.toml",
        digits / "sites",
        candidates=["bundled:nope", f"{LITE0}@blocks.9"],
        tell=lambda done, total, name: told.append(f"{done}/{total} {name}"),
    )
    assert [row.problem is None for row in rows] == [True, True, False, False]
    order = [(-(row.accuracy or 0), row.log_loss or 0, -(row.logme or 0)) for row in rows[:2]]
    assert order == sorted(order)
    found = {row.tap: row for row in rows[:2]}
    own, wide = found["blocks.1@1x1"], found["blocks.2@2x2"]
    assert (own.own, wide.own) == (True, False)
    assert (own.dim, wide.dim) == (24, 160)
    assert own.n_train == wide.n_train == 3 * 36
    assert own.parameters is not None
    assert wide.parameters is not None
    assert 0 < own.parameters < wide.parameters
    assert (wide.size_bytes or 0) > 4 * wide.parameters
    for row in (own, wide):
        assert (row.accuracy or 0) > 0.6
        assert (row.seconds_per_1000 or 0) > 0
    assert "108 examples for 160 features: the H-score says nothing" in wide.notes
    assert "'bundled:nope' is not bundled" in str(rows[2].problem)
    assert "blocks.0 to blocks.6" in str(rows[3].problem)
    assert told[0] == f"0/4 {LITE0}@blocks.1"
    assert len(told) == 4  # the study's own tap was named twice
    json.dumps([asdict(row) for row in rows])


def test_masks_change_no_figure_and_no_site_is_read_alone(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [plain] = _rank(toy)
    _use(toy, "secure-only")
    sent: list[RecordDict] = []
    gather = Cohort.gather

    def listening(self: Cohort, messages, accept, *, what: str):  # type: ignore[no-untyped-def]
        def hear(name: str, reply: Message) -> None:
            sent.append(reply.content)
            accept(name, reply)

        return gather(self, messages, hear, what=what)

    monkeypatch.setattr(Cohort, "gather", listening)
    [masked] = _rank(toy)
    costs = {"seconds_per_1000", "round_bytes_down", "round_bytes_up"}
    one, other = ({k: v for k, v in asdict(row).items() if k not in costs} for row in (plain, masked))
    assert one == other
    assert sent
    assert not any("arrays" in content for content in sent)


@pytest.mark.parametrize("mode", ["secure+ddp", "local-dp"])
def test_a_private_study_is_refused_before_any_site_is_asked(toy: Path, mode: str) -> None:
    _use(toy, mode)
    with pytest.raises(ConfigError, match="each candidate would spend privacy budget"):
        _rank(toy)
    assert not any((site / ".foedus").exists() for site in find_sites(toy / "sites"))


def test_a_new_site_is_not_asked_and_a_broken_one_is_named(toy: Path) -> None:
    (toy / "sites/west/data.csv").unlink()
    text = (toy / "study.toml").read_text()
    (toy / "study.toml").write_text(text + '[fewshot]\nn_way = 2\nnew_sites = ["east"]\n')
    [row] = _rank(toy)
    assert row.sites == 2
    assert any("without 1 sites (" in note for note in row.notes)


def test_too_few_sites_are_a_row_with_the_reason(toy: Path) -> None:
    path = toy / "study.toml"
    path.write_text(re.sub("min_sites = 2", "min_sites = 5", path.read_text()))
    [row] = _rank(toy)
    assert row.accuracy is None
    assert "4 sites can take part, federation.min_sites is 5" in str(row.problem)


def test_a_candidate_is_source_then_tap(toy: Path) -> None:
    study = load_study(toy / "study.toml")
    section = parse_candidate("file:/a/b.safetensors#vit_tiny_patch16_224@blocks.4@2x2", study)
    assert (section.source, section.tap) == ("file:/a/b.safetensors#vit_tiny_patch16_224", "blocks.4@2x2")
    assert parse_candidate("bundled:minilm-l6", study).tap is None


def _shift(parts: list[Examples]) -> SiteShift:
    """What the sites' sums say, asked in the order a federation asks."""
    dim = parts[0].features.shape[1]
    standardiser = Moments(dim).read(reduce(add, map(Moments(dim).measure, parts)))
    standard = [Examples(standardiser.apply(part.features), part.labels) for part in parts]
    return Shift(dim).read(reduce(add, map(Shift(dim).measure, standard)))


def _normal(seed: int, *, n: int = 50, mean: float = 0.0, dim: int = 40) -> Examples:
    rng = np.random.default_rng(seed)
    return Examples(rng.normal(mean, size=(n, dim)).astype(np.float32), np.zeros(n, np.int64))


def test_sites_of_one_population_lie_as_far_apart_as_chance_puts_them() -> None:
    found = [_shift([_normal(seed), _normal(seed + 1), _normal(seed + 2, n=200)]) for seed in range(0, 60, 3)]
    assert found[0].noise == pytest.approx((1 / 50 + 1 / 50 + 1 / 200) / 3 - 1 / 300)
    assert np.mean([each.squared for each in found]) == pytest.approx(found[0].noise, rel=0.1)
    assert not any(each.large for each in found)


def test_a_site_from_elsewhere_is_far_by_hand() -> None:
    found = _shift([_normal(0, n=4000), _normal(1, n=4000, mean=2.0)])
    assert found.squared == pytest.approx(1 / 2, rel=0.03)  # ±1 from the mean, in deviations of √(1 + 1)
    assert found.large


def test_a_certain_but_tiny_distance_is_not_called_large() -> None:
    found = _shift([_normal(0, n=20_000, dim=5), _normal(1, n=20_000, mean=0.1, dim=5)])
    assert found.squared > 4 * found.noise
    assert not found.large


def test_a_site_without_examples_counts_for_nothing() -> None:
    assert _shift([_normal(0), _normal(1), _normal(2, n=0)]).n_sites == 2


def test_shift_is_known_at_sites_and_refuses_other_features() -> None:
    assert KNOWN["shift"] is Shift
    assert set(Shift(3).declare()) >= {SQUARED, NOISE, SITES}
    with pytest.raises(BackboneError, match=r"expected \(n, 3\)"):
        Shift(3).measure(_normal(0))
    with pytest.raises(ConfigError, match="is not a known array"):
        Shift.from_wire({"dim": 3}, {"weight": np.zeros(1)})


def test_accuracy_and_log_loss_are_those_of_ridge_regression_on_all_rows(toy: Path) -> None:
    [row] = _rank(toy)
    study = load_study(toy / "study.toml")
    sites = [open_workplace(folder, study.to_json()) for folder in find_sites(toy / "sites")]
    train, validation = (
        concatenate([site.examples(split, standardiser=None) for site in sites])
        for split in ("train", "validation")
    )
    assert (row.n_train, row.n_validation) == (len(train), len(validation))
    mean, scale = train.features.mean(axis=0), train.features.std(axis=0)
    scale[scale < 1e-6] = 1
    found = []
    for penalty in PENALTIES:
        ridge = Ridge(alpha=penalty * len(train)).fit(
            (train.features - mean) / scale, np.eye(2)[train.labels]
        )
        scores = ridge.predict((validation.features - mean) / scale)
        accuracy = float((scores.argmax(axis=1) == validation.labels).mean())
        for temperature in TEMPERATURES:
            losses = -log_softmax(temperature * scores, axis=1)[np.arange(len(scores)), validation.labels]
            found.append((float(losses.mean()), accuracy))
    assert (row.log_loss, row.accuracy) == pytest.approx(min(found), abs=1e-4)
