"""The private round's contribution: bounded by the clip, and a plain gradient where nothing is clipped."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from foedus import gradient
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.model import Model


def _drawn(n: int, dim: int, seed: int) -> tuple[LinearHead, Examples]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, dim))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    head = LinearHead(rng.normal(size=(3, dim)).astype(np.float32), rng.normal(size=3).astype(np.float32))
    units = rng.integers(0, max(1, n // 2), n).astype(np.str_)
    return head, Examples(x, rng.integers(0, 3, n), {}, units)


def test_without_clipping_a_step_is_gradient_descent_with_a_slower_bias() -> None:
    head, examples = _drawn(40, 16, 0)
    total = gradient.contribution(head, examples, clip_norm=1e6)
    found = gradient.read(Model(head), total, lr=0.5, n=40).model.head
    residuals = softmax(head.scores(examples.features).astype(np.float64), axis=1)
    residuals[np.arange(40), examples.labels] -= 1
    w = gradient.unit_weight(16)
    np.testing.assert_allclose(
        found.weight, head.weight - 0.5 * residuals.T @ examples.features / 40, atol=1e-5
    )
    np.testing.assert_allclose(found.bias, head.bias - 0.5 * w * w * residuals.mean(axis=0), atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 30), st.integers(1, 20), st.integers(0, 1000), st.floats(0.01, 10))
def test_one_unit_changes_the_sum_by_at_most_the_clip(n: int, dim: int, seed: int, clip_norm: float) -> None:
    head, examples = _drawn(n, dim, seed)
    units = examples.units
    assert units is not None
    fewer = examples.take(np.flatnonzero(units != units[0]))
    whole, rest = (gradient.contribution(head, e, clip_norm=clip_norm) for e in (examples, fewer))
    change = np.linalg.norm(whole[gradient.GRADIENT] - rest[gradient.GRADIENT])
    assert change <= clip_norm * (1 + 1e-6)
