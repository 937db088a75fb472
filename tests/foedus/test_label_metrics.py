"""Figures of several labels a record: scikit-learn's on the same rows, from rows and from sums over sites."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sklearn
from sklearn.linear_model import Ridge

from clients.choosing import choose_head
from clients.statistics import as_read, build
from clients.training import own_head
from fairness.figures import without_small_counts
from fewshot.ridge import RidgeSums
from foedus.errors import ConfigError
from foedus.evaluation import CLASS_BINS, EXACT, SCORES, Evaluation
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.label_metrics import LABEL_SCALARS, from_scores
from foedus.metrics import SCALARS, calibration_sums
from foedus.statistic import add
from foedus.study import parse_study
from foedus.sums import ExactSum

N_LABELS = 4


@pytest.fixture(scope="module")
def head() -> LinearHead:
    rng = np.random.default_rng(1)
    bias = np.array([0.5, -1, 0, -3], np.float32)  # the last label is rare
    return LinearHead(rng.normal(size=(N_LABELS, 5)).astype(np.float32), bias)


@pytest.fixture(scope="module")
def sites(head: LinearHead) -> list[Examples]:
    """Three sites whose labels the head half knows."""
    rng = np.random.default_rng(0)
    found = []
    for n in (60, 100, 140):
        features = rng.normal(size=(n, 5)).astype(np.float32)
        noisy = head.scores(features) + 1.5 * rng.logistic(size=(n, N_LABELS))
        found.append(Examples(features, (noisy > 0).astype(np.int64)))
    return found


@pytest.fixture(scope="module")
def pooled(sites: list[Examples]) -> Examples:
    return Examples(np.concatenate([s.features for s in sites]), np.concatenate([s.labels for s in sites]))


def test_every_figure_is_scikit_learns(head: LinearHead, pooled: Examples) -> None:
    scores = head.scores(pooled.features).astype(np.float64)
    truth, chance = pooled.labels, 1 / (1 + np.exp(-scores))
    guess = (chance > 0.5).astype(int)
    found: Mapping[str, Any] = from_scores(truth, scores)
    report = sklearn.classification_report(truth, guess, output_dict=True, zero_division=0)
    assert found["n"] == 300
    assert found["accuracy"] == pytest.approx(sklearn.accuracy_score(truth, guess))
    assert found["hamming_loss"] == pytest.approx(sklearn.hamming_loss(truth, guess))
    for ours, theirs in {"precision": "precision", "recall": "recall", "f1": "f1-score"}.items():
        assert found[f"macro_{ours}"] == pytest.approx(report["macro avg"][theirs])
        assert found[f"micro_{ours}"] == pytest.approx(report["micro avg"][theirs])
        assert found["per_class"][ours] == pytest.approx([report[str(c)][theirs] for c in range(N_LABELS)])
    assert found["confusion"] == sklearn.multilabel_confusion_matrix(truth, guess).tolist()
    each = [sklearn.log_loss(truth[:, c], chance[:, c]) for c in range(N_LABELS)]
    assert found["per_class"]["log_loss"] == pytest.approx(each)
    assert found["log_loss"] == pytest.approx(sum(each))
    brier = [sklearn.brier_score_loss(truth[:, c], chance[:, c]) for c in range(N_LABELS)]
    assert found["brier"] == pytest.approx(sum(brier))
    aucs = [sklearn.roc_auc_score(truth[:, c], scores[:, c]) for c in range(N_LABELS)]
    assert found["per_class"]["auc"] == pytest.approx(aucs)
    assert found["auc"] == pytest.approx(sklearn.roc_auc_score(truth, scores))
    balanced = [sklearn.balanced_accuracy_score(truth[:, c], guess[:, c]) for c in range(N_LABELS)]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(balanced))
    assert found["per_class"]["observed_expected"] == pytest.approx((truth.sum(0) / chance.sum(0)).tolist())
    assert found["observed_expected"] == pytest.approx(truth.sum() / chance.sum())
    assert sum(b["n"] for b in found["reliability"]) == truth.size
    flat = calibration_sums(
        truth.ravel(),
        np.log(np.stack([1 - chance.ravel(), chance.ravel()], 1)),
        np.ones(truth.size, np.int64),
    )
    assert [b["n"] for b in found["reliability"]] == flat["bin-counts"][0].tolist()
    gaps = np.abs(flat["bin-counts"][1] - flat["bin-probability"]).sum() / truth.size
    assert found["calibration_error"] == pytest.approx(gaps)


def test_sums_over_sites_give_the_figures_of_the_pooled_rows(
    head: LinearHead, sites: list[Examples], pooled: Examples
) -> None:
    oracle: Mapping[str, Any] = from_scores(pooled.labels, head.scores(pooled.features))
    other = LinearHead(-head.weight, head.bias)
    asked = Evaluation([other, head], detail=True, multilabel=True)
    sent = build(asked.name, asked.settings(), asked.arrays())
    parts, running = [sent.measure(site) for site in sites], ExactSum(sent.declare())
    for part in parts[::-1]:
        running.add(part)
    for total, near in ((add(add(parts[0], parts[1]), parts[2]), 1e-12), (running.total(), 1e-7)):
        found: Mapping[str, Any] = sent.read(total)[1][0].metrics
        assert found.keys() == oracle.keys()
        for key in {*SCALARS, *LABEL_SCALARS} - {"auc"}:
            assert found[key] == pytest.approx(oracle[key], abs=near), key
        for key in ("precision", "recall", "f1", "observed_expected", "log_loss"):
            assert found["per_class"][key] == pytest.approx(oracle["per_class"][key], abs=near), key
        assert found["confusion"] == oracle["confusion"]
        for ours, theirs in zip(
            [found["reliability"], *found["per_class"]["reliability"]],
            [oracle["reliability"], *oracle["per_class"]["reliability"]],
            strict=True,
        ):
            assert [b["n"] for b in ours] == [b["n"] for b in theirs]


def test_auc_from_histograms_is_within_half_the_pairs_that_share_a_bin(
    head: LinearHead, pooled: Examples
) -> None:
    asked = Evaluation([head], detail=True, multilabel=True)
    total = asked.measure(pooled)
    assert total[SCORES].shape == (1, N_LABELS, 1, 2, CLASS_BINS)
    [[found]] = asked.read(total)
    scores = head.scores(pooled.features)
    for label, near in enumerate(found.metrics["per_class"]["auc"]):
        others, own = total[SCORES][0, label, 0].astype(np.float64)
        bound = float((others * own).sum() / (others.sum() * own.sum())) / 2
        exact = sklearn.roc_auc_score(pooled.labels[:, label], scores[:, label])
        assert near is not None
        assert abs(near - exact) <= bound + 1e-12
        assert bound < 2e-2


def test_each_temperature_has_its_own_loss_and_a_light_question_no_more(
    head: LinearHead, pooled: Examples
) -> None:
    asked = Evaluation([head], [0.5, 1.0], multilabel=True)
    total = asked.measure(pooled)
    assert set(total) == {"confusion", "nll", EXACT}
    [row] = asked.read(total)
    for candidate, factor in zip(row, (0.5, 1.0), strict=True):
        scores = factor * head.scores(pooled.features).astype(np.float64)
        loss = from_scores(pooled.labels, scores)["log_loss"]
        assert candidate.metrics["log_loss"] == pytest.approx(loss, rel=1e-6)
        assert candidate.metrics["auc"] is None


def test_a_label_that_nobody_has_is_left_out_of_means_and_undefined_by_itself() -> None:
    labels = np.array([[1, 0], [0, 0], [1, 0]])
    found: Mapping[str, Any] = from_scores(labels, np.array([[1.0, -1], [-1, -1], [-1, -1]]))
    assert found["per_class"]["recall"] == [0.5, None]
    assert found["per_class"]["auc"] == [0.75, None]
    assert found["macro_recall"] == 0.5
    assert found["micro_recall"] == 0.5
    empty: Mapping[str, Any] = from_scores(np.zeros((0, 2), np.int64), np.zeros((0, 2)))
    assert empty["n"] == 0
    assert all(empty[key] is None for key in (*SCALARS, *LABEL_SCALARS))


def test_the_one_round_head_is_scikit_learns_ridge_on_the_labels(
    head: LinearHead, sites: list[Examples], pooled: Examples
) -> None:
    asked = RidgeSums(N_LABELS, 5, multilabel=True)
    sent = build(asked.name, asked.settings(), asked.arrays())
    parts = [sent.measure(site) for site in sites]
    total = add(add(parts[0], parts[1]), parts[2])
    assert set(total) == set(sent.declare())
    totals = sent.read(total)
    assert totals.n == 300
    ours = totals.head(0.01).scores(pooled.features)
    oracle = Ridge(alpha=0.01 * 300).fit(pooled.features.astype(np.float64), pooled.labels)
    np.testing.assert_allclose(ours, oracle.predict(pooled.features.astype(np.float64)) - 0.5, atol=1e-5)


def test_a_sites_own_head_beats_what_knows_nothing_and_heeds_the_shared_one(
    head: LinearHead, sites: list[Examples]
) -> None:
    def loss(of: LinearHead) -> float:
        return float(from_scores(sites[2].labels, of.scores(sites[2].features))["log_loss"] or 0)

    nothing = LinearHead.zeros(N_LABELS, 5)
    alone = own_head(sites[0], prior=nothing, rng=np.random.default_rng(0))
    personal = own_head(sites[0], prior=head, rng=np.random.default_rng(0))
    assert loss(personal) < loss(alone) < loss(nothing) == pytest.approx(N_LABELS * np.log(2))


def test_the_head_a_site_chooses_has_no_few_shot_candidate(head: LinearHead, sites: list[Examples]) -> None:
    chosen, kept, losses = choose_head(head, sites[0], sites[1], seed=0)
    assert set(losses) == {"personal", "federated", "local"}
    assert kept in losses
    assert chosen.weight.shape == head.weight.shape


def test_one_label_of_a_head_is_two_classes(head: LinearHead, pooled: Examples) -> None:
    whole: Mapping[str, Any] = from_scores(pooled.labels, head.scores(pooled.features))
    for label in range(N_LABELS):
        one = pooled.of_label(label)
        found: Mapping[str, Any] = from_scores(one.labels, head.of_label(label).scores(one.features))
        assert found["confusion"] == whole["confusion"][label]
        assert found["log_loss"] == pytest.approx(whole["per_class"]["log_loss"][label], rel=1e-6)


def test_small_counts_take_with_them_what_they_follow_from() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((400, 2)) < 0.4).astype(np.int64)
    found = from_scores(labels, rng.normal(size=(400, 2)) + labels)
    kept = without_small_counts({"models": {"federated": found}}, 11)["models"]["federated"]
    assert kept["confusion"] == found["confusion"]
    assert kept["per_class"] == {**found["per_class"], "reliability": [None, None]}
    labels[:, 1] = 0
    labels[:4, 1] = 1
    rare = from_scores(labels, rng.normal(size=(400, 2)))
    kept = without_small_counts({"models": {"federated": rare}}, 11)["models"]["federated"]
    hidden = ("confusion", "per_class", "macro_f1", "balanced_accuracy", *LABEL_SCALARS)
    assert [kept[key] for key in hidden] == [None] * len(hidden)
    assert kept["log_loss"] == rare["log_loss"]


def test_a_site_refuses_what_takes_one_class() -> None:
    study = parse_study(
        '[study]\nname = "t"\ntask = "multilabel"\nclasses = ["a", "b"]\n[door]\nmode = "open"\n'
        '[backbone]\nsource = "bundled:minilm-l6"\n'
    )
    examples = Examples(np.zeros((2, 3), np.float32), np.array([[1, 0], [1, 1]]))
    assert as_read("ridge", examples, study) is examples
    assert as_read("audit", examples, study).labels.tolist() == [
        0,
        1,
    ]  # of the last label, no other being named
    with pytest.raises(ConfigError, match=r"'prototypes' does not take multilabel"):
        as_read("prototypes", examples, study)
