import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf_shrinkage

from clients.statistics import build
from fewshot.ridge import RidgeSums
from foedus.backbones import Moments, Standardiser, coral
from foedus.backbones.coral import Covariance, Scatter, shrinkage
from foedus.errors import BackboneError, ConfigError
from foedus.examples import Examples
from foedus.sums import ExactSum

DIM, CLASSES = 6, 3


def _site(seed: int, *, n: int = 400, distortion: NDArray[np.float64] | None = None) -> Examples:
    """Examples of three classes around the same means, seen through a linear distortion."""
    rng = np.random.default_rng(seed)
    centres = 2.0 * np.random.default_rng(99).normal(size=(CLASSES, DIM))
    labels = rng.integers(0, CLASSES, n)
    x = centres[labels] + rng.normal(size=(n, DIM))
    return Examples((x if distortion is None else x @ distortion + 3 * seed).astype(np.float32), labels)


def _distortion(seed: int) -> NDArray[np.float64]:
    """Positive definite, so that whitening can undo it but for a rotation near to none."""
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(DIM, DIM)))
    return np.asarray((turn * np.array([0.2, 0.3, 0.5, 2, 3, 5])) @ turn.T)


def _colour(sites: list[Examples]) -> NDArray[np.float32]:
    scatter = Scatter(DIM)
    running = ExactSum(scatter.declare())
    for site in sites:
        running.add(scatter.measure(site))
    colour = scatter.read(running.total())
    assert colour is not None
    return colour


def _align(site: Examples, colour: NDArray[np.float32]) -> Examples:
    own = Covariance.of(site.features)
    assert own is not None
    return Examples(own.align(site.features, colour), site.labels)


def _standardised(sites: list[Examples]) -> list[Examples]:
    """As the federation does it, by the mean and deviation over all sites."""
    everyone = np.concatenate([site.features for site in sites])
    moments = Moments(DIM)
    found = moments.read(moments.measure(Examples(everyone, np.zeros(len(everyone), np.int64))))
    return [Examples(found.apply(site.features), site.labels) for site in sites]


def _transfer(sites: list[Examples]) -> float:
    """Accuracy on the last site of a ridge head from the others."""
    ridge = RidgeSums(n_classes=CLASSES, dim=DIM)
    *known, new = sites
    totals = {key: sum(ridge.measure(s)[key] for s in known) for key in ridge.declare()}
    head = ridge.read(totals).head(1e-3)  # type: ignore[arg-type]
    return float((head.scores(new.features).argmax(axis=1) == new.labels).mean())


def test_a_site_seen_through_a_distortion_is_read_again_once_aligned() -> None:
    distorted = [_site(0), _site(1), _site(2, distortion=_distortion(2))]
    sites = _standardised(distorted)
    colour = _colour(sites)
    before, after = _transfer(sites), _transfer([_align(site, colour) for site in sites])
    undistorted = _transfer(_standardised([_site(0), _site(1), _site(2)]))
    assert before < 0.7
    assert after > undistorted - 0.03


def test_sites_that_do_not_differ_stay_as_they_are() -> None:
    sites = _standardised([_site(seed) for seed in range(3)])
    colour = _colour(sites)
    for site in sites:
        moved = np.linalg.norm(_align(site, colour).features - site.features, axis=1)
        assert np.median(moved) < 0.2 * np.sqrt(DIM)
    assert abs(_transfer(sites) - _transfer([_align(site, colour) for site in sites])) < 0.02


def test_one_site_alone_is_only_centred() -> None:
    site = _site(5)
    aligned = _align(site, _colour([site]))
    np.testing.assert_allclose(aligned.features, site.features - site.features.mean(axis=0), atol=1e-4)


def test_but_for_shrinkage_aligned_sites_have_one_covariance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coral, "SHRINKAGE", 0.0)
    monkeypatch.setattr(coral, "shrinkage", lambda centred, matrix: 0.0)
    sites = _standardised([_site(s, n=5000, distortion=_distortion(s)) for s in range(3)])
    colour = _colour(sites).astype(np.float64)
    for site in sites:
        aligned = _align(site, colour.astype(np.float32)).features
        assert np.abs(aligned.mean(axis=0)).max() < 1e-4
        np.testing.assert_allclose(np.cov(aligned.T), colour @ colour, atol=1e-3)


def test_the_order_of_sites_and_a_second_time_change_nothing() -> None:
    sites = _standardised([_site(seed) for seed in range(3)])
    np.testing.assert_array_equal(_colour(sites), _colour(sites[::-1]))
    first, second = (_align(sites[0], _colour(sites)).features for _ in range(2))
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize(("n", "dim"), [(20, 30), (50, 5), (500, 5), (2, 3)])
def test_shrinkage_is_scikit_learns_ledoit_wolf(n: int, dim: int) -> None:
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, dim)) @ rng.normal(size=(dim, dim))
    centred = x - x.mean(axis=0)
    found = shrinkage(centred, centred.T @ centred / n)
    assert found == pytest.approx(ledoit_wolf_shrinkage(centred, assume_centered=True), abs=1e-9)


def test_a_feature_that_is_constant_at_a_site_does_not_blow_up() -> None:
    sites = _standardised([_site(0), _site(1)])
    flat = Examples(sites[1].features * np.array([0, 1, 1, 1, 1, 1], np.float32), sites[1].labels)
    own, colour = Covariance.of(flat.features), _colour([sites[0], flat])
    assert own is not None
    odd = own.align(np.full((1, DIM), 3, np.float32), colour)
    assert np.abs(odd).max() < 30


def test_a_site_where_nothing_varies_adds_nothing_and_is_left_alone() -> None:
    site, scatter = _site(0), Scatter(DIM)
    for nothing in (
        site.take(np.zeros(0, np.int64)),
        site.take(np.zeros(1, np.int64)),
        site.take(np.zeros(9, np.int64)),
    ):
        assert Covariance.of(nothing.features) is None
        measured = scatter.measure(nothing)
        assert not any(value.any() for value in measured.values())
        assert scatter.read(measured) is None


def test_the_question_travels_and_another_width_is_refused() -> None:
    scatter = Scatter(DIM)
    again = build("scatter", scatter.settings(), scatter.arrays())
    assert again == scatter
    with pytest.raises(BackboneError, match=r"shape \(2, 3\), expected \(n, 6\)"):
        scatter.measure(Examples(np.zeros((2, 3), np.float32), np.zeros(2, np.int64)))


def test_the_colour_travels_with_the_standardiser() -> None:
    colour = np.eye(2, dtype=np.float32) * 2
    whole = Standardiser(np.zeros(2), np.ones(2), colour=colour)
    back = Standardiser.from_arrays(whole.arrays())
    np.testing.assert_array_equal(back.colour, colour)  # type: ignore[arg-type]
    with pytest.raises(BackboneError, match=r"each site aligns by its own covariance \(backbone.align\)"):
        whole.apply(np.ones((1, 2), np.float32))
    for wrong in (np.eye(3), np.full((2, 2), np.nan)):
        with pytest.raises(ConfigError, match=r"feature-colour must be finite, of shape \(2, 2\)"):
            Standardiser.from_arrays({**whole.arrays(), "feature-colour": wrong})
