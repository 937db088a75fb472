"""A head of the site's own: midway between what it learns alone and the shared head with the site's bias."""

import numpy as np
from sklearn.linear_model import LogisticRegression

from clients.training import SHIFT_STRENGTH, own_head
from foedus.examples import Examples
from foedus.head import LinearHead


def _site(n: int, *, positives: float, seed: int = 0) -> Examples:
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < positives).astype(np.int64)
    features = rng.normal(size=(n, 3)) + np.outer(labels, [1.0, -0.5, 0.0])
    return Examples(features.astype(np.float32), labels)


def _loss(head: LinearHead, examples: Examples) -> float:
    rows = np.arange(len(examples))
    return -float(head.log_probabilities(examples.features)[rows, examples.labels].mean())


ZERO = LinearHead.zeros(2, 3)
SHARED = LinearHead(
    np.array([[-0.5, 0.25, 0.0], [0.5, -0.25, 0.0]], np.float32), np.array([0.3, -0.3], np.float32)
)


def test_with_nothing_shared_it_is_penalised_logistic_regression_on_local_data() -> None:
    site = _site(300, positives=0.5)
    found = own_head(site, prior=ZERO, rng=np.random.default_rng(0))
    # Two symmetric rows of weights with penalty s are one row w with penalty s / 2.
    oracles = [
        LogisticRegression(C=2 / s, tol=1e-8).fit(site.features, site.labels) for s in (1, 3, 10, 30, 100)
    ]
    gaps = [np.abs(found.weight[1] - found.weight[0] - oracle.coef_[0]).max() for oracle in oracles]
    assert min(gaps) < 0.01


def test_midway_to_the_shared_head_whose_bias_alone_was_fitted() -> None:
    site = _site(80, positives=0.9)
    alone = own_head(site, prior=ZERO, rng=np.random.default_rng(0))
    found = own_head(site, prior=SHARED, rng=np.random.default_rng(0))
    np.testing.assert_allclose(2 * found.weight - alone.weight, SHARED.weight, atol=1e-6)
    shifted = LinearHead(SHARED.weight, 2 * found.bias - alone.bias)
    expected = np.bincount(site.labels) - SHIFT_STRENGTH * (shifted.bias - SHARED.bias)
    np.testing.assert_allclose(shifted.probabilities(site.features).sum(axis=0), expected, atol=1e-2)
    assert _loss(found, site) <= (_loss(alone, site) + _loss(shifted, site)) / 2


def test_a_class_that_is_missing_at_the_site_leaves_the_head_finite() -> None:
    site = _site(40, positives=1.1)
    assert set(site.labels.tolist()) == {1}
    found = own_head(site, prior=SHARED, rng=np.random.default_rng(0))
    assert np.isfinite(found.weight).all()
    assert found.probabilities(site.features)[:, 1].min() > 0.9


def test_the_same_seed_gives_the_same_head() -> None:
    site = _site(60, positives=0.3)
    first, again = (own_head(site, prior=SHARED, rng=np.random.default_rng(7)) for _ in range(2))
    assert (first.weight == again.weight).all()
    assert (first.bias == again.bias).all()
