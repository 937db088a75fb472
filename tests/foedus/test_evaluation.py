from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from clients.statistics import build
from foedus.errors import ConfigError
from foedus.evaluation import CLASS_BINS, SCORES, Evaluation
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.metrics import from_rows, histogram_auc
from foedus.secure.lanes import Layout
from foedus.statistic import add
from foedus.sums import ExactSum, check


def _head(n_classes: int, seed: int = 1) -> LinearHead:
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(n_classes, 5)).astype(np.float32)
    return LinearHead(weight, rng.normal(size=n_classes).astype(np.float32))


def _sites(n_classes: int, n_sites: int = 3) -> list[Examples]:
    """Sites of different sizes whose labels the head half knows."""
    rng, head = np.random.default_rng(0), _head(n_classes)
    sites = []
    for site in range(n_sites):
        features = rng.normal(size=(60 + 40 * site, 5)).astype(np.float32)
        noisy = head.scores(features) + 2 * rng.gumbel(size=(len(features), n_classes))
        sites.append(Examples(features, noisy.argmax(axis=1)))
    return sites


def _pooled(sites: Sequence[Examples]) -> Examples:
    return Examples(np.concatenate([s.features for s in sites]), np.concatenate([s.labels for s in sites]))


def _compare(left: Any, right: Any, *, abs_: float, but: frozenset[str] = frozenset()) -> None:
    if isinstance(left, Mapping):
        assert left.keys() == right.keys()
        for key in left.keys() - but:
            _compare(left[key], right[key], abs_=abs_, but=but)
    elif isinstance(left, list):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            _compare(one, other, abs_=abs_, but=but)
    else:
        assert left == (right if right is None else pytest.approx(right, abs=abs_))


@pytest.mark.parametrize("n_classes", [2, 3, 6])
def test_sums_over_sites_give_the_figures_of_the_pooled_rows(n_classes: int) -> None:
    head, sites = _head(n_classes), _sites(n_classes)
    pooled = _pooled(sites)
    oracle = from_rows(pooled.labels, head.log_probabilities(pooled.features))
    evaluation = Evaluation([_head(n_classes, 9), head], detail=True)
    parts = [evaluation.measure(site) for site in sites]
    [_, [found]] = evaluation.read(add(add(parts[0], parts[1]), parts[2]))
    _compare(found.metrics, oracle, abs_=1e-12, but=frozenset({"auc"}))
    running = ExactSum(evaluation.declare())
    for part in parts[::-1]:
        running.add(part)
    [_, [on_grid]] = evaluation.read(running.total())
    _compare(on_grid.metrics, oracle, abs_=1e-7, but=frozenset({"auc"}))


@pytest.mark.parametrize("n_classes", [2, 3, 6])
def test_auc_from_histograms_is_within_half_the_pairs_that_share_a_bin(n_classes: int) -> None:
    head, pooled = _head(n_classes), _pooled(_sites(n_classes))
    evaluation = Evaluation([head], detail=True)
    total = evaluation.measure(pooled)
    [[found]] = evaluation.read(total)
    oracle = from_rows(pooled.labels, head.log_probabilities(pooled.features))
    aucs, exact = found.metrics["per_class"]["auc"], oracle["per_class"]["auc"]
    for c, (near, value) in enumerate(zip(aucs, exact, strict=True)):
        others, own = total[SCORES][0][0 if n_classes == 2 else c].astype(np.float64)
        bound = float((others * own).sum() / (others.sum() * own.sum())) / 2
        assert abs(near - value) <= bound + 1e-12  # type: ignore[operator]
        assert bound < (1e-3 if n_classes == 2 else 2e-2)
    assert found.metrics["auc"] == pytest.approx(oracle["auc"], abs=1e-3)


def test_one_bin_for_all_is_chance_and_no_pair_is_undefined() -> None:
    assert histogram_auc(np.array([[0.0, 5.0], [0.0, 7.0]])) == 0.5
    assert histogram_auc(np.array([[0.0, 5.0], [0.0, 0.0]])) is None


@pytest.mark.parametrize("n_classes", [2, 4])
def test_only_detail_is_large(n_classes: int) -> None:
    examples = _sites(n_classes)[0]
    light, detail = Evaluation([_head(n_classes)], [0.5, 1.0]), Evaluation([_head(n_classes)], detail=True)
    for evaluation in (light, detail):
        measured = evaluation.measure(examples)
        check(measured, evaluation.declare())
        Layout(evaluation.declare(), n_sites=50)
    assert set(light.measure(examples)) == {"confusion", "nll"}
    [[_, found]] = light.read(light.measure(examples))
    assert found.metrics["auc"] is found.metrics["brier"] is found.metrics["reliability"] is None
    assert found.metrics["log_loss"] is not None
    assert detail.declare()[SCORES].shape == ((1, 1, 2, 4096) if n_classes == 2 else (1, 4, 2, CLASS_BINS))


def test_private_studies_release_the_confusion_alone() -> None:
    evaluation = Evaluation([_head(3)], counts_only=True)
    examples = _sites(3)[0]
    measured = evaluation.measure(examples)
    assert set(measured) == set(evaluation.declare()) == {"confusion"}
    [[found]] = evaluation.read(measured)
    assert found.metrics["macro_precision"] is not None
    assert found.metrics["log_loss"] is found.metrics["observed_expected"] is found.metrics["auc"] is None


def test_a_site_without_test_examples_adds_nothing() -> None:
    evaluation, [site, *_] = Evaluation([_head(3)], detail=True), _sites(3)
    nobody = site.take(np.zeros(0, np.int64))
    alone, both = evaluation.measure(site), add(evaluation.measure(site), evaluation.measure(nobody))
    _compare(evaluation.read(both)[0][0].metrics, evaluation.read(alone)[0][0].metrics, abs_=0)
    [[none]] = evaluation.read(evaluation.measure(nobody))
    assert none.metrics["n"] == 0
    assert none.metrics["auc"] is none.metrics["calibration_error"] is None


def test_the_question_travels_and_detail_takes_one_temperature() -> None:
    evaluation = Evaluation([_head(3)], [2.0], detail=True)
    again = Evaluation.from_wire(evaluation.settings(), evaluation.arrays())
    assert again.settings() == evaluation.settings()
    examples = _sites(3)[0]
    for name, value in evaluation.measure(examples).items():
        np.testing.assert_array_equal(value, again.measure(examples)[name])
    settings = {**evaluation.settings(), "temperatures": [1.0, 2.0]}
    with pytest.raises(ConfigError, match="detail is given at one temperature"):
        build("evaluation", settings, evaluation.arrays())
