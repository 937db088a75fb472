"""The audit under noise: the same tables without it, wider intervals with it, and no false certainty."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairness.audit import build_audit
from fairness.counts import AuditCounts
from fairness.infer import limits
from fairness.policy import Policy, parse_policy
from fairness.private import JOINT, PrivateAudit, noise_notes, private_audit_request
from fairness.tables import GroupTable
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.noising import add_noise, declared, deviation
from foedus.privacy.noise import sigma_steps
from foedus.statistic import Quantity

POLICY = """
[policy]
name = "p"
profile = "custom"
[attributes]
sex = ["f", "m"]
age = ["young", "old"]
[[gate]]
metric = "tpr"
attribute = "sex"
compare = "max_difference"
tolerance = 0.1
"""
HEAD = LinearHead(np.array([[-1.0], [1.0]], np.float32), np.zeros(2, np.float32))


def policy(intersections: str = "") -> Policy:
    return parse_policy(POLICY.replace("[[gate]]", f"{intersections}\n[[gate]]", 1))


def people(n: int, *, seed: int = 0, units: bool = True) -> Examples:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    features = (labels[:, None] * 2 - 1 + rng.normal(size=(n, 1))).astype(np.float32)
    groups = {"sex": rng.choice(["f", "m", "unknown"], n), "age": rng.choice(["young", "old"], n)}
    return Examples(features, labels, groups, np.arange(n).astype(np.str_) if units else None)


def test_without_noise_every_table_is_the_exact_audits() -> None:
    request = private_audit_request(policy(), head=HEAD, positive=1)
    exact = AuditCounts(request.counts.plan, HEAD, 1, 0.5, np.zeros(1))
    examples = people(400)
    joint = request.read(request.measure(examples))
    found = request.totals(joint, deviation=0.0, n_sites=1)
    wanted = exact.read(exact.measure(examples))
    assert set(found.tables) == set(wanted.tables)
    for key, table in wanted.tables.items():
        np.testing.assert_array_equal(found.tables[key].confusion, table.confusion)
        assert found.tables[key].groups == table.groups


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(0, 5))
def test_a_unit_of_any_number_of_records_changes_the_table_by_at_most_one(
    owners: list[int], left: int
) -> None:
    request = private_audit_request(policy(), head=HEAD, positive=1)
    units = np.array([str(owner) for owner in owners])
    drawn = people(len(owners))
    examples = Examples(drawn.features, drawn.labels, drawn.groups, units)
    fewer = examples.take(np.flatnonzero(units != str(left)))
    change = request.measure(examples)[JOINT] - request.measure(fewer)[JOINT]
    assert np.linalg.norm(change) <= 1 + 1e-9


@pytest.mark.parametrize("metric", ["tpr", "selection_rate", "accuracy"])
def test_intervals_cover_the_truth_under_noise(metric: str) -> None:
    request = private_audit_request(policy(), head=HEAD, positive=1)
    deviation, rng = 5.0, np.random.default_rng(1)
    covered = []
    for seed in range(400):
        joint = request.read(request.measure(people(600, seed=seed)))
        noisy = joint + deviation * rng.normal(size=joint.shape)
        table = request.totals(noisy, deviation=deviation, n_sites=3).tables["sex"]
        found = limits(metric, table, 1, z=1.96)
        truth = {"tpr": 0.8413, "selection_rate": 0.5, "accuracy": 0.8413}[metric]
        covered += [low <= truth <= high for low, high in zip(found.low[:2], found.high[:2], strict=True)]
    assert np.mean(covered) >= 0.93


@pytest.mark.parametrize("deviation", [2.8, 7.5])  # about epsilon 1.7 and 0.5 at delta 1e-5
@pytest.mark.parametrize(("positives", "rate"), [(20, 0.7), (20, 0.95), (50, 0.9), (1000, 0.9)])
def test_intervals_of_small_groups_cover_however_large_the_noise(
    positives: int, rate: float, deviation: float
) -> None:
    rng, runs = np.random.default_rng(2), 4000
    hits = rng.binomial(positives, rate, runs)
    cells = np.full((runs, 2, 2), float(positives))
    cells[:, 1] = np.stack([positives - hits, hits], axis=1)
    seen = np.maximum(np.rint(cells + deviation * rng.normal(size=cells.shape)), 0).astype(np.int64)
    sites, scores = np.full(runs, 3), np.zeros((runs, 2, 2), np.int64)
    found = limits("tpr", GroupTable("g", ("",) * runs, seen, scores, sites, noise=deviation), 1, z=1.96)
    known = ~np.isnan(found.value)
    assert ((found.low <= rate) & (found.high >= rate))[known].mean() >= 0.93
    assert (found.low <= found.value)[known].all()
    assert (found.value <= found.high)[known].all()


def test_without_noise_the_interval_is_wilsons() -> None:
    cells = np.array([[[30, 5], [2, 18]], [[7, 0], [0, 9]]])
    table = GroupTable("g", ("a", "b"), cells, np.zeros((2, 2, 2), np.int64), np.full(2, 3))
    quiet = limits("tpr", replace(table, noise=1e-9), 1, z=1.96)
    exact = limits("tpr", table, 1, z=1.96)
    np.testing.assert_allclose([quiet.low, quiet.high], [exact.low, exact.high], atol=1e-7)


def test_the_noise_of_three_sites_has_the_variance_that_the_audit_is_told() -> None:
    wanted = {"x": Quantity((60_000,), low=0.0, sensitivity=1.0)}
    shares = [add_noise({"x": np.zeros(60_000)}, wanted, multiplier=7.5, honest=3)["x"] for _ in range(3)]
    step = declared(wanted, 7.5)["x"].resolution
    sigma = step * sigma_steps(7.5, sensitivity=1.0, resolution=step, size=60_000, honest=3)
    assert np.sum(shares, axis=0).var() == pytest.approx(3 * sigma**2, rel=0.02)
    promised = deviation(wanted, 7.5)["x"]  # what intervals are told; the grid adds a little
    assert promised <= 3**0.5 * sigma <= 1.02 * promised


def test_noise_that_swamps_everything_is_inconclusive_and_says_what_it_costs() -> None:
    asked = policy()
    request = private_audit_request(asked, head=HEAD, positive=1)
    joint = request.read(request.measure(people(600)))
    quiet = request.totals(joint, deviation=0.0, n_sites=3)
    noisy = request.totals(joint, deviation=60.0, n_sites=3)
    table = noisy.tables["sex"]
    wide, narrow = limits("tpr", table, 1, z=1.96), limits("tpr", quiet.tables["sex"], 1, z=1.96)
    assert ((wide.high - wide.low) > 3 * (narrow.high - narrow.low))[:2].all()
    report = build_audit(asked, noisy, model_digest="d", study_name="s", classes=["no", "yes"])
    assert report.verdict == "inconclusive"
    notes = noise_notes(asked, noisy)
    assert any("each count carries noise" in note for note in notes)
    assert any("sex, tpr: the noise makes the interval wider, of f " in note for note in notes)


def test_a_request_survives_the_wire() -> None:
    request = private_audit_request(policy(), head=HEAD, positive=1)
    again = PrivateAudit.from_wire(request.settings(), request.arrays())
    assert again.declare() == request.declare()
