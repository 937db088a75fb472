"""What results.json may say of everyone together."""

import numpy as np
import pytest

from fairness.figures import quality_without_small_counts, without_small_counts
from foedus.metrics import from_rows, from_sums


def kept(confusion: list[list[int]], k: int = 11) -> dict[str, object]:
    found = from_sums(np.array(confusion))
    return dict(
        without_small_counts({"models": {"federated": found, "pooled": None}}, k)["models"]["federated"]
    )


def test_nothing_is_taken_away_where_nothing_is_small() -> None:
    found = kept([[50, 12], [0, 60]])
    assert found["confusion"] == [[50, 12], [0, 60]]
    assert found["balanced_accuracy"] == pytest.approx((50 / 62 + 1) / 2)


def test_a_small_cell_takes_all_with_it_that_it_follows_from() -> None:
    found = kept([[50, 12], [5, 60]])
    assert [found[key] for key in ("confusion", "per_class", "balanced_accuracy", "macro_f1")] == [None] * 4
    assert found["accuracy"] == 110 / 127
    assert kept([[50, 4], [5, 60]])["accuracy"] is None  # nine are wrong


def test_bins_of_probabilities_are_put_together_until_none_tells_of_a_few() -> None:
    rng = np.random.default_rng(0)
    for n in (20, 60, 200, 1000):
        p = rng.beta(0.6, 0.6, n).clip(0.01, 0.99)
        found = from_rows((rng.random(n) < p).astype(np.int64), np.log(np.stack([1 - p, p], axis=1)))
        once = without_small_counts({"models": {"a": found}}, 11)
        bins = once["models"]["a"]["reliability"]
        assert bins is None or sum(each["n"] for each in bins) == n
        for each in bins or []:
            true = round(each["n"] * each["observed"])
            assert all(count == 0 or count >= 11 for count in (true, each["n"] - true))
        assert without_small_counts(once, 11) == once


def test_counts_of_few_records_are_withheld_and_a_column_where_few_cells_are_left() -> None:
    found = {
        "usable": 100,
        "set_aside": {"no label": 4, "no unit id": 11},
        "columns": {
            "age": {"empty": 20, "out of range": 3},
            "chol": {"empty": 60, "infinite": 30},
            "thal": {"empty": 95, "unseen": 2},
            "ca": {"empty": 100},
            "sex": {},
        },
    }
    kept = quality_without_small_counts(found, 11)
    assert kept == {
        "usable": 100,
        "set_aside": {"no label": None, "no unit id": 11},
        "columns": {
            "age": {"empty": 20, "out of range": None},
            "chol": {"empty": None, "infinite": None},  # 10 cells are left
            "thal": {"empty": None, "unseen": None},
            "ca": {"empty": 100},
            "sex": {},
        },
    }
    assert quality_without_small_counts(kept, 11) == kept
    few = quality_without_small_counts({**found, "usable": 10}, 11)
    assert few is not None
    assert few["columns"]["ca"] == {"empty": None}
    assert quality_without_small_counts(found, 1) == found
    assert quality_without_small_counts(None, 11) is None
