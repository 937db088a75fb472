from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from foedus.backbones import Standardiser, registry
from foedus.backbones.zero_shot import on_standardised, zero_shot_head
from foedus.errors import BackboneError
from foedus.study import BackboneSection


class Dictionary:
    """Texts with known features."""

    def __init__(self, **known: list[float]) -> None:
        self.known = known

    def embed(self, inputs: Sequence[str]) -> NDArray[np.float32]:
        return np.array([self.known[text] for text in inputs], np.float32)


def test_scores_are_cosines_up_to_the_length_of_the_features() -> None:
    embedder = Dictionary(cat=[3.0, 0.0], dog=[3.0, 4.0])
    head = zero_shot_head(embedder, ["cat", "dog"], temperature=2.0)
    np.testing.assert_allclose(np.linalg.norm(head.weight, axis=1), 2.0)
    np.testing.assert_array_equal(head.bias, 0)
    np.testing.assert_allclose(head.scores(np.array([[0.0, 10.0]], np.float32)), [[0.0, 16.0]], rtol=1e-6)


def test_a_text_without_direction_is_refused() -> None:
    with pytest.raises(BackboneError, match=r"a class text gives no features; write study\.class_texts"):
        zero_shot_head(Dictionary(cat=[1.0], nothing=[0.0]), ["cat", "nothing"], temperature=1.0)


def test_on_standardised_features_it_is_the_same_function() -> None:
    rng = np.random.default_rng(0)
    raw = rng.normal(3, 5, size=(40, 4)).astype(np.float32)
    standardiser = Standardiser(raw.mean(axis=0, dtype=np.float64), raw.std(axis=0, dtype=np.float64))
    head = zero_shot_head(Dictionary(a=[1.0, 2, 0, 1], b=[0.0, -1, 1, 1]), ["a", "b"], temperature=3.0)
    same = on_standardised(head, standardiser)
    np.testing.assert_allclose(same.scores(standardiser.apply(raw)), head.scores(raw), atol=1e-4)
    np.testing.assert_allclose(
        same.unstandardised(standardiser.mean, standardiser.scale).weight, head.weight, rtol=1e-5
    )


def test_a_text_backbone_sorts_sentences_it_was_never_trained_on() -> None:
    section = BackboneSection(source="bundled:minilm-l6")
    head = registry.zero_shot(section, None, ["wheat and corn harvest", "crude oil and petrol", "shipping"])
    assert head is not None
    embedder = registry.open_backbone(section, None)
    stories = ["Farmers expect less grain this year.", "OPEC cuts barrels per day.", "The vessel left port."]
    assert head.scores(embedder.embed(stories)).argmax(axis=1).tolist() == [0, 1, 2]


def test_a_backbone_that_reads_no_text_has_none() -> None:
    assert registry.zero_shot(BackboneSection(), None, ["cat", "dog"]) is None
