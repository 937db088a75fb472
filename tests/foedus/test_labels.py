"""Both layouts of labels: targets, losses and their gradients, and what a split is balanced by."""

import numpy as np
import pytest
import torch
from scipy.optimize import check_grad

from foedus.labels import (
    Labels,
    alike,
    counts,
    cross_entropies,
    decided,
    rarest,
    residuals,
    several,
    targets,
    yes_or_no,
)

SETS: Labels = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 0], [1, 0, 0]])
ONE: Labels = np.array([0, 2, 1, 0, 1, 0])


def test_the_array_says_how_many_labels_a_record_may_have() -> None:
    assert [several(ONE), several(SETS)] == [False, True]
    assert targets(ONE, 3).tolist() == np.eye(3)[ONE].tolist()
    assert targets(SETS, 3).tolist() == SETS.tolist()
    assert counts(ONE, 4).tolist() == [3, 2, 1, 0]
    assert counts(SETS, 3).tolist() == [4, 2, 2]


def test_records_are_alike_with_the_same_set_of_labels() -> None:
    same = alike(SETS)
    for one in range(6):
        for other in range(6):
            assert (same[one] == same[other]) == (SETS[one].tolist() == SETS[other].tolist())
    assert alike(ONE) is ONE


def test_a_record_counts_for_the_rarest_of_its_labels() -> None:
    assert rarest(SETS).tolist() == [2, 3, 1, 2, 1, 0]  # 3: none at all
    assert rarest(np.zeros((0, 3), np.int64)).tolist() == []
    assert rarest(ONE) is ONE


@pytest.mark.parametrize("labels", [ONE, SETS])
def test_losses_are_torchs_and_residuals_their_gradient(labels: Labels) -> None:
    scores = np.random.default_rng(0).normal(size=(6, 3)) * 3
    tensor = torch.tensor(scores, requires_grad=True)
    if several(labels):
        wanted = torch.tensor(labels, dtype=torch.float64)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(tensor, wanted, reduction="none").sum(1)
    else:
        loss = torch.nn.functional.cross_entropy(tensor, torch.tensor(labels), reduction="none")
    loss.sum().backward()
    found, each = residuals(scores, labels)
    np.testing.assert_allclose(each, loss.detach().numpy(), atol=1e-12)
    np.testing.assert_allclose(cross_entropies(scores, labels), each, atol=1e-12)
    np.testing.assert_allclose(found, tensor.grad, atol=1e-12)

    def summed(flat: np.ndarray) -> float:
        return float(cross_entropies(flat.reshape(6, 3), labels).sum())

    assert (
        check_grad(summed, lambda flat: residuals(flat.reshape(6, 3), labels)[0].ravel(), scores.ravel())
        < 1e-6
    )


@pytest.mark.parametrize("labels", [ONE, SETS])
def test_importance_multiplies_losses_and_gradients_and_types_stay(labels: Labels) -> None:
    scores = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
    importance = np.arange(6.0)
    plain, lost = residuals(scores, labels)
    found, losses = residuals(scores, labels, importance)
    assert found.dtype == plain.dtype == np.float32
    np.testing.assert_allclose(found, plain * importance[:, None], rtol=1e-6)
    np.testing.assert_allclose(losses, lost * importance, rtol=1e-6)


def test_enormous_scores_keep_losses_finite() -> None:
    scores = np.array([[1e4, -1e4, 1e4]])
    assert cross_entropies(scores, np.array([[1, 0, 1]])).tolist() == [0.0]
    assert cross_entropies(scores, np.array([[0, 0, 1]])).tolist() == [1e4]


def test_a_label_is_two_classes_and_decided_where_it_is_the_likelier() -> None:
    scores = np.array([[0.0, 2.0], [-1.0, 3.0]])
    assert yes_or_no(scores, 1).tolist() == [[0.0, 2.0], [0.0, 3.0]]
    assert decided(scores).tolist() == [[False, True], [False, True]]
    for label in (0, 1):
        assert (yes_or_no(scores, label).argmax(axis=1) == decided(scores)[:, label]).all()
