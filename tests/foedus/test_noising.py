"""Noise on what leaves: enough, on a grid the sum can carry, and never drawn twice for one release."""

from math import prod, sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foedus import noising
from foedus.errors import DoorError, PrivacyError
from foedus.noising import Purse, add_noise, as_declared, declared, deviation
from foedus.privacy.accountant import Gaussian
from foedus.privacy.ledger import Ledger
from foedus.secure.lanes import Layout
from foedus.statistic import Arrays, Quantity, count
from foedus.sums import ExactSum, check

REQUEST, OTHER = bytes(32), bytes(range(32))


def quantities(size: int = 7, sensitivity: float = 1.0) -> dict[str, Quantity]:
    return {"gradient": Quantity((size,), sensitivity=sensitivity)}


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 20_000),
    st.floats(1e-3, 1e3),
    st.floats(0.05, 500),
    st.integers(1, 30),
    st.integers(0, 2**32),
)
def test_noised_contributions_fit_what_is_declared_and_their_total_decodes_exactly(
    size: int, sensitivity: float, multiplier: float, n_sites: int, seed: int
) -> None:
    wanted = quantities(size, sensitivity)
    given_out = declared(wanted, multiplier)
    rng = np.random.default_rng(seed)
    running, layout = ExactSum(given_out), Layout(given_out, n_sites)
    lanes = layout.empty()
    for _ in range(min(n_sites, 3)):
        arrays: Arrays = {"gradient": rng.normal(0, 100 * sensitivity, size)}
        noised = add_noise(arrays, wanted, multiplier=multiplier, honest=max(1, 2 * n_sites // 3))
        check(noised, given_out)
        steps = noised["gradient"] / given_out["gradient"].resolution
        assert (steps == np.rint(steps)).all()
        running.add(noised)
        masked = layout.encode(noised)
        lanes.narrow[:] += masked.narrow
        lanes.wide[:] += masked.wide
    total = layout.decode(lanes, contributions=min(n_sites, 3))
    np.testing.assert_array_equal(total["gradient"], running.total()["gradient"])


@given(st.integers(1, 10**6), st.floats(1e-3, 1e3), st.floats(0.01, 500))
def test_the_grid_is_a_power_of_two_that_adds_little_to_the_sensitivity(
    size: int, sensitivity: float, multiplier: float
) -> None:
    step = declared(quantities(size, sensitivity), multiplier)["gradient"].resolution
    assert np.frexp(step)[0] == 0.5
    assert sqrt(size) * step <= sensitivity / 64  # rounding moves a vector by at most half of this each way
    assert multiplier * sensitivity / step >= 2**14


def test_one_site_alone_has_the_declared_deviation() -> None:
    wanted, size = quantities(200_000, 3.0), 200_000
    noised = add_noise({"gradient": np.full(size, 5.0)}, wanted, multiplier=2.0, honest=1)["gradient"]
    expected = deviation(wanted, 2.0)["gradient"]
    assert expected == 6.0
    assert noised.mean() == pytest.approx(5.0, abs=0.08)  # six standard errors
    assert expected * 0.99 < noised.std() < expected * 1.03  # rounding is charged for: up to 1/64 more


def test_the_shares_of_the_honest_sites_add_up_to_the_declared_deviation() -> None:
    wanted = quantities(200_000)
    zeros: Arrays = {"gradient": np.zeros(200_000)}
    noise = sum(add_noise(zeros, wanted, multiplier=4.0, honest=6)["gradient"] for _ in range(6))
    assert 4.0 * 0.99 < float(np.std(noise)) < 4.0 * 1.03


def test_arrays_that_leave_together_share_the_budget() -> None:
    wanted = {"a": Quantity((50_000,), sensitivity=1.0), "b": Quantity((50_000,), sensitivity=10.0)}
    expected = deviation(wanted, 2.0)
    assert expected == {"a": pytest.approx(2 * sqrt(2)), "b": pytest.approx(20 * sqrt(2))}
    zeros: Arrays = {name: np.zeros(50_000) for name in wanted}
    noised = add_noise(zeros, wanted, multiplier=2.0, honest=1)
    for name, value in noised.items():
        assert value.std() == pytest.approx(expected[name], rel=0.04)


def test_an_array_without_entries_takes_no_share_and_stays_empty() -> None:
    wanted = {**quantities(), "none": Quantity((0, 4), sensitivity=1.0)}
    assert deviation(wanted, 2.0)["gradient"] == 2.0
    noised = add_noise({"gradient": np.zeros(7), "none": np.zeros((0, 4))}, wanted, multiplier=2.0, honest=1)
    assert noised["none"].shape == (0, 4)


def test_noise_is_never_the_same_twice() -> None:
    zeros: Arrays = {"gradient": np.zeros(7)}
    one, other = (add_noise(zeros, quantities(), multiplier=1.0, honest=1) for _ in range(2))
    assert (one["gradient"] != other["gradient"]).any()


def test_an_array_that_nothing_bounds_does_not_leave() -> None:
    wanted = {**quantities(), "loss": Quantity(())}
    arrays: Arrays = {"gradient": np.zeros(7), "loss": np.zeros(())}
    with pytest.raises(DoorError, match="nothing bounds what one unit can change in 'loss'"):
        add_noise(arrays, wanted, multiplier=1.0, honest=1)
    with pytest.raises(DoorError, match="'loss'"):
        declared(wanted, 1.0)


@pytest.mark.parametrize("value", [np.nan, np.inf, 2.0**33])
def test_a_contribution_out_of_range_is_refused_before_noise_could_hide_it(value: float) -> None:
    with pytest.raises(DoorError, match="'gradient'"):
        add_noise({"gradient": np.full(7, value)}, quantities(), multiplier=1.0, honest=1)


def test_counts_are_whole_and_not_negative_again_after_the_sum() -> None:
    wanted = {"cases": count(4, sensitivity=1.0), "real": Quantity((2,), sensitivity=1.0)}
    total: Arrays = {"cases": np.array([-3.2, 0.4, 1.6, 7.0]), "real": np.array([-1.5, 2.5])}
    found = as_declared(total, wanted)
    assert found["cases"].tolist() == [0, 0, 2, 7]
    assert found["cases"].dtype == np.int64
    assert found["real"].tolist() == [-1.5, 2.5]


@pytest.fixture
def purse(tmp_path: Path) -> Purse:
    (tmp_path / "data.csv").write_text("x\n1\n")
    ledger = Ledger.open(tmp_path / "ledger", data="data.csv", unit="record", cap_epsilon=3.0, delta=1e-5)
    return Purse(ledger, tmp_path / "released" / "run-1")


def release(
    purse: Purse, name: str = "round 1", request: bytes = REQUEST, multiplier: float = 10.0
) -> Arrays:
    return purse.release(
        name,
        request,
        {"gradient": np.ones(7)},
        quantities(),
        study="toy",
        event=Gaussian(multiplier),
        honest=1,
    )


def test_the_same_request_gets_the_same_bytes_and_is_charged_once(purse: Purse) -> None:
    first = release(purse)
    before = purse.ledger.spent()
    again = release(purse)
    assert again["gradient"].tobytes() == first["gradient"].tobytes()
    assert purse.ledger.spent() == before > 0
    assert len(list(purse.kept.iterdir())) == 1


def test_another_request_for_the_same_release_is_refused_and_costs_nothing(purse: Purse) -> None:
    release(purse)
    before = purse.ledger.spent()
    with pytest.raises(DoorError, match="'round 1' of this run was released for another request"):
        release(purse, request=OTHER)
    assert purse.ledger.spent() == before


def test_rounds_with_a_common_beginning_are_different_releases(purse: Purse) -> None:
    one, ten = release(purse, "round 1"), release(purse, "round 10")
    assert one["gradient"].tobytes() != ten["gradient"].tobytes()
    assert release(purse, "round 1")["gradient"].tobytes() == one["gradient"].tobytes()


def test_what_the_ledger_refuses_is_neither_made_nor_kept(purse: Purse) -> None:
    with pytest.raises(PrivacyError, match="epsilon 3"):
        release(purse, multiplier=0.5)
    assert not purse.kept.exists()


def test_what_is_kept_is_the_sites_own(purse: Purse) -> None:
    release(purse)
    assert purse.kept.stat().st_mode & 0o077 == 0


def test_reach_leaves_room_for_the_noise() -> None:
    found = declared(quantities(3, 2.0), 5.0)["gradient"]
    assert found.high == noising.REACH + 64 * 10
    assert prod(found.shape) == 3
