"""LogME and the H-score from sums, against the papers' formulas on the rows themselves."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from fewshot.ridge import RidgeSums, RidgeTotals
from fewshot.transferability import h_score, log_evidence
from foedus.errors import FewShotError
from foedus.examples import Examples
from foedus.sums import ExactSum

CLASSES, DIM = 3, 6
Rows = tuple[NDArray[np.float32], NDArray[np.int64]]


def _rows(n: int = 120, *, dim: int = DIM, signal: float = 1.0, seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n)
    features = rng.normal(size=(n, dim))
    features[:, :CLASSES] += signal * np.eye(CLASSES)[labels]
    return features.astype(np.float32), labels.astype(np.int64)


def _sums(rows: Rows, *, sites: int = 3) -> RidgeTotals:
    """The totals as a federation learns them: each site's own sums, added on the fixed-point grid."""
    statistic = RidgeSums(n_classes=CLASSES, dim=rows[0].shape[1])
    running = ExactSum(statistic.declare())
    for part in np.array_split(np.arange(len(rows[1])), sites):
        running.add(statistic.measure(Examples(rows[0][part], rows[1][part])))
    return statistic.read(running.total())


def _evidence_of_rows(
    log_alpha: float, log_beta: float, f: NDArray[np.float64], y: NDArray[np.float64]
) -> float:
    """Log density of y under N(0, I/β + FFᵀ/α): the marginal likelihood itself, over rows."""
    covariance = np.eye(len(y)) * np.exp(-log_beta) + f @ f.T * np.exp(-log_alpha)
    _, logdet = np.linalg.slogdet(covariance)
    return -0.5 * float(len(y) * np.log(2 * np.pi) + logdet + y @ np.linalg.solve(covariance, y))


def _logme_of_rows(rows: Rows) -> float:
    f = np.hstack([rows[0].astype(np.float64), np.ones((len(rows[1]), 1))])
    found = []
    for c in range(CLASSES):
        y = (rows[1] == c).astype(np.float64)
        best = minimize(lambda v, y=y: -_evidence_of_rows(v[0], v[1], f, y), [1.0, 1.0], method="Nelder-Mead",
                        options={"xatol": 1e-6, "fatol": 1e-9, "maxiter": 2000})  # fmt: skip
        found.append(-best.fun / len(y))
    return float(np.mean(found))


def _h_score_of_rows(rows: Rows) -> float:
    """Bao et al.'s own few lines."""
    f, labels = rows[0].astype(np.float64), rows[1]
    g = np.zeros_like(f)
    for c in range(CLASSES):
        g[labels == c] = f[labels == c].mean(axis=0)
    return float(np.trace(np.linalg.pinv(np.cov(f, rowvar=False), rcond=1e-9) @ np.cov(g, rowvar=False)))


@pytest.mark.parametrize("signal", [0.3, 1.0, 4.0])
def test_logme_from_sums_is_the_highest_marginal_likelihood_of_the_rows(signal: float) -> None:
    rows = _rows(signal=signal)
    assert log_evidence(_sums(rows)) == pytest.approx(_logme_of_rows(rows), abs=1e-5)


def test_logme_of_fewer_examples_than_features() -> None:
    rows = _rows(20, dim=30, signal=2.0, seed=4)
    assert log_evidence(_sums(rows)) == pytest.approx(_logme_of_rows(rows), abs=1e-3)


@pytest.mark.parametrize("signal", [0.0, 1.0, 4.0])
def test_h_score_from_sums_is_that_of_the_rows(signal: float) -> None:
    rows = _rows(signal=signal)
    assert h_score(_sums(rows)) == pytest.approx(_h_score_of_rows(rows), abs=1e-5)


def test_a_feature_that_is_constant_or_there_twice_changes_no_h_score() -> None:
    features, labels = _rows()
    more = np.hstack([features, features[:, :1], np.full((len(features), 1), 5.0, np.float32)])
    assert h_score(_sums((more, labels))) == pytest.approx(h_score(_sums((features, labels))), abs=1e-5)


def test_both_rise_with_the_signal() -> None:
    totals = [_sums(_rows(signal=signal)) for signal in (0.0, 0.5, 1.0, 2.0, 4.0)]
    for score in (log_evidence, h_score):
        found = [score(total) for total in totals]
        assert found == sorted(found)


def test_how_examples_lie_over_sites_changes_neither() -> None:
    rows = _rows()
    order = np.argsort(rows[1], kind="stable")
    spread, skewed = _sums(rows, sites=2), _sums((rows[0][order], rows[1][order]), sites=5)
    assert log_evidence(spread) == pytest.approx(log_evidence(skewed), abs=1e-6)
    assert h_score(spread) == pytest.approx(h_score(skewed), abs=1e-6)


def test_an_h_score_stays_below_the_number_of_classes() -> None:
    assert 0 <= h_score(_sums(_rows(signal=50.0))) < CLASSES - 1
    assert h_score(_sums(_rows(12, dim=30))) == pytest.approx(CLASSES - 1, abs=1e-3)


def test_a_class_that_nobody_has_counts_for_nothing() -> None:
    features, labels = _rows()
    kept = labels != 1
    totals = _sums((features[kept], labels[kept]))
    assert np.isfinite([log_evidence(totals), h_score(totals)]).all()


def test_no_example_is_refused() -> None:
    empty = _sums((np.zeros((0, DIM), np.float32), np.zeros(0, np.int64)))
    for score in (log_evidence, h_score):
        with pytest.raises(FewShotError, match="hold no example"):
            score(empty)
