from collections.abc import Callable

import numpy as np
import pytest

from foedus.attacks.heads import Training, train_heads
from foedus.attacks.release import Release
from foedus.errors import AuditError
from foedus.examples import Examples
from foedus.head import LinearHead


def slow_head(examples: Examples, rows: np.ndarray, *, n_classes: int, training: Training) -> LinearHead:
    """One head, one record at a time, in float64."""
    weight = np.zeros((n_classes, examples.features.shape[1] + 1))
    for _ in range(training.rounds):
        total = np.zeros_like(weight)
        for x, label in zip(examples.features[rows], examples.labels[rows], strict=True):
            extended = np.append(x.astype(np.float64), 1.0)
            scores = weight @ extended
            residual = np.exp(scores - scores.max())
            residual /= residual.sum()
            residual[label] -= 1
            gradient = np.outer(residual, extended)
            if training.clip_norm is not None:
                gradient *= min(1.0, training.clip_norm / np.linalg.norm(gradient))
            total += gradient
        weight -= training.lr / len(rows) * total
    return LinearHead(weight[:, :-1].astype(np.float32), weight[:, -1].astype(np.float32))


@pytest.mark.parametrize("clip_norm", [None, 0.3, 2.0])
def test_a_batch_of_heads_is_each_head_trained_alone(digits: Examples, clip_norm: float | None) -> None:
    rng = np.random.default_rng(0)
    few = digits.take(rng.permutation(300)[:24])
    few = Examples(few.features * np.linspace(0.2, 3, 24, dtype=np.float32)[:, None], few.labels)
    members = np.stack([rng.permutation(24) < 12 for _ in range(3)])
    training = Training(rounds=5, lr=2.0, clip_norm=clip_norm)
    heads = train_heads(few, members, n_classes=10, training=training)
    confidences = heads.confidences(few)
    for h, rows in enumerate(members):
        alone = slow_head(few, np.flatnonzero(rows), n_classes=10, training=training)
        np.testing.assert_allclose(heads.weight[h], alone.weight, atol=1e-5)
        np.testing.assert_allclose(heads.bias[h], alone.bias, atol=1e-5)
        true = alone.probabilities(few.features)[np.arange(24), few.labels]
        np.testing.assert_allclose(confidences[h], np.log(true / (1 - true)), atol=1e-3)


@pytest.mark.parametrize("clip_norm", [None, 0.3])
def test_heads_of_several_labels_are_each_label_trained_alone(
    digits: Examples, clip_norm: float | None
) -> None:
    rng = np.random.default_rng(0)
    few = digits.take(rng.permutation(300)[:24])
    labels = rng.integers(0, 2, (24, 3))
    members, training = np.ones((1, 24), np.bool_), Training(rounds=4, lr=2.0, clip_norm=clip_norm)
    found = train_heads(Examples(few.features, labels), members, n_classes=3, training=training)
    x = np.column_stack([few.features.astype(np.float64), np.ones(24)])
    weight = np.zeros((3, x.shape[1]))
    for _ in range(4):
        residuals = 1 / (1 + np.exp(-x @ weight.T)) - labels
        gradients = residuals[:, :, None] * x[:, None]
        if clip_norm is not None:
            gradients *= np.minimum(1, clip_norm / np.linalg.norm(gradients, axis=(1, 2)))[:, None, None]
        weight -= 2.0 / 24 * gradients.sum(axis=0)
    np.testing.assert_allclose(found.weight[0], weight[:, :-1], atol=1e-5)
    chance = 1 / (1 + np.exp(-x @ weight.T))
    true = np.where(labels, chance, 1 - chance).prod(axis=1)
    confidences = found.confidences(Examples(few.features, labels))
    np.testing.assert_allclose(confidences[0], np.log(true / (1 - true)), atol=1e-3)


def test_the_release_sees_every_round_all_heads_in_one_vector(digits: Examples) -> None:
    seen = []

    def release(total: np.ndarray) -> np.ndarray:
        seen.append(total.copy())
        return np.zeros_like(total)

    training = Training(rounds=3, lr=1.0, clip_norm=1.0)
    heads = train_heads(digits, np.ones((2, 300), np.bool_), n_classes=10, training=training, release=release)
    assert [total.shape for total in seen] == [(2 * 10 * 385,)] * 3
    assert not heads.weight.any()


def test_no_record_moves_a_sum_by_more_than_the_clipping_norm(digits: Examples) -> None:
    sums = []

    def release(total: np.ndarray) -> np.ndarray:
        sums.append(total)
        return total

    long = Examples(digits.features[:2] * np.float32(100), digits.labels[:2])
    members = np.array([[True, True], [True, False]])
    train_heads(long, members, n_classes=10, training=Training(1, 1.0, 0.5), release=release)
    both, one = sums[0].reshape(2, -1)
    assert np.linalg.norm(both - one) == pytest.approx(0.5, rel=1e-5)


def test_noise_without_clipping_is_refused(digits: Examples, gaussian: Callable[..., Release]) -> None:
    with pytest.raises(AuditError, match="give a clip_norm"):
        train_heads(
            digits,
            np.ones((1, 300), np.bool_),
            n_classes=10,
            training=Training(1, 1.0),
            release=gaussian(1.0, seed=0),
        )


def test_sums_are_those_of_the_sites_own_clipping(digits: Examples) -> None:
    clipping = pytest.importorskip("foedus.privacy.clipping")
    seen = []

    def release(total: np.ndarray) -> np.ndarray:
        seen.append(total.reshape(10, 385).copy())
        return total

    training = Training(rounds=2, lr=30.0, clip_norm=0.9)
    train_heads(digits, np.ones((1, 300), np.bool_), n_classes=10, training=training, release=release)
    first = (-training.lr / 300 * seen[0]).astype(np.float32)
    for head, total in zip(
        [LinearHead.zeros(10, 384), LinearHead(first[:, :-1], first[:, -1])], seen, strict=True
    ):
        expected = clipping.clipped_gradients(head, digits.features, digits.labels, clip_norm=0.9)
        np.testing.assert_allclose(total[:, :-1], expected.weight, atol=1e-4)
        np.testing.assert_allclose(total[:, -1], expected.bias, atol=1e-4)


def slow_step(examples: Examples, units: np.ndarray, clip_norm: float) -> np.ndarray:
    """The sum of the units' gradients at a head of zeros, each clipped, one record at a time."""
    inputs = np.column_stack([examples.features, np.ones(len(examples))]).astype(np.float64)
    residuals = 0.1 - np.eye(10)[examples.labels]
    total = np.zeros((10, inputs.shape[1]))
    for unit in np.unique(units):
        rows = units == unit
        gradient = residuals[rows].T @ inputs[rows]
        total += gradient * min(1.0, clip_norm / np.linalg.norm(gradient))
    return total


@pytest.mark.parametrize("clip_norm", [0.5, 1.5, 100.0])
def test_a_units_records_are_clipped_together_and_take_part_together(
    digits: Examples, clip_norm: float
) -> None:
    rng = np.random.default_rng(0)
    few = digits.take(rng.permutation(300)[:24])
    units = np.array([f"p{k}" for k in rng.integers(0, 8, 24)])
    named = Examples(few.features, few.labels, {}, units)
    names = np.unique(units)
    members = np.stack([rng.permutation(len(names)) < 4 for _ in range(3)])
    heads = train_heads(named, members, n_classes=10, training=Training(1, 2.0, clip_norm))
    for h, chosen in enumerate(members):
        inside = np.isin(units, names[chosen])
        step = slow_step(few.take(np.flatnonzero(inside)), units[inside], clip_norm)
        found = np.column_stack([heads.weight[h], heads.bias[h]])
        np.testing.assert_allclose(found, -2.0 / 4 * step, atol=1e-5)


def test_units_are_sampled_anew_for_every_sum_and_the_step_is_right_on_average(digits: Examples) -> None:
    few = digits.take(np.arange(0, 300, 10))
    members = np.ones((3000, 30), np.bool_)
    training = Training(1, 1.0, 0.5, sampling=0.3)
    heads = train_heads(few, members, n_classes=10, training=training, rng=np.random.default_rng(1))
    full = train_heads(few, members[:1], n_classes=10, training=Training(1, 1.0, 0.5))
    np.testing.assert_allclose(heads.weight.mean(axis=0), full.weight[0], atol=5e-4)
    assert heads.weight.std(axis=0).max() > 0.002
    with pytest.raises(AuditError, match="units are sampled; give a generator"):
        train_heads(few, members[:1], n_classes=10, training=training)
