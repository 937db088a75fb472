import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from foedus.data.split import declared_split, split_by_unit, units_on_two_sides

PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 25)), min_size=1, max_size=80)
SHARES = st.tuples(st.floats(0, 0.45), st.floats(0, 0.45))


def split(pairs: list[tuple[int, int]], validation: float, test: float, seed: int = 0) -> np.ndarray:
    labels = np.array([label for label, _ in pairs], dtype=np.int64)
    units = np.array([f"u{unit}" for _, unit in pairs], dtype=np.str_)
    return split_by_unit(labels, units, validation=validation, test=test, seed=seed)


@settings(deadline=None)
@given(PAIRS, SHARES, st.integers(0, 99))
def test_no_unit_is_on_both_sides(
    pairs: list[tuple[int, int]], shares: tuple[float, float], seed: int
) -> None:
    sides = split(pairs, *shares, seed=seed)
    units = np.array([f"u{unit}" for _, unit in pairs], dtype=np.str_)
    assert units_on_two_sides(units, sides) == []


@settings(deadline=None)
@given(PAIRS, SHARES, st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(
    pairs: list[tuple[int, int]], shares: tuple[float, float], random
) -> None:
    order = list(range(len(pairs)))
    random.shuffle(order)
    shuffled = split([pairs[i] for i in order], *shares)
    assert shuffled.tolist() == split(pairs, *shares)[order].tolist()


@settings(deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=4), SHARES)
def test_shares_hold_within_each_class_to_one_unit(sizes: list[int], shares: tuple[float, float]) -> None:
    pairs = [(label, 100 * label + i) for label, size in enumerate(sizes) for i in range(size)]
    sides, labels = split(pairs, *shares), np.array([label for label, _ in pairs])
    for label, size in enumerate(sizes):
        of_class = sides[labels == label].tolist()
        assert abs(of_class.count("test") - shares[1] * size) <= 1
        assert abs(of_class.count("validation") - shares[0] * size) <= 1
        assert of_class.count("train") >= 1


def test_shares_of_a_hundred_units_are_exact() -> None:
    sides = split([(0, i) for i in range(100)], 0.15, 0.25).tolist()
    assert [sides.count(name) for name in ("train", "validation", "test")] == [60, 15, 25]


def test_new_units_move_few_of_the_old_ones() -> None:
    before = split([(0, i) for i in range(1000)], 0.15, 0.25)
    after = split([(0, i) for i in range(1010)], 0.15, 0.25)[:1000]
    assert np.mean(before != after) < 0.02


def test_seed_draws_another_split() -> None:
    pairs = [(0, i) for i in range(100)]
    assert split(pairs, 0.15, 0.25, seed=1).tolist() != split(pairs, 0.15, 0.25, seed=2).tolist()


def test_unit_counts_for_its_most_common_label() -> None:
    mixed = [(0, 0), (1, 0), (1, 0)]
    others = [(1, i) for i in range(1, 20)]
    sides = split(mixed + others, 0.2, 0.3)
    units = {f"u{unit}": side for (_, unit), side in zip(mixed + others, sides.tolist(), strict=True)}
    assert [list(units.values()).count(name) for name in ("test", "validation")] == [6, 4]


def test_declared_split_names() -> None:
    found = [declared_split(cell) for cell in ("Train", " val ", "validation", "TEST", "dev", "", None)]
    assert found == ["train", "validation", "validation", "test", None, None, None]
