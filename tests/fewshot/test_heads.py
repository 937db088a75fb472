import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.base import ClassifierMixin
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from fewshot.calibration import SMOOTHING, TEMPERATURES, smoothed_nll
from fewshot.closed_form import (
    PENALTIES,
    PRIOR_STRENGTHS,
    PROTOTYPE_FALLBACK,
    RIDGE_FALLBACK,
    fit_prototypes,
    fit_ridge,
)
from fewshot.heads import PrototypeClassifier, RidgeHead
from fewshot.whitening import Whitening
from foedus.errors import FewShotError


def support(n_shot: int, dim: int, *, n_way: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n_way), n_shot)
    return rng.normal(size=(n_way * n_shot, dim)) + 1.5 * rng.normal(size=(n_way, dim))[labels], labels


@pytest.mark.parametrize("head", [RidgeHead(), PrototypeClassifier(), PrototypeClassifier("cosine")])
def test_check_estimator_passes_without_exemption(head: ClassifierMixin) -> None:
    check_estimator(head, on_skip=None)


@pytest.mark.parametrize("dim", [40, 4])
def test_ridge_chooses_what_brute_force_leave_one_out_chooses(dim: int) -> None:
    """40 features go through the kernel, 4 through the Gram matrix."""
    x, y = support(5, dim)
    unit = ((x - x.mean(0)) ** 2).sum() / len(x)
    targets = np.eye(3)[y]
    best = (np.inf, 0.0, 0.0)
    for penalty in PENALTIES:
        left_out = np.stack(
            [
                Ridge(alpha=penalty * unit)
                .fit(np.delete(x, i, 0), np.delete(targets, i, 0))
                .predict(x[i : i + 1])[0]
                for i in range(len(x))
            ]
        )
        for temperature in TEMPERATURES:
            log_p = log_softmax(temperature * left_out, axis=1)
            smooth = targets * (1 - SMOOTHING) + SMOOTHING / 3
            best = min(best, (float(-(smooth * log_p).sum(1).mean()), float(penalty), float(temperature)))
    head = RidgeHead().fit(x, y)
    assert head.penalty_ == pytest.approx(best[1])
    assert head.temperature_ == pytest.approx(best[2])


@pytest.mark.parametrize("dim", [40, 4])
def test_ridge_scores_equal_sklearn_ridge(dim: int) -> None:
    x, y = support(5, dim)
    unit = ((x - x.mean(0)) ** 2).sum() / len(x)
    head = RidgeHead(penalty=0.3, temperature=7.0).fit(x, y)
    oracle = Ridge(alpha=0.3 * unit).fit(x, np.eye(3)[y])
    query = np.random.default_rng(9).normal(size=(6, dim))
    np.testing.assert_allclose(head.decision_function(query), 7 * oracle.predict(query), atol=1e-8)


def test_ridge_with_fewer_than_three_cases_uses_the_documented_fallback() -> None:
    for n_shot in (1, 2):
        head = RidgeHead().fit(*support(n_shot, 20))
        assert (head.penalty_, head.temperature_) == RIDGE_FALLBACK


def test_prototype_with_one_case_uses_the_documented_fallback() -> None:
    x = np.array([[0.0, 0.0], [2.0, 0.0]])
    head = PrototypeClassifier().fit(x, [0, 1])
    assert head.temperature_ == pytest.approx(PROTOTYPE_FALLBACK / 4)


def test_prototype_probabilities_equal_softmax_of_distances() -> None:
    x, y = support(4, 10)
    head = PrototypeClassifier(temperature=0.5).fit(x, y)
    centres = np.stack([x[y == c].mean(0) for c in range(3)])
    np.testing.assert_allclose(head.prototypes_, centres, atol=1e-12)
    query = np.random.default_rng(3).normal(size=(5, 10))
    expected = log_softmax(-0.5 * ((query[:, None] - centres) ** 2).sum(-1), axis=1)
    np.testing.assert_allclose(np.log(head.predict_proba(query)), expected, atol=1e-9)


def test_cosine_scores_are_cosines() -> None:
    head = PrototypeClassifier("cosine", temperature=1.0).fit([[2.0, 0.0], [0.0, 3.0], [0.0, 9.0]], [0, 1, 1])
    scores = head._scores(np.array([[5.0, 0.0], [3.0, 4.0]]))
    np.testing.assert_allclose(scores, [[2, 0], [1.2, 1.6]], atol=1e-12)


def test_leave_one_out_prototype_distance_has_the_size_a_query_sees() -> None:
    """Own leave-one-out distances, corrected by (n+1)/(n-1), average to those of fresh examples."""
    rng = np.random.default_rng(0)
    for n in (2, 5):
        cases = rng.normal(size=(4000, n, 8))
        own = ((cases - cases.mean(1, keepdims=True)) ** 2).sum(-1) * (n + 1) / (n - 1)
        fresh = ((rng.normal(size=(4000, 8)) - cases.mean(1)) ** 2).sum(-1)
        assert own.mean() == pytest.approx(fresh.mean(), rel=0.03)


def test_many_episodes_at_once_equal_one_by_one() -> None:
    labels = np.repeat(np.arange(3), 4)
    batch = np.stack([support(4, 15, seed=s)[0] for s in range(6)])
    for fit in (fit_ridge, fit_prototypes):
        together = fit(batch, labels)
        for i in range(6):
            alone = fit(batch[i : i + 1], labels)
            np.testing.assert_allclose(together.weight[i], alone.weight[0], atol=1e-9)
            np.testing.assert_allclose(together.bias[i], alone.bias[0], atol=1e-9)


def test_constant_support_gives_finite_even_probabilities() -> None:
    for head in (RidgeHead(), PrototypeClassifier()):
        probabilities = head.fit(np.ones((6, 4)), [0, 0, 0, 1, 1, 1]).predict_proba(np.ones((1, 4)))
        np.testing.assert_allclose(probabilities, [[0.5, 0.5]], atol=1e-6)


def test_prototypes_agree_with_learn2learn() -> None:
    learn2learn = pytest.importorskip("learn2learn")
    torch = pytest.importorskip("torch")
    x, y = support(5, 30, n_way=5)
    query = np.random.default_rng(4).normal(size=(40, 30))
    oracle = learn2learn.nn.PrototypicalClassifier(torch.tensor(x), torch.tensor(y))(
        torch.tensor(query)
    ).numpy()
    head = PrototypeClassifier(temperature=1.0).fit(x, y)
    np.testing.assert_allclose(np.log(head.predict_proba(query)), log_softmax(oracle, axis=1), atol=1e-6)


def test_bad_parameters_are_named() -> None:
    x, y = support(3, 4)
    with pytest.raises(ValueError, match="metric is 'l1', expected 'sqeuclidean' or 'cosine'"):
        PrototypeClassifier("l1").fit(x, y)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="penalty is -1, expected a positive number"):
        RidgeHead(penalty=-1).fit(x, y)


@pytest.mark.parametrize("dim", [30, 5])
def test_ridge_towards_weights_chooses_what_brute_force_leave_one_out_chooses(dim: int) -> None:
    x, y = support(4, dim)
    aim = np.stack([x[y == c].mean(0) for c in range(3)])
    targets, centred = np.eye(3)[y], x - x.mean(0)
    unit = (centred**2).sum() / len(x)
    flat = aim - aim.mean(0)
    size = np.sqrt(((targets - 1 / 3) ** 2).mean() / ((centred @ flat.T) ** 2).mean())
    best, chosen = np.inf, (np.empty(0), 0.0)
    for strength in PRIOR_STRENGTHS:
        start = strength * size * flat
        rest = targets - x @ start.T
        for penalty in PENALTIES:
            ridge = Ridge(alpha=penalty * unit)
            left_out = np.stack(
                [
                    (ridge.fit(np.delete(x, i, 0), np.delete(rest, i, 0)).predict(x[i : i + 1]))[0]
                    + start @ x[i]
                    for i in range(len(x))
                ]
            )
            for temperature in TEMPERATURES:
                nll = float(smoothed_nll(temperature * left_out, y))
                if nll < best - 1e-12:
                    best = nll
                    chosen = ((ridge.fit(x, rest).coef_ + start) * temperature, float(penalty))
    head = RidgeHead(towards=aim).fit(x, y)
    assert head.penalty_ == pytest.approx(chosen[1])
    np.testing.assert_allclose(head.coef_, chosen[0], atol=1e-7)


def test_weights_that_say_nothing_leave_the_ridge_as_it_is() -> None:
    x, y = support(5, 20)
    strange = RidgeHead(towards=np.ones((3, 20))).fit(x, y)
    np.testing.assert_allclose(strange.coef_, RidgeHead().fit(x, y).coef_, atol=1e-12)


def test_weights_near_the_truth_help_one_case_a_class() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(5, 40))
    right: list[list[float]] = []
    for _ in range(50):
        x, query = (centres + 2 * rng.normal(size=(5, 40)) for _ in range(2))
        heads = RidgeHead(), RidgeHead(towards=centres + rng.normal(size=(5, 40)))
        right.append([float(head.fit(x, np.arange(5)).score(query, np.arange(5))) for head in heads])
    alone, helped = np.mean(right, axis=0)
    assert helped > alone + 0.15


def test_weights_of_another_shape_are_refused() -> None:
    with pytest.raises(
        FewShotError, match=r"towards has shape \(2, 4\), expected \(3, 4\): a row for each class"
    ):
        RidgeHead(towards=np.ones((2, 4))).fit(*support(3, 4))


def test_estimators_work_in_a_pipeline_and_a_grid_search() -> None:
    x, y = support(12, 20)
    search = GridSearchCV(
        make_pipeline(Whitening(), RidgeHead()),
        {"ridgehead__penalty": [0.1, 1.0], "whitening__shrinkage": [0.5, 1]},
    )
    assert search.fit(x, y).best_score_ > 0.8
