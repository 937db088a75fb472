"""Sums: exact, whatever the order; nothing is added that was not declared."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foedus.errors import DoorError
from foedus.statistic import Quantity, count
from foedus.sums import ExactSum, from_steps, to_steps

REAL = {"x": Quantity((2,))}


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12), st.randoms())
def test_the_total_is_the_same_to_the_bit_in_any_order(values: list[float], random: object) -> None:
    def total(order: list[float]) -> bytes:
        running = ExactSum(REAL)
        for value in order:
            running.add({"x": np.array([value, -value])})
        return running.total()["x"].tobytes()

    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert total(shuffled) == total(values)


def test_counts_stay_whole_and_reals_keep_their_resolution() -> None:
    running = ExactSum({"n": count(2), "x": Quantity((1,))})
    for _ in range(3):
        running.add({"n": np.array([1, 2]), "x": np.array([0.1])})
    total = running.total()
    assert total["n"].tolist() == [3, 6]
    assert total["n"].dtype == np.int64
    assert total["x"][0] == pytest.approx(0.3, abs=3 * 2.0**-25)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"x": np.array([np.nan, 0.0])}, "'x' holds values that are not finite"),
        ({"x": np.array([np.inf, 0.0])}, "'x' holds values that are not finite"),
        ({"x": np.array([1e30, 0.0])}, "'x' ranges over"),
        ({"x": np.zeros(3)}, r"'x' has shape \(3,\); \(2,\) was declared"),
        ({"x": np.array(["a", "b"])}, "'x' has type <U1; a real was declared"),
        ({"y": np.zeros(2)}, "arrays sent and arrays declared differ in: x, y"),
        ({"x": np.zeros(2), "extra": np.zeros(1)}, "differ in: extra"),
    ],
)
def test_what_was_not_declared_is_refused_and_nothing_is_added(
    arrays: dict[str, np.ndarray], reason: str
) -> None:
    running = ExactSum(REAL)
    running.add({"x": np.ones(2)})
    with pytest.raises(DoorError, match=reason):
        running.add(arrays)
    assert running.total()["x"].tolist() == [1.0, 1.0]
    assert running.contributions == 1


def test_a_fraction_is_not_a_count() -> None:
    with pytest.raises(DoorError, match="'n' has type float64; a count was declared"):
        ExactSum({"n": count(1)}).add({"n": np.array([1.5])})


def test_a_total_that_would_wrap_is_refused() -> None:
    running = ExactSum({"x": Quantity((1,), high=2.0**60, resolution=1.0)})
    for _ in range(4):
        running.add({"x": np.array([2.0**60])})
    with pytest.raises(DoorError, match="does not fit its fixed-point grid"):
        running.add({"x": np.array([2.0**60])})


FINE = {"n": count(2), "x": Quantity((300, 2), low=-16, high=16, resolution=2.0**-26), "y": Quantity((1,))}


def test_a_contribution_travels_in_the_steps_it_is_summed_in_four_bytes_where_they_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("foedus.sums.CHUNK", 11)
    rng = np.random.default_rng(0)
    arrays = {"n": np.array([3, 4]), "x": np.asfortranarray(rng.uniform(-16, 16, (300, 2))), "y": np.ones(1)}
    steps = to_steps(arrays, FINE)
    assert [str(steps[name].dtype) for name in FINE] == ["int64", "int32", "int64"]
    here, there = ExactSum(FINE), ExactSum(FINE)
    for _ in range(3):
        here.add(arrays)
        there.add_steps(steps)
    assert {k: v.tobytes() for k, v in here.total().items()} == {
        k: v.tobytes() for k, v in there.total().items()
    }
    values = from_steps(steps, FINE)
    assert np.abs(values["x"] - arrays["x"]).max() <= 2.0**-27
    assert values["n"].dtype == np.int64


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"x": np.zeros((300, 2))}, "'x' has type float64; steps of type int32 are summed"),
        ({"x": np.zeros((300, 2), np.int64)}, "'x' has type int64; steps of type int32"),
        ({"x": np.full((300, 2), 2**30 + 1, np.int32)}, "'x' ranges over 16 to 16; -16 to 16 was declared"),
        ({"x": np.zeros((2, 300), np.int32)}, r"'x' has shape \(2, 300\)"),
        ({"n": np.array([-1, 0])}, "'n' ranges over -1 to 0"),
        ({"y": np.array([2**57])}, "'y' ranges over 8.59e\\+09"),
        ({"z": np.zeros(1, np.int64)}, "differ in: z"),
    ],
)
def test_steps_that_were_not_declared_are_refused_and_nothing_is_added(
    changed: dict[str, np.ndarray], reason: str
) -> None:
    running = ExactSum(FINE)
    steps = to_steps({"n": np.array([3, 4]), "x": np.zeros((300, 2)), "y": np.ones(1)}, FINE)
    with pytest.raises(DoorError, match=reason):
        running.add_steps(steps | changed)
    assert running.contributions == 0
    assert not any(value.any() for value in running.total().values())
