import numpy as np
import pytest

from fairness.counts import AuditCounts
from fairness.groups import GroupPlan
from fairness.oracle import check_against_fairlearn
from foedus.errors import AuditError
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.statistic import Arrays


def test_every_site_agrees_with_fairlearn(request_: AuditCounts, sites: list[Examples]) -> None:
    assert max(check_against_fairlearn(request_, site) for site in sites) <= 1e-12


def test_several_classes_agree_with_fairlearn() -> None:
    rng = np.random.default_rng(0)
    head = LinearHead(rng.normal(size=(4, 3)).astype(np.float32), np.zeros(4, np.float32))
    plan = GroupPlan.of({"g": ["a", "b"]}, [])
    rows = Examples(
        rng.normal(size=(300, 3)).astype(np.float32),
        rng.integers(0, 4, 300),
        {"g": rng.choice(["a", "b", "c"], 300)},
    )
    assert check_against_fairlearn(AuditCounts(plan, head, 2, 0.5, np.array([0.0])), rows) <= 1e-12


def test_a_disagreement_is_an_error(
    request_: AuditCounts, sites: list[Examples], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(self: AuditCounts, examples: Examples) -> Arrays:
        found = original(self, examples)
        found["confusion:sex"] = found["confusion:sex"][:, ::-1]
        return found

    original = AuditCounts.measure
    monkeypatch.setattr(AuditCounts, "measure", wrong)
    with pytest.raises(AuditError, match="differs from fairlearn's"):
        check_against_fairlearn(request_, sites[0])
