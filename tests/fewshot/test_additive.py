from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot.additive import AdditiveHead
from fewshot.heads import PrototypeClassifier, RidgeHead
from fewshot.whitening import Whitening
from foedus.errors import FewShotError
from foedus.statistic import Arrays, add

NAMES = np.array(["cat", "ant", "dog", "bee"])
Make = Callable[[], AdditiveHead]
HEADS: list[Make] = [RidgeHead, PrototypeClassifier, lambda: PrototypeClassifier("cosine")]


def rows(dim: int = 12, *, n: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 4
    return rng.normal(size=(n, dim)) + 1.2 * rng.normal(size=(4, dim))[labels], NAMES[labels]


def pooled(make: Make, parts: list[tuple[np.ndarray, np.ndarray]]) -> AdditiveHead:
    """What the sites' sums, and then their votes, give."""
    sums = [make().fit(x, y).statistics(classes=NAMES) for x, y in parts]
    head = make().from_statistics(total(sums), classes=NAMES, **make().get_params())
    return head.tuned(total([head.leave_one_out(x, y) for x, y in parts]))


def total(parts: list[Arrays]) -> Arrays:
    found = parts[0]
    for part in parts[1:]:
        found = add(found, part)
    return found


@pytest.mark.parametrize("make", HEADS)
@given(sites=st.lists(st.integers(0, 4), min_size=40, max_size=40), dim=st.sampled_from([6, 60]))
@settings(max_examples=15, deadline=None)
def test_any_partition_over_sites_gives_the_pooled_head(make: Make, sites: list[int], dim: int) -> None:
    x, y = rows(dim)
    whole, where = make().fit(x, y), np.array(sites)
    head = pooled(make, [(x[where == s], y[where == s]) for s in np.unique(where)])
    assert (head.classes_ == whole.classes_).all()
    assert head.penalty_ == pytest.approx(whole.penalty_)
    np.testing.assert_allclose(head.coef_, whole.coef_, atol=1e-9)
    np.testing.assert_allclose(head.intercept_, whole.intercept_, atol=1e-9)


@pytest.mark.parametrize("make", HEADS)
def test_too_few_cases_give_the_same_fixed_setting_pooled(make: Make) -> None:
    x, y = rows(n=4)
    head = pooled(make, [(x[:1], y[:1]), (x[1:], y[1:])])
    np.testing.assert_allclose(head.coef_, make().fit(x, y).coef_, atol=1e-9)


@pytest.mark.parametrize("make", HEADS)
def test_partial_fit_of_a_class_never_seen_equals_refit(make: Make) -> None:
    x, y = rows()
    known = y != "bee"
    grown = make().fit(x[known], y[known]).partial_fit(x[~known], y[~known])
    order = np.concatenate([np.flatnonzero(known), np.flatnonzero(~known)])
    again = make().fit(x[order], y[order])
    assert list(grown.classes_) == ["ant", "bee", "cat", "dog"]
    np.testing.assert_array_equal(grown.coef_, again.coef_)
    np.testing.assert_array_equal(grown.intercept_, again.intercept_)


@pytest.mark.parametrize("make", HEADS)
def test_a_head_made_from_sums_learns_a_new_class_and_keeps_its_setting(make: Make) -> None:
    x, y = rows()
    known = y != "bee"
    head = pooled(make, [(x[known], y[known])])
    before = head.temperature_
    head.partial_fit(x[~known], y[~known])
    fixed = {**make().get_params(), "temperature": before}
    if "penalty" in fixed:
        fixed["penalty"] = head.penalty_
    again = type(head)(**fixed).fit(x, y)
    np.testing.assert_allclose(head.coef_, again.coef_, atol=1e-9)


def test_statistics_of_sites_with_other_classes_add() -> None:
    x, y = rows()
    one, other = np.isin(y, ["ant", "cat"]), np.isin(y, ["dog", "bee"])
    sums = [RidgeHead().fit(x[part], y[part]).statistics(classes=NAMES) for part in (one, other)]
    whole = RidgeHead().fit(x, y).statistics(classes=NAMES)
    for key, value in total(sums).items():
        np.testing.assert_allclose(value, whole[key], atol=1e-9)


def test_a_class_that_no_site_has_is_left_out() -> None:
    x, y = rows()
    sums = RidgeHead().fit(x, y).statistics(classes=[*NAMES, "eel"])
    head = RidgeHead.from_statistics(sums, classes=[*NAMES, "eel"])
    assert list(head.classes_) == ["ant", "bee", "cat", "dog"]


def test_whitening_of_summed_sites_equals_the_pooled_one() -> None:
    x, y = rows()
    sums = [Whitening().fit(x[s], y[s]).statistics(classes=NAMES) for s in (slice(0, 9), slice(9, 40))]
    whole, added = Whitening().fit(x, y), Whitening.from_statistics(total(sums))
    np.testing.assert_allclose(added.transform(x), whole.transform(x), atol=1e-6)
    grown = Whitening().fit(x[:9], y[:9]).partial_fit(x[9:], y[9:])
    np.testing.assert_allclose(grown.transform(x), whole.transform(x), atol=1e-6)
    with pytest.raises(FewShotError, match="holds no sums of named classes; fit it"):
        added.statistics()


def test_errors_say_what_was_found() -> None:
    x, y = rows()
    fitted = RidgeHead().fit(x, y)
    sums = fitted.statistics()
    with pytest.raises(FewShotError, match="2 of 4 labels are not among the 2 classes given; name them all"):
        fitted.statistics(classes=["ant", "bee"])
    with pytest.raises(FewShotError, match="sums are not of 2 classes"):
        RidgeHead.from_statistics(sums, classes=["ant", "bee"])
    with pytest.raises(FewShotError, match="the sums hold no case"):
        RidgeHead.from_statistics({k: np.zeros_like(v) for k, v in sums.items()}, classes=NAMES)
    with pytest.raises(FewShotError, match="fitted on cases and has chosen already"):
        fitted.leave_one_out(x, y)
    head = RidgeHead.from_statistics(sums, classes=fitted.classes_)
    with pytest.raises(FewShotError, match=r"the votes are not of \(5, 21\) settings"):
        head.tuned({})
    with pytest.raises(FewShotError, match="made from sums and holds no case"):
        head.predict_set(x)
    with pytest.raises(FewShotError, match="shrinks towards given weights is not a sum"):
        RidgeHead(towards=np.ones((4, 12))).fit(x, y).statistics()
