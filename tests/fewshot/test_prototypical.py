import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from fewshot.prototypical import CLASS_COUNT, CLASS_SUM, PrototypeSums, prototypes
from foedus.errors import FewShotError
from foedus.examples import Examples
from foedus.statistic import add


def test_prototypes_are_class_means() -> None:
    features = np.array([[0, 2], [2, 4], [5, 5]], np.float32)
    assert prototypes(features, np.array([0, 0, 1])).tolist() == [[1, 3], [5, 5]]


def test_prototypes_refuse_a_class_without_examples() -> None:
    with pytest.raises(FewShotError, match="1 of 3 classes have no example"):
        prototypes(np.ones((2, 2)), np.array([0, 2]))
    with pytest.raises(FewShotError, match="support set is empty"):
        prototypes(np.ones((0, 2)), np.array([], np.int64))


def test_head_equals_softmax_of_negative_squared_distance() -> None:
    rng = np.random.default_rng(0)
    examples = Examples(rng.normal(size=(30, 6)).astype(np.float32), np.arange(30) % 3)
    statistic = PrototypeSums(3, 6)
    totals = statistic.read(statistic.measure(examples))
    query = rng.normal(size=(9, 6)).astype(np.float32)
    distance = ((query[:, None] - totals.prototypes) ** 2).sum(-1)
    np.testing.assert_allclose(totals.head().probabilities(query), softmax(-distance, axis=1), atol=1e-6)


def test_class_without_examples_never_wins() -> None:
    examples = Examples(np.full((4, 2), 100, np.float32), np.array([0, 0, 2, 2]))
    statistic = PrototypeSums(3, 2)
    totals = statistic.read(statistic.measure(examples))
    assert totals.present.tolist() == [True, False, True]
    scores = totals.head().scores(np.zeros((1, 2), np.float32))
    assert scores.argmax() != 1
    assert np.isfinite(scores).all()


def test_head_of_no_example_is_refused() -> None:
    statistic = PrototypeSums(2, 2)
    nothing = statistic.measure(Examples(np.zeros((0, 2), np.float32), np.zeros(0, np.int64)))
    with pytest.raises(FewShotError, match="hold no example"):
        statistic.read(nothing).head()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=40, max_size=40))
def test_any_partition_gives_the_pooled_prototypes(sites: list[int]) -> None:
    rng = np.random.default_rng(1)
    # Multiples of 1/8 are summed without rounding, so equality is exact.
    examples = Examples((rng.integers(-64, 64, (40, 5)) / 8).astype(np.float32), rng.integers(0, 3, 40))
    statistic = PrototypeSums(3, 5)
    total = statistic.measure(examples.take(np.flatnonzero(np.array(sites) == 0)))
    for s in (3, 1, 2):
        total = add(total, statistic.measure(examples.take(np.flatnonzero(np.array(sites) == s))))
    pooled = statistic.measure(examples)
    assert (total[CLASS_SUM] == pooled[CLASS_SUM]).all()
    assert (total[CLASS_COUNT] == pooled[CLASS_COUNT]).all()
    expected = prototypes(examples.features, examples.labels)
    np.testing.assert_allclose(statistic.read(total).prototypes, expected, atol=1e-12)


def test_settings_keep_only_some_classes_and_travel() -> None:
    statistic = PrototypeSums(3, 2, (1,), min_count=7)
    assert PrototypeSums.from_wire(statistic.settings(), statistic.arrays()) == statistic
    sums = statistic.measure(Examples(np.ones((3, 2), np.float32), np.array([0, 1, 2])))
    assert sums[CLASS_COUNT].tolist() == [0, 1, 0]
    assert {quantity.min_count for quantity in statistic.declare().values()} == {7}
