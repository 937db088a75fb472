from collections.abc import Callable

import numpy as np
import pytest

from fairness.edges import AuditEdges, positive_logit, scores
from foedus.errors import AuditError, ConfigError
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.statistic import Arrays

HEAD = LinearHead(np.array([[0], [1]], np.float32), np.zeros(2, np.float32))


def rows(x: np.ndarray) -> Examples:
    return Examples(x.astype(np.float32)[:, None], np.zeros(len(x), np.int64), {})


@pytest.mark.parametrize("scale", [0.3, 3.0, 300.0])
def test_bins_hold_equal_shares_however_confident_the_scores(scale: float) -> None:
    x = np.random.default_rng(0).normal(size=5000) * scale
    statistic = AuditEdges(HEAD, 1, n_bins=64)
    edges = statistic.read(statistic.measure(rows(x)))
    assert (np.diff(edges) > 0).all()
    counts = np.bincount(np.searchsorted(edges, x.astype(np.float32), side="right"))
    assert len(counts) == 64
    assert counts.max() < 2.5 * 5000 / 64


def test_tied_scores_give_fewer_bins_and_at_least_one_edge() -> None:
    statistic = AuditEdges(HEAD, 1)
    for value in (0.0, 1e9, -1e9):
        assert 1 <= len(statistic.read(statistic.measure(rows(np.full(20, value))))) <= 2


def test_no_examples_anywhere_is_said() -> None:
    statistic = AuditEdges(HEAD, 1)
    with pytest.raises(AuditError, match="no site has a test example"):
        statistic.read(statistic.measure(rows(np.zeros(0))))


def test_it_travels_and_sums(sites: list[Examples], head: LinearHead, gather: Callable[..., Arrays]) -> None:
    total = gather(AuditEdges(head, 1), sites)
    assert int(total["scores"].sum()) == sum(map(len, sites))
    assert total["scores"].shape == AuditEdges(head, 1).declare()["scores"].shape


def test_a_bad_request_is_refused() -> None:
    with pytest.raises(ConfigError, match="positive is 5"):
        AuditEdges.from_wire({"positive": 5}, HEAD.arrays())


def test_logit_is_the_log_odds_of_the_heads_probability() -> None:
    rng = np.random.default_rng(1)
    head = LinearHead(rng.normal(size=(4, 3)).astype(np.float32), rng.normal(size=4).astype(np.float32))
    x = rng.normal(size=(50, 3)).astype(np.float32)
    p = head.probabilities(x)[:, 2]
    assert positive_logit(scores(head, x), 2) == pytest.approx(np.log(p / (1 - p)), abs=1e-5)
