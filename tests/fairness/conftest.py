"""Counts published elsewhere, a heart-like set of four sites, and the way counts are gathered."""

from collections.abc import Callable
from functools import reduce

import numpy as np
import pytest

from fairness.audit import AuditReport, audit_request, build_audit
from fairness.counts import AuditCounts, AuditTotals, GroupTable
from fairness.edges import AuditEdges
from fairness.policy import Policy, parse_policy
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.statistic import Arrays, Statistic, add

POLICY = """
[policy]
name = "heart"
profile = "health.diagnosis"
intersections = [["sex", "age_band"]]
[attributes]
sex = ["female", "male"]
age_band = ["<50", "50-64", "65+"]
[[gate]]
metric = "tpr"
attribute = "sex"
compare = "max_difference"
tolerance = 0.10
[[gate]]
metric = "selection_rate"
attribute = "sex"
compare = "min_ratio"
tolerance = 0.8
"""


def total_of(statistic: Statistic[object], sites: list[Examples]) -> Arrays:
    """The sum over sites of what each measures after the request travelled to it."""
    there = type(statistic).from_wire(statistic.settings(), statistic.arrays())
    return reduce(add, [there.measure(site) for site in sites])


def made_up_site(rng: np.random.Generator, n: int) -> Examples:
    """Rows in which men are found more easily than women."""
    features = rng.normal(size=(n, 5)).astype(np.float32)
    sex = rng.choice(["female", "male", ""], p=[0.25, 0.73, 0.02], size=n)
    age = rng.choice(["<50", "50-64", "65+"], size=n)
    chance = 1 / (1 + np.exp(-(1.3 * features[:, 0] - features[:, 1] + 0.8 * (sex == "male"))))
    labels = (rng.random(n) < chance).astype(np.int64)
    features[:, 0] += 0.8 * (sex == "male")
    return Examples(features, labels, {"sex": sex, "age_band": age})


@pytest.fixture
def policy() -> Policy:
    return parse_policy(POLICY)


@pytest.fixture
def head() -> LinearHead:
    weight = np.array([[0] * 5, [1.3, -1, 0, 0, 0]], np.float32)
    return LinearHead(weight, np.array([0, 0.1], np.float32))


@pytest.fixture
def sites() -> list[Examples]:
    rng = np.random.default_rng(3)
    return [made_up_site(rng, n) for n in (303, 293, 123, 200)]


@pytest.fixture
def edges(head: LinearHead, sites: list[Examples]) -> np.ndarray:
    first = AuditEdges(head, 1)
    return first.read(total_of(first, sites))


@pytest.fixture
def request_(policy: Policy, head: LinearHead, edges: np.ndarray) -> AuditCounts:
    return audit_request(policy, head=head, positive=1, edges=edges)


@pytest.fixture
def totals(request_: AuditCounts, sites: list[Examples]) -> AuditTotals:
    return request_.read(total_of(request_, sites))


@pytest.fixture
def report(policy: Policy, totals: AuditTotals) -> AuditReport:
    return build_audit(
        policy, totals, model_digest="sha256:" + "ab" * 32, study_name="heart", classes=["healthy", "disease"]
    )


@pytest.fixture
def gather() -> Callable[[Statistic[object], list[Examples]], Arrays]:
    return total_of


@pytest.fixture
def table_of() -> Callable[..., GroupTable]:
    """A table of two classes from (tn, fp, fn, tp) per group; scores are the decisions."""

    def build(key: str, sites: int = 3, **groups: tuple[int, int, int, int]) -> GroupTable:
        cells = np.array([[[tn, fp], [fn, tp]] for tn, fp, fn, tp in groups.values()], np.int64)
        return GroupTable(key, tuple(groups), cells, cells, np.full(len(groups), sites, np.int64))

    return build
