"""Sums: exact, whatever the order; nothing is added that was not declared."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foedus.errors import DoorError
from foedus.statistic import Quantity, count
from foedus.sums import ExactSum

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
