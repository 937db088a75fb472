"""Before a private model is used: the noise is tried by canaries, the clip by units with enormous gradients."""

import numpy as np
import pytest

from foedus import gradient, privacy_check
from foedus.attacks.clipping import ClippingCheck, check_clipping
from foedus.errors import AuditError
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.privacy.clipping import SLACK
from foedus.privacy_check import check_clip, check_mechanism, check_training, claim_of
from foedus.statistic import Arrays
from foedus.study import Study, parse_study
from server.results import attack

STUDY = """
[study]
name = "toy"
classes = ["a", "b", "c"]
[federation]
rounds = {rounds}
lr = 4.0
[door]
clip_norm = {clip}
sampling_rate = {rate}
"""


def study(*, rounds: int = 10, clip: float = 1.0, rate: float = 1.0) -> Study:
    return parse_study(STUDY.format(rounds=rounds, clip=clip, rate=rate))


def examples(n: int = 120) -> Examples:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 8))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    units = np.arange(n).astype(np.str_)
    return Examples(x, rng.integers(0, 3, n), {}, units)


@pytest.mark.parametrize("clip", [0.01, 1.0, 50.0])
def test_the_clip_holds_for_units_millions_of_times_beyond_it(clip: float) -> None:
    found = check_clip(study(clip=clip))
    assert found.held
    assert found.tried == 3
    assert 0.9 < found.largest <= 1 + SLACK
    assert found.unclipped > 1e4


def _unclipped(head: LinearHead, of: Examples, *, clip_norm: float) -> Arrays:
    return HONEST(head, of, clip_norm=1e30)


def _by_record(head: LinearHead, of: Examples, *, clip_norm: float) -> Arrays:
    return HONEST(head, Examples(of.features, of.labels), clip_norm=clip_norm)


HONEST = gradient.contribution


@pytest.mark.parametrize("broken", [_unclipped, _by_record])
def test_a_clip_that_does_not_hold_is_found_and_fails_the_audit(
    monkeypatch: pytest.MonkeyPatch, broken: object
) -> None:
    monkeypatch.setattr(gradient, "contribution", broken)
    found = check_clip(study())
    assert not found.held
    assert found.largest > 40
    audit = check_training(study(), examples())
    assert audit.verdict == "fail"
    assert audit.reason().startswith("The clip DID NOT HOLD")
    told = attack(study())
    assert told is not None
    assert (told["clipping_held"], told["within_claim"]) == (False, True)


def test_an_attack_that_tries_nothing_is_refused() -> None:
    def still(rows: np.ndarray) -> np.ndarray:
        return np.zeros(3)

    with pytest.raises(AuditError, match="no unit's gradient is longer than the clip"):
        check_clipping(still, still, crowd=np.arange(3), giants=[np.array([3])], clip_norm=1.0)
    with pytest.raises(AuditError, match="no unit to try the clip with"):
        check_clipping(still, still, crowd=np.arange(3), giants=[], clip_norm=1.0)


def test_a_sum_that_is_not_finite_did_not_hold() -> None:
    def broken(rows: np.ndarray) -> np.ndarray:
        return np.full(2, np.inf if 3 in rows else 0.0)

    found = check_clipping(broken, broken, crowd=np.arange(3), giants=[np.array([3])], clip_norm=1.0)
    assert not found.held
    assert ClippingCheck(1, 1.0, 5.0).held


@pytest.mark.parametrize(
    ("rounds", "rate", "of", "steps"),
    [
        (10, 1.0, "the rounds", 10),
        (10, 0.2, "one round to someone who knows who is in it", 1),
        (0, 1.0, "the start", 1),
    ],
)
def test_what_is_attacked_is_what_is_claimed(rounds: int, rate: float, of: str, steps: int) -> None:
    asked = study(rounds=rounds, rate=rate)
    claim = claim_of(asked)
    assert (claim.of, claim.event.steps, claim.event.sampling) == (of, steps, 1.0)
    bound = check_mechanism(asked)
    assert max(bound.epsilon_dp, bound.epsilon_fdp) <= claim.epsilon
    assert check_training(asked, examples()).verdict in ("pass", "inconclusive")


def test_noise_of_sampled_rounds_that_is_too_small_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, honest = study(rate=0.2), privacy_check.add_noise
    monkeypatch.setattr(
        privacy_check,
        "add_noise",
        lambda *args, multiplier, **more: honest(*args, multiplier=multiplier / 3, **more),
    )
    bound = check_mechanism(asked)
    assert max(bound.epsilon_dp, bound.epsilon_fdp) > claim_of(asked).epsilon
