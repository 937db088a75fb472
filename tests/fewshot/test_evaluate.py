import time

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestCentroid

from fewshot.calibration import calibration_bins
from fewshot.episode_sums import ACCURACY, EPISODES
from fewshot.episodes import EpisodeSampler
from fewshot.evaluate import EpisodeSums, evaluate
from fewshot.heads import ClosedFormHead, PrototypeClassifier, RidgeHead
from fewshot.ridge import RidgeSums
from fewshot.whitening import MEAN, Whitening
from foedus.errors import ConfigError, FewShotError
from foedus.examples import Examples
from foedus.statistic import add


def make(seed: int = 0, dim: int = 12, n_classes: int = 6, each: int = 25) -> Examples:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n_classes), each)
    features = rng.normal(size=(len(labels), dim)) + rng.normal(size=(n_classes, dim))[labels]
    return Examples(features.astype(np.float32), labels)


class Looped:
    """A head whose type hides that it is ours, so that `evaluate` fits it episode by episode."""

    def __init__(self, head: ClosedFormHead) -> None:
        self.head = head

    def __sklearn_clone__(self) -> "Looped":
        return self

    def fit(self, x: np.ndarray, y: np.ndarray) -> "Looped":
        self.head.fit(x, y)
        return self

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        return self.head.predict_proba(x)


@pytest.mark.parametrize("head", [RidgeHead(), PrototypeClassifier(), PrototypeClassifier("cosine")])
def test_batched_report_equals_the_loop(head: ClosedFormHead) -> None:
    examples = make()
    sampler = EpisodeSampler(examples.labels, 4, 3, 5, 1)
    batched = evaluate(head, examples.features, examples.labels, sampler, n_episodes=20)
    looped = evaluate(Looped(head), examples.features, examples.labels, sampler, n_episodes=20)
    assert (batched.accuracies == looped.accuracies).all()
    assert batched.nll == pytest.approx(looped.nll)
    assert batched.ece == pytest.approx(looped.ece)


def test_accuracy_equals_sklearn_nearest_centroid() -> None:
    examples = make()
    sampler = EpisodeSampler(examples.labels, 4, 3, 5, 1)
    report = evaluate(PrototypeClassifier(), examples.features, examples.labels, sampler, n_episodes=30)
    episodes, truth = sampler.draw(30), np.repeat(np.arange(4), 5)
    for i in range(30):
        oracle = NearestCentroid().fit(examples.features[episodes.support[i]], np.repeat(np.arange(4), 3))
        accuracy = (oracle.predict(examples.features[episodes.query[i]]) == truth).mean()
        assert report.accuracies[i] == pytest.approx(accuracy)
    assert report.ci95 == pytest.approx(1.96 * report.accuracies.std(ddof=1) / np.sqrt(30))


def test_calibration_error_equals_hand_computed_number() -> None:
    bins = calibration_bins(np.array([0.9, 0.9, 0.3, 1.0]), np.array([True, False, True, True]))
    assert bins.count.sum() == 4
    # |1 - 1.8| + |1 - .3| + |1 - 1.0| over 4
    assert bins.error() == pytest.approx((0.8 + 0.7 + 0.0) / 4)


@pytest.mark.parametrize("method", ["prototypical", "ridge"])
def test_read_of_one_site_equals_evaluate(method: str) -> None:
    examples = make()
    head = RidgeHead() if method == "ridge" else PrototypeClassifier()
    whitening = Whitening().fit(*(lambda base: (base.features, base.labels))(make(1)))
    statistic = EpisodeSums(method, 4, 3, 5, 40, 2, (0, 1, 2, 3, 4), whitening)  # type: ignore[arg-type]
    result = statistic.read(statistic.measure(examples))
    sampler = EpisodeSampler(examples.labels, 4, 3, 5, 2, classes=[0, 1, 2, 3, 4])
    white = whitening.transform(examples.features)
    report = evaluate(head, white, examples.labels, sampler, n_episodes=40)
    assert result.accuracy == pytest.approx(report.mean)
    assert result.ci95 == pytest.approx(report.ci95)
    assert result.nll == pytest.approx(report.nll)
    assert result.ece == pytest.approx(report.ece)


def test_sums_of_sites_commute_and_fit_their_declaration() -> None:
    statistic = EpisodeSums("prototypical", 3, 2, 4, 25)
    parts = [statistic.measure(make(seed)) for seed in range(3)]
    declared = statistic.declare()
    for part in parts:
        assert part.keys() == declared.keys()
        for key, quantity in declared.items():
            assert part[key].shape == quantity.shape
            assert (part[key] >= quantity.low).all()
            assert (part[key] <= quantity.high).all()
            assert part[key].dtype == (np.int64 if quantity.kind == "count" else np.float64)
    one = statistic.read(add(add(parts[0], parts[1]), parts[2]))
    other = statistic.read(add(parts[2], add(parts[1], parts[0])))
    assert one.episodes == 75
    assert one.accuracy == pytest.approx(other.accuracy)
    assert one.accuracy == pytest.approx(float(sum(part[ACCURACY].item() for part in parts)) / 75)


def test_same_seed_gives_the_same_bytes() -> None:
    first, second = (EpisodeSums("ridge", 3, 3, 4, 25, seed=4).measure(make()) for _ in range(2))
    assert all(first[key].tobytes() == second[key].tobytes() for key in first)


def test_from_wire_returns_the_same_statistic() -> None:
    base = make(1)
    whitening = Whitening().fit(base.features, base.labels)
    statistic = EpisodeSums("ridge", 3, 2, 4, 25, 7, (1, 2, 3), whitening)
    again = EpisodeSums.from_wire(statistic.settings(), statistic.arrays())
    assert again.settings() == statistic.settings()
    assert all((again.arrays()[key] == value).all() for key, value in statistic.arrays().items())
    assert EpisodeSums.from_wire(EpisodeSums("ridge").settings(), {}).whitening is None


def test_from_wire_refuses_what_is_unexpected() -> None:
    settings = dict(EpisodeSums("ridge").settings())
    with pytest.raises(ConfigError, match="method: input should be 'prototypical', 'ridge' or 'maml'"):
        EpisodeSums.from_wire(settings | {"method": "pickle"}, {})
    with pytest.raises(ConfigError, match="weight is not a known array"):
        EpisodeSums.from_wire(settings, {"weight": np.zeros(2)})
    with pytest.raises(ConfigError, match="the whitening lacks whitening-transform"):
        EpisodeSums.from_wire(settings, {MEAN: np.zeros(2)})


def test_errors_say_what_was_found() -> None:
    examples = make()
    with pytest.raises(FewShotError, match="n_way is 9 but the data have 6 classes"):
        EpisodeSums("ridge", 9, 2, 3).measure(examples)
    whitening = Whitening().fit(examples.features[:, :5], examples.labels)
    with pytest.raises(FewShotError, match="features have length 12 but the whitening has 5"):
        EpisodeSums("ridge", 3, 2, 3, whitening=whitening).measure(examples)
    sampler = EpisodeSampler(examples.labels, 3, 2, 3)
    with pytest.raises(FewShotError, match="n_episodes is 1, expected at least 2"):
        evaluate(RidgeHead(), examples.features, examples.labels, sampler, n_episodes=1)
    with pytest.raises(FewShotError, match="5 embeddings, 150 labels"):
        evaluate(RidgeHead(), examples.features[:5], examples.labels, sampler)
    statistic = EpisodeSums("ridge", 3, 2, 3, 2)
    nothing = statistic.measure(examples) | {EPISODES: np.array([0])}
    with pytest.raises(FewShotError, match="the sums hold 0 episodes"):
        statistic.read(nothing)


def test_600_episodes_are_fast_enough_to_repeat() -> None:
    """Goals on a quiet core: prototypes 1 s, ridge 3 s; measured .12 s and .35 s. Slack for CI."""
    examples = make(dim=448)
    start = time.process_time()
    EpisodeSums("prototypical").measure(examples)
    EpisodeSums("ridge").measure(examples)
    assert time.process_time() - start < 12


@pytest.mark.parametrize(("base", "floor"), [((0, 1, 2, 3, 4), 0.86), ((5, 6, 7, 8, 9), 0.89)])
def test_whitening_from_base_digits_helps_prototypes_of_novel_digits(
    base: tuple[int, ...], floor: float
) -> None:
    """Raw 8 x 8 pixels, 300 episodes; measured .859 to .873 and .887 to .906."""
    digits = load_digits()
    x, y = digits.data, digits.target.astype(np.int64)
    known = np.isin(y, base)
    x = ((x - x[known].mean(0)) / (x[known].std(0) + 1)).astype(np.float32)
    sums = RidgeSums(10, 64, base)
    whitening = Whitening.from_totals(sums.read(sums.measure(Examples(x, y))))
    novel = tuple(sorted(set(range(10)) - set(base)))
    plain, white = (
        statistic.read(statistic.measure(Examples(x, y)))
        for statistic in (
            EpisodeSums("prototypical", episodes=300, classes=novel),
            EpisodeSums("prototypical", episodes=300, classes=novel, whitening=whitening),
        )
    )
    assert white.accuracy > plain.accuracy
    assert white.accuracy > floor
    assert white.ece < 0.05
