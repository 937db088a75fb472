import pytest
from scipy.stats import binomtest

from fewshot.guarantees import accuracy_interval, cases_for, guarantees


def test_five_cases_of_five_classes() -> None:
    found = guarantees([5] * 5, right=20)
    assert found.smallest_alpha == pytest.approx(1 / 26)
    assert found.smallest_alpha_per_class == pytest.approx(1 / 6)
    assert found.interval == pytest.approx((0.593, 0.932), abs=1e-3)
    text = " ".join(found.sentences())
    assert "20 of 25 cases right, 95 % interval 0.59 to 0.93 (34 points wide)" in text
    assert "Too few cases to accept this head on its own accuracy: a class has 5" in text
    assert "the surest is 96.2 % (25 cases); for each class by itself 83.3 % (5 cases)" in text
    assert "90 % takes 9 cases of it, 95 % takes 19" in text
    assert "fewer than 3.8 % of known cases are rejected" in text


def test_one_case_promises_nothing_about_accuracy_or_rejection() -> None:
    text = " ".join(guarantees([1, 1]).sentences())
    assert "leave-one-out says nothing" in text
    assert "None of these: not available" in text


def test_many_cases_are_not_called_too_few() -> None:
    assert "Too few" not in " ".join(guarantees([40, 60], right=90).sentences())


@pytest.mark.parametrize(("alpha", "n"), [(0.1, 9), (0.05, 19), (0.2, 4), (1 / 6, 5), (0.01, 99)])
def test_cases_for_an_alpha(alpha: float, n: int) -> None:
    assert cases_for(alpha) == n


@pytest.mark.parametrize(("right", "n"), [(0, 5), (5, 5), (20, 25), (1, 2)])
def test_interval_equals_scipys_clopper_pearson(right: int, n: int) -> None:
    oracle = binomtest(right, n).proportion_ci(0.95, method="exact")
    assert accuracy_interval(right, n) == pytest.approx((oracle.low, oracle.high))
