from pathlib import Path

import numpy as np

from foedus.demos import Prepared
from foedus.demos.cheques import BANKS, assign
from foedus.site import find_sites, load_site
from foedus.study import load_study

LABELS = np.repeat(np.arange(10, dtype=np.uint8), 500)


def test_study_and_sites_are_valid(cheques: Prepared) -> None:
    study = load_study(cheques.study_path)
    assert study.study.classes == [str(digit) for digit in range(10)]
    assert study.fewshot is not None
    assert study.fewshot.new_sites == ["newbank"]
    sites = [load_site(folder) for folder in find_sites(cheques.sites_path)]
    assert {site.site.name for site in sites} == {*BANKS, "newbank"}
    assert all(site.policy.doors == ["open"] and site.policy.release_site_metrics for site in sites)


def test_five_banks_are_disjoint_and_hold_every_image(cheques: Prepared) -> None:
    names = [path.name for path in cheques.sites_path.rglob("*.png")]
    assert len(names) == len(set(names)) == 5000


def test_new_bank_holds_a_hundred_of_each_digit(cheques: Prepared) -> None:
    folders = sorted(Path(cheques.sites_path / "newbank" / "digits").iterdir())
    assert [(folder.name, len(list(folder.iterdir()))) for folder in folders] == [
        (str(digit), 100) for digit in range(10)
    ]


def test_banks_hold_enough_and_are_skewed_whatever_the_seed() -> None:
    for seed in range(20):
        banks = assign(LABELS, seed=seed)
        rows = np.concatenate(list(banks.values()))
        assert len(np.unique(rows)) == 5000
        assert all(len(banks[bank]) >= 200 for bank in BANKS)
        counts = np.stack([np.bincount(LABELS[banks[bank]], minlength=10) for bank in BANKS])
        assert counts.max() > 200  # without skew each bank has 100 of each digit


def test_the_same_seed_gives_the_same_banks() -> None:
    first, second, other = assign(LABELS, seed=5), assign(LABELS, seed=5), assign(LABELS, seed=6)
    assert all(np.array_equal(first[bank], second[bank]) for bank in first)
    assert not np.array_equal(first["newbank"], other["newbank"])
