import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from foedus.attacks.audit import audit_head_training
from foedus.attacks.gaussian import mu_of
from foedus.attacks.heads import Training
from foedus.attacks.release import Release
from foedus.attacks.report import PrivacyAudit
from foedus.errors import AuditError
from foedus.examples import Examples

CLAIM, DELTA = 3.0, 1e-5
TRAINING = Training(rounds=20, lr=4.0, clip_norm=1.0)


def audit(digits: Examples, release: Release, **settings: int) -> PrivacyAudit:
    return audit_head_training(
        digits,
        n_classes=10,
        epsilon=CLAIM,
        delta=DELTA,
        training=TRAINING,
        release=release,
        rng=np.random.default_rng(0),
        **settings,
    )


@pytest.fixture(scope="module")
def deviation() -> float:
    """Of one round's noise, such that all rounds together keep the claim."""
    return float(np.sqrt(TRAINING.rounds) / mu_of(CLAIM, DELTA))


@pytest.fixture(scope="module")
def honest(digits: Examples, gaussian: Callable[..., Release], deviation: float) -> PrivacyAudit:
    return audit(digits, gaussian(deviation, seed=1))


def test_a_mechanism_that_keeps_its_claim_passes(honest: PrivacyAudit) -> None:
    assert honest.verdict == "pass"
    assert 1.5 < honest.bound.epsilon_fdp < CLAIM
    assert honest.membership.auc.value < honest.membership_noiseless.auc.value
    assert [found.batch_size for found in honest.inversions] == [1, 8, 64]
    assert honest.inversions[0].raw > 0.9999
    assert max(found.released for found in honest.inversions) <= 0.15


def test_noise_2_times_too_small_fails(
    digits: Examples, gaussian: Callable[..., Release], deviation: float
) -> None:
    found = audit(digits, gaussian(deviation / 2, seed=1), n_heads=8, max_records=30)
    assert found.verdict == "fail"
    assert "above the claim of 3" in found.reason()


def test_too_few_canaries_for_the_claim_are_inconclusive(
    digits: Examples, gaussian: Callable[..., Release]
) -> None:
    found = audit(digits, gaussian(0.01, seed=1), n_heads=8, max_records=30, n_canaries=50)
    assert found.bound.epsilon_fdp == found.bound.ceiling_fdp < CLAIM
    assert found.verdict == "inconclusive"
    assert "use more canaries" in found.reason()


def test_either_bound_above_the_claim_fails(honest: PrivacyAudit) -> None:
    for name in ("epsilon_dp", "epsilon_fdp"):
        assert replace(honest, bound=replace(honest.bound, **{name: CLAIM + 0.01})).verdict == "fail"


def test_json_holds_every_figure_and_its_meaning(honest: PrivacyAudit) -> None:
    found = json.loads(honest.to_json())
    assert found["verdict"] == "pass"
    assert found["epsilon"] == CLAIM
    assert found["bound"]["epsilon_fdp"] == honest.bound.epsilon_fdp
    assert found["membership"]["auc"]["low"] == honest.membership.auc.low
    assert set(found["meanings"]) == {
        "epsilon_dp",
        "epsilon_fdp",
        "membership",
        "membership_noiseless",
        "inversions",
    }
    assert "never that it is right" in found["meanings"]["epsilon_dp"]
    assert f"no smaller than {honest.bound.epsilon_fdp:.2f}" in found["meanings"]["epsilon_fdp"]
    assert "1 unit in a sum, 1.00 from the unprotected sum" in found["meanings"]["inversions"]


def test_what_is_not_attacked_where_the_backbone_learns_is_said(honest: PrivacyAudit) -> None:
    assert "the head alone" in replace(honest, tuned=True).meanings()["tuned"]


def test_unfit_audits_are_refused(digits: Examples, gaussian: Callable[..., Release]) -> None:
    with pytest.raises(AuditError, match="19 units are too few"):
        audit(digits.take(np.arange(19)), gaussian(1.0, seed=0))
    with pytest.raises(AuditError, match="does not clip"):
        audit_head_training(
            digits,
            n_classes=10,
            epsilon=CLAIM,
            delta=DELTA,
            training=Training(1, 1.0),
            release=gaussian(1.0, seed=0),
            rng=np.random.default_rng(0),
        )


def test_whole_units_are_attacked(digits: Examples, gaussian: Callable[..., Release]) -> None:
    units = np.repeat(np.arange(75), 4).astype(np.str_)
    by_unit = replace(digits, units=units)
    found = audit(by_unit, gaussian(8.0, seed=1), n_heads=8, max_records=100)
    assert found.membership.n_units == 25
    assert [each.batch_size for each in found.inversions] == [1, 8]
    few = audit(by_unit, gaussian(8.0, seed=1), n_heads=8, max_records=10)
    assert few.membership.n_units == 20
    with pytest.raises(AuditError, match="15 units are too few"):
        audit(by_unit.take(np.arange(60)), gaussian(1.0, seed=0))
