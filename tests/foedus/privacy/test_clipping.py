"""Clipped gradients of a linear head: the same as one record at a time, and bounded."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from foedus.errors import PrivacyError
from foedus.head import LinearHead
from foedus.privacy import clipping
from foedus.privacy.clipping import ClippedSum, clipped_gradients


@dataclass(frozen=True)
class Case:
    head: LinearHead
    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    units: NDArray[np.int64]

    def gradients(
        self, clip_norm: float, *, units: bool, keep: NDArray[np.bool_] | None = None
    ) -> ClippedSum:
        rows = np.ones(len(self.labels), bool) if keep is None else keep
        return clipped_gradients(
            self.head,
            self.features[rows],
            self.labels[rows],
            clip_norm=clip_norm,
            units=self.units[rows] if units else None,
        )


def _case(seed: int, *, n: int = 60, scale: float = 1.0, n_units: int = 9, several: bool = False) -> Case:
    rng = np.random.default_rng(seed)
    d, c = 7, 4
    head = LinearHead(rng.normal(size=(c, d)).astype(np.float32), rng.normal(size=c).astype(np.float32))
    features = (scale * rng.normal(size=(n, d))).astype(np.float32)
    labels = rng.integers(0, 2, (n, c)) if several else rng.integers(0, c, n)
    return Case(head, features, labels, rng.integers(0, n_units, n))


def _flat(found: ClippedSum) -> NDArray[np.float64]:
    return np.concatenate([found.weight.ravel(), found.bias])


def _autograd(case: Case, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """The unclipped gradient of some records by torch, one record at a time."""
    total = np.zeros(case.head.weight.size + case.head.bias.size)
    for row in rows:
        weight = torch.tensor(case.head.weight, dtype=torch.float64, requires_grad=True)
        bias = torch.tensor(case.head.bias, dtype=torch.float64, requires_grad=True)
        x = torch.tensor(case.features[row : row + 1], dtype=torch.float64)
        scores, label = x @ weight.T + bias, torch.tensor(case.labels[row : row + 1])
        if label.ndim == 1:
            loss = cross_entropy(scores, label)
        else:
            loss = binary_cross_entropy_with_logits(scores, label.double(), reduction="sum")
        parts = torch.autograd.grad(loss, [weight, bias])
        total += np.concatenate([part.numpy().ravel() for part in parts])
    return total


def _brute_force(case: Case, clip_norm: float, groups: list[NDArray[np.int64]]) -> NDArray[np.float64]:
    gradients = [_autograd(case, rows) for rows in groups]
    return np.sum([g * min(1, clip_norm / np.linalg.norm(g)) for g in gradients], axis=0)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("clip_norm", [0.05, 1.0, 1e3])
def test_the_sum_equals_autograd_one_record_at_a_time(clip_norm: float, several: bool) -> None:
    case = _case(0, several=several)
    expected = _brute_force(case, clip_norm, [np.array([i]) for i in range(60)])
    found = case.gradients(clip_norm, units=False)
    assert np.linalg.norm(_flat(found) - expected) <= 1e-5 * np.linalg.norm(expected)
    assert found.units == 60


@pytest.mark.parametrize("n_units", [1, 9, 40])
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("clip_norm", [0.05, 1.0, 1e3])
def test_the_sum_over_units_equals_brute_force(clip_norm: float, n_units: int, several: bool) -> None:
    case = _case(1, n_units=n_units, several=several)
    groups = [np.flatnonzero(case.units == unit) for unit in np.unique(case.units)]
    expected = _brute_force(case, clip_norm, groups)
    found = case.gradients(clip_norm, units=True)
    assert np.linalg.norm(_flat(found) - expected) <= 1e-5 * np.linalg.norm(expected)
    assert found.units == len(groups)


def test_the_sum_equals_opacus() -> None:
    case = _case(2)
    linear = torch.nn.Linear(7, 4)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(case.head.weight))
        linear.bias.copy_(torch.tensor(case.head.bias))
    model = GradSampleModule(linear, loss_reduction="sum")
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    optimizer = DPOptimizer(
        sgd, noise_multiplier=0, max_grad_norm=0.5, expected_batch_size=None, loss_reduction="sum"
    )
    x = torch.tensor(case.features, requires_grad=True)
    cross_entropy(model(x), torch.tensor(case.labels), reduction="sum").backward()
    optimizer.clip_and_accumulate()
    theirs = np.concatenate([p.summed_grad.numpy().ravel() for p in model.parameters()])
    ours = _flat(case.gradients(0.5, units=False))
    assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)


def test_a_unit_of_one_record_is_that_record() -> None:
    case = replace(_case(3), units=np.arange(60)[::-1].copy())
    found, expected = case.gradients(0.5, units=True), case.gradients(0.5, units=False)
    np.testing.assert_allclose(_flat(found), _flat(expected), rtol=1e-12)


def test_both_ways_to_a_units_norm_agree() -> None:
    rng = np.random.default_rng(4)
    residuals, x = rng.normal(size=(5, 6, 8)), rng.normal(size=(5, 6, 30))
    through_gram = clipping._block_norms(residuals, x)
    through_gradients = clipping._block_norms(
        np.concatenate([residuals, 0 * residuals], 1), np.concatenate([x, x], 1)
    )
    np.testing.assert_allclose(through_gram, through_gradients, rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.floats(1e-3, 10),
    st.sampled_from([1e-3, 1.0, 1e4]),
    st.booleans(),
    st.booleans(),
)
def test_removing_a_unit_moves_the_sum_by_no_more_than_the_clip_norm(
    seed: int, clip_norm: float, scale: float, units: bool, several: bool
) -> None:
    case = _case(seed, n=25, scale=scale, several=several)
    gone = case.units == case.units[0] if units else np.arange(25) == 0
    whole = case.gradients(clip_norm, units=units)
    rest = case.gradients(clip_norm, units=units, keep=~gone)
    assert np.linalg.norm(_flat(whole) - _flat(rest)) <= clip_norm


def test_records_of_a_unit_that_nearly_cancel_do_not_escape_the_clip() -> None:
    """Two huge records with opposite gradients: what is left is small, and rounding is not."""
    x = np.array([[1e8, 1.0], [1e8, 1.0 + 3e-7]])
    head = LinearHead.zeros(2, 2)
    found = clipped_gradients(head, x, np.array([0, 1]), clip_norm=1e-7, units=np.array(["p", "p"]))
    assert np.linalg.norm(_flat(found)) <= 1e-7


def test_an_empty_batch_sums_to_zero() -> None:
    case = _case(5)
    for units in (False, True):
        found = case.gradients(1.0, units=units, keep=np.zeros(60, bool))
        assert not _flat(found).any()
        assert found.units == 0


def test_what_would_leave_the_sum_unbounded_is_refused() -> None:
    case = _case(6)
    with pytest.raises(PrivacyError, match="clip_norm is nan"):
        case.gradients(float("nan"), units=False)
    features = case.features.copy()
    features[3, 2] = np.nan
    with pytest.raises(PrivacyError, match="not finite"):
        clipped_gradients(case.head, features, case.labels, clip_norm=1)
    head = LinearHead(case.head.weight, np.full(4, np.inf, np.float32))
    with np.errstate(invalid="ignore"), pytest.raises(PrivacyError, match="not finite"):
        clipped_gradients(head, case.features, case.labels, clip_norm=1, units=case.units)
    for label in (-1, 4):
        with pytest.raises(PrivacyError, match=r"a label is outside 0\.\.3"):
            clipped_gradients(case.head, case.features, np.full(60, label), clip_norm=1)


@pytest.mark.parametrize("labels", [np.full((60, 4), 2), np.zeros((60, 3), np.int64)])
def test_labels_that_are_no_yes_or_no_of_this_head_are_refused(labels: NDArray[np.int64]) -> None:
    with pytest.raises(PrivacyError, match="labels are not 4 columns of 0 and 1"):
        replace(_case(6), labels=labels).gradients(1.0, units=False)
