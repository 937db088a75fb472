from collections.abc import Callable

import numpy as np
import pytest

from foedus.attacks.heads import Training
from foedus.attacks.inversion import best_cosines, invert_updates, reconstruct
from foedus.attacks.release import Release
from foedus.errors import AuditError
from foedus.examples import Examples


def test_one_records_gradient_is_the_record() -> None:
    record, residual = np.array([3.0, -1.0, 0.5]), np.array([0.25, -0.75, 0.5])
    found = reconstruct(np.outer(residual, record), residual)
    np.testing.assert_allclose(found, [record] * 3)


def test_a_class_whose_bias_did_not_change_gives_nothing() -> None:
    weight = np.array([[0.0, 0.0], [2.0, 4.0]])
    np.testing.assert_allclose(reconstruct(weight, np.array([0.0, 2.0])), [[1.0, 2.0]])
    assert best_cosines(reconstruct(weight, np.zeros(2)), np.ones((3, 2))).tolist() == [0.0] * 3


@pytest.mark.parametrize("steps", [1, 50])
def test_an_update_of_one_record_is_the_record_and_a_protected_one_is_not(
    digits: Examples, gaussian: Callable[..., Release], steps: int
) -> None:
    found = invert_updates(
        digits,
        1,
        n_classes=10,
        training=Training(steps, 1.0, 1.0),
        release=gaussian(1.0, seed=0),
        rng=np.random.default_rng(0),
    )
    assert found.raw >= 0.9999
    assert found.released <= 0.15
    assert found.chance == pytest.approx(0.078, abs=0.02)


def test_a_batch_hides_its_records_less_than_noise_does(
    digits: Examples, gaussian: Callable[..., Release]
) -> None:
    raw, released = [], []
    for size in (8, 64):
        found = invert_updates(
            digits,
            size,
            n_classes=10,
            training=Training(1, 1.0, 1.0),
            release=gaussian(1.0, seed=0),
            rng=np.random.default_rng(0),
        )
        raw.append(found.raw)
        released.append(found.released)
    assert raw[0] > 0.8 > raw[1] > 0.4
    assert max(released) <= 0.15


def test_of_unrelated_records_8_are_found_and_64_are_not(gaussian: Callable[..., Release]) -> None:
    """The reference's setting: .96 and .25."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 384)).astype(np.float32)
    examples = Examples(features, np.arange(400, dtype=np.int64) % 10)
    raw = [
        invert_updates(
            examples,
            size,
            n_classes=10,
            training=Training(1, 1.0, 1.0),
            release=gaussian(1.0, seed=0),
            rng=rng,
        ).raw
        for size in (8, 64)
    ]
    assert raw[0] > 0.8
    assert raw[1] < 0.35


def test_a_batch_larger_than_the_data_is_refused(digits: Examples, gaussian: Callable[..., Release]) -> None:
    with pytest.raises(AuditError, match="300 units; a batch takes 301"):
        invert_updates(
            digits,
            301,
            n_classes=10,
            training=Training(1, 1.0, 1.0),
            release=gaussian(1.0, seed=0),
            rng=np.random.default_rng(0),
        )
