"""Fixed point in two lanes: as ExactSum to the bit; what cannot be carried is refused when declared."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foedus.errors import DoorError, SecureSumError
from foedus.secure.lanes import Lanes, Layout
from foedus.statistic import Arrays, Quantity, count
from foedus.sums import ExactSum


def total(layout: Layout, contributions: list[Arrays]) -> Arrays:
    lanes = layout.empty()
    for arrays in contributions:
        found = layout.encode(arrays)
        lanes = Lanes(lanes.narrow + found.narrow, lanes.wide + found.wide)
    return layout.decode(lanes, contributions=len(contributions))


@st.composite
def summed(draw: st.DrawFn) -> tuple[Quantity, list[np.ndarray]]:
    """A quantity whose total over at most 7 sites stays in 62 bits, and contributions to it."""
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    bits = draw(st.integers(1, 58))
    if draw(st.booleans()):
        quantity = Quantity(shape, "count", -(2.0**bits), 2.0**bits, 1.0)
        one = st.integers(-(2**bits), 2**bits)
    else:
        resolution = draw(st.sampled_from([2.0**-24, 0.1, 1 / 3, 7.0]))
        reach = min(2.0**bits, 1e15) * resolution
        quantity = Quantity(shape, "real", -reach, reach, resolution)
        one = st.floats(-reach, reach)
    size = int(np.prod(shape))
    many = st.lists(one, min_size=size, max_size=size)
    kind = np.int64 if quantity.kind == "count" else np.float64
    values = draw(st.lists(many, min_size=1, max_size=7))
    return quantity, [np.array(v, dtype=kind).reshape(shape) for v in values]


@settings(deadline=None, max_examples=200)
@given(st.lists(summed(), min_size=1, max_size=3))
def test_totals_equal_exact_sum_to_the_bit(drawn: list[tuple[Quantity, list[np.ndarray]]]) -> None:
    sites = min(len(values) for _, values in drawn)
    quantities = {str(i): quantity for i, (quantity, _) in enumerate(drawn)}
    contributions = [{str(i): v[site] for i, (_, v) in enumerate(drawn)} for site in range(sites)]
    exact = ExactSum(quantities)
    for arrays in contributions:
        exact.add(arrays)
    found = total(Layout(quantities, 7), contributions)
    for name, wanted in exact.total().items():
        assert found[name].dtype == wanted.dtype
        assert found[name].shape == wanted.shape
        assert found[name].tobytes() == wanted.tobytes()


def test_the_lane_is_narrow_below_2_to_the_31_steps_over_all_sites() -> None:
    def lanes(high: float, sites: int) -> tuple[int, int]:
        layout = Layout({"x": Quantity((4,), low=-1, high=high, resolution=1.0)}, sites)
        return layout.narrow, layout.wide

    assert lanes(2.0**29 - 1, 4) == (4, 0)
    assert lanes(2.0**29, 4) == (0, 4)
    assert lanes(2.0**29 - 0.6, 4) == (4, 0)
    assert lanes(2.0**29 - 0.5, 4) == (0, 4), "the grid rounds half to even, here up"


def test_the_extremes_of_the_narrow_lane_do_not_wrap() -> None:
    quantity = Quantity((2,), low=-(2.0**29 - 1), high=2.0**29 - 1, resolution=1.0)
    found = total(Layout({"x": quantity}, 4), [{"x": np.array([quantity.low, quantity.high])}] * 4)
    assert found["x"].tolist() == [-(2.0**31) + 4, 2.0**31 - 4]


@pytest.mark.parametrize(("sites", "fits"), [(7, True), (8, False)])
def test_a_total_that_63_bits_cannot_hold_is_refused_when_declared(sites: int, fits: bool) -> None:
    """2^60 steps either way serve up to 7 sites."""
    quantities = {"x": Quantity((2,), low=-(2.0**36), high=0, resolution=2.0**-24)}
    if fits:
        assert Layout(quantities, sites).wide == 2
    else:
        with pytest.raises(SecureSumError, match=r"'x' may reach 2\^63 steps .* narrow its range"):
            Layout(quantities, sites)


@pytest.mark.parametrize(
    ("quantity", "reason"),
    [
        (Quantity((1,), low=0, high=float("inf")), "'x' declares no range"),
        (Quantity((1,), low=float("nan"), high=1), "'x' declares no range"),
        (Quantity((1,), low=2, high=1), "'x' declares no range"),
        (Quantity((1,), resolution=0), "'x' declares no range"),
        (Quantity((1,), resolution=-1), "'x' declares no range"),
        (Quantity((-1,)), "'x' declares no range"),
        (Quantity((1,), low=0, high=1e300, resolution=1e-300), "'x' has too fine a resolution"),
        (Quantity((1,), low=0, high=1e300), r"'x' may reach 2\^1022 steps"),
        (Quantity((2**15, 2**16), low=0, high=1), "2147483648 values were declared"),
    ],
)
def test_a_declaration_that_cannot_be_summed_is_refused(quantity: Quantity, reason: str) -> None:
    with pytest.raises(SecureSumError, match=reason):
        Layout({"x": quantity}, 5)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.array([np.nan, 0.0]), "not finite"),
        (np.array([9.0, 0.0]), "'x' ranges over 0 to 9"),
        (np.zeros(3), r"'x' has shape \(3,\)"),
        (np.array(["a", "b"]), "'x' has type"),
    ],
)
def test_a_contribution_that_was_not_declared_is_refused(array: np.ndarray, reason: str) -> None:
    with pytest.raises(DoorError, match=reason):
        Layout({"x": Quantity((2,), low=-8, high=8)}, 5).encode({"x": array})


def test_arrays_are_encoded_alike_in_chunks_and_in_any_memory_order(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout({"x": Quantity((30, 7), low=-8, high=8)}, 5)
    values = np.random.default_rng(0).uniform(-8, 8, (30, 7))
    whole = layout.encode({"x": values}).narrow
    monkeypatch.setattr("foedus.sums.CHUNK", 11)
    assert np.array_equal(layout.encode({"x": np.asfortranarray(values)}).narrow, whole)


def test_a_total_no_sites_can_reach_is_refused() -> None:
    layout = Layout({"x": Quantity((1,), low=0, high=10, resolution=1.0)}, 4)
    found = layout.encode({"x": np.array([10.0])})
    assert layout.decode(found, contributions=1)["x"].tolist() == [10.0]
    wrong = Lanes(found.narrow + np.uint32(21), found.wide)
    with pytest.raises(SecureSumError, match="the sum of 'x' is out of the range that 3 sites can reach"):
        layout.decode(wrong, contributions=3)


def test_a_total_that_exact_sum_would_refuse_is_refused() -> None:
    quantity = Quantity((1,), "count", 0, 2.0**60, 1.0)
    layout = Layout({"x": quantity}, 7)
    with pytest.raises(SecureSumError, match="does not fit its fixed-point grid"):
        total(layout, [{"x": np.array([2**60])}] * 5)


def test_the_digest_tells_layouts_apart() -> None:
    base = Quantity((2,), low=-8, high=8)
    layouts = [
        Layout({"x": base}, 5),
        Layout({"x": base}, 6),
        Layout({"y": base}, 5),
        Layout({"x": Quantity((2, 1), low=-8, high=8)}, 5),
        Layout({"x": Quantity((2,), low=-8, high=9)}, 5),
        Layout({"x": Quantity((2,), low=-8, high=8, resolution=2.0**-23)}, 5),
        Layout({"x": Quantity((2,), "count", -8, 8)}, 5),
        Layout({"x": base, "n": count(1)}, 5),
    ]
    assert len({layout.digest() for layout in layouts}) == len(layouts)
    assert Layout({"n": count(1), "x": base}, 5).digest() == layouts[-1].digest()
