"""Drift that is there is found, and drift that is not there is not "found"."""

import numpy as np
import pytest

from deploy.drift import (
    Test as OneTest,
)
from deploy.drift import (
    decided,
    drift_tests,
    kolmogorov_smirnov,
    merged,
    rank_sum,
    shares_differ,
    stability_index,
    total,
)
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.histograms import FEATURES, UNLABELLED, Histograms
from foedus.statistic import Arrays
from server.serving import coarsened

D, N_TEST, N_LIVE = 24, 600, 2000
HEAD = LinearHead(np.linspace(-1, 1, 2 * D, dtype=np.float32).reshape(2, D), np.zeros(2, np.float32))


def histograms(rng: np.random.Generator, n: int, *, shift: float = 0.0) -> Arrays:
    features = rng.normal(size=(n, D)).astype(np.float32)
    features[:, 3] += np.float32(shift)
    return Histograms(HEAD).measure(Examples(features, np.full(n, UNLABELLED, np.int64)))


def alarms(rng: np.random.Generator, *, shift: float = 0.0, n: int = N_LIVE) -> list[str]:
    audited = coarsened(histograms(rng, N_TEST), fewest=11)
    names = [str(i) for i in range(D)]
    live = histograms(rng, n, shift=shift)
    tests = drift_tests(live, audited, features=names, classes=["yes"], least=0.02)
    return [finding.what for finding in decided(tests, alpha=0.005) if finding.breach]


def test_false_alarms_on_undrifted_windows_are_rarer_than_one_in_a_hundred() -> None:
    rng = np.random.default_rng(1)
    found = sum(bool(alarms(rng)) for _ in range(200))
    assert found <= 2


def test_a_shift_of_three_tenths_is_found_within_two_thousand_requests() -> None:
    rng = np.random.default_rng(2)
    found = [alarms(rng, shift=0.3) for _ in range(60)]
    assert sum("feature 3" in names for names in found) >= 57


def test_figures_by_hand() -> None:
    live, audited = np.array([30.0, 70.0]), np.array([50.0, 50.0])
    assert kolmogorov_smirnov(live, audited) == pytest.approx(0.0366, abs=2e-3)  # sqrt(50) * .2 = 1.414
    assert rank_sum(live, audited) == pytest.approx(0.0040, abs=1e-4)  # z = 2.88 with ties
    raw = (30.5 / 101 - 50.5 / 101) * np.log(30.5 / 50.5) + (70.5 / 101 - 50.5 / 101) * np.log(70.5 / 50.5)
    assert stability_index(live, audited) == pytest.approx(raw - 0.02)
    assert stability_index(audited, audited) == 0.0
    assert shares_differ(30, 100, 0.5, 100) == pytest.approx(0.0039, abs=1e-4)  # z = 2.887
    assert shares_differ(0, 0, 0.5, 100) == 1.0


def test_bins_are_the_released_ones() -> None:
    live, audited = merged(np.array([1, 2, 3, 4, 5]), np.array([0, 20, 0, 0, 30]))
    assert live.tolist() == [3, 12]
    assert audited.tolist() == [20, 30]


def test_holm_stops_at_the_first_that_is_by_chance() -> None:
    def one(p: float, *, large: bool = True) -> OneTest:
        return OneTest("x", p, 1.0, large, "")

    found = decided([one(0.004), one(0.02), one(0.001), one(0.0001, large=False)], alpha=0.01)
    assert [finding.breach for finding in found] == [True, False, True, False]


def test_coarse_bins_tell_of_no_few_and_lose_nobody() -> None:
    rng = np.random.default_rng(0)
    whole = histograms(rng, 97)
    kept = coarsened(whole, fewest=11)
    assert set(kept) == set(whole) - {"truths"}
    for name, counts in kept.items():
        assert not ((counts > 0) & (counts < 11)).any()
        assert counts.sum() == whole[name].sum()


def test_windows_add_up_whatever_the_order_and_split() -> None:
    rng = np.random.default_rng(3)
    parts = [histograms(rng, n) for n in (5, 40, 11)]
    one, other = total(parts), total(parts[::-1])
    assert all((one[key] == other[key]).all() for key in one)
    assert one[FEATURES].sum() == 56 * D
