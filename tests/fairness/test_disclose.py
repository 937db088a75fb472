"""Nothing small can be worked out from audit.json: its reader's integer programs, on random tables."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from fairness.audit import build_audit
from fairness.calibration import curve
from fairness.counts import AuditTotals, GroupTable
from fairness.disclose import disclose
from fairness.policy import DisclosureSection, Policy, parse_policy

SHARE = {  # metric: successes, trials; cells are tn, fp, fn, tp
    "base_rate": ((2, 3), (0, 1, 2, 3)),
    "selection_rate": ((1, 3), (0, 1, 2, 3)),
    "tpr": ((3,), (2, 3)),
    "fnr": ((2,), (2, 3)),
    "fpr": ((1,), (0, 1)),
    "tnr": ((0,), (0, 1)),
    "ppv": ((3,), (1, 3)),
    "npv": ((0,), (0, 2)),
    "accuracy": ((0, 3), (0, 1, 2, 3)),
}
COUNTED = [(0,), (1,), (2,), (3,), (2, 3), (0, 1), (1, 3), (0, 2), (0, 1, 2, 3)]
"""What may not be known when it is small: each cell, each label, each decision, everyone."""


def policy(profile: str = "us_cms", gate: str = "tpr", **more: Any) -> Policy:
    rules = "".join(f"{key} = {value}\n" for key, value in more.items())
    return parse_policy(f"""
[policy]
name = "p"
intersections = [["sex", "age"]]
[attributes]
sex = ["f", "m"]
age = ["young", "old"]
[[gate]]
metric = "{gate}"
attribute = "sex"
compare = "max_difference"
tolerance = 0.1
[disclosure]
profile = "{profile}"
{rules}""")


def totals_of(joint: np.ndarray, asked: Policy, *, sites: int = 5) -> AuditTotals:
    """Tables of (3, 3, 4) counts: sex, age, cells."""
    plan = asked.plan.tables()
    crossed = {"sex": joint.sum(axis=1), "age": joint.sum(axis=0), "sex|age": joint.reshape(9, 4)}
    tables = {}
    for key, groups in plan.items():
        cells = crossed[key].reshape(-1, 2, 2)
        tables[key] = GroupTable(key, groups, cells, cells, np.where(cells.sum(axis=(1, 2)) > 0, sites, 0))
    return AuditTotals(1, sites, tables, (1,))


def written(joint: np.ndarray, asked: Policy, *, sites: int = 5) -> dict[str, Any]:
    found = build_audit(
        asked, totals_of(joint, asked, sites=sites), model_digest="d", study_name="s", classes=["no", "yes"]
    )
    return found.to_dict()


class Reader:
    """What audit.json, and results.json of everyone, say of the (sex, age, cell) counts x: low ≤ rows x ≤ high."""

    def __init__(self, audit: dict[str, Any], asked: Policy, everyone_cells: np.ndarray) -> None:
        self.rows: list[np.ndarray] = []
        self.low: list[float] = []
        self.high: list[float] = []
        k = asked.disclosure.k
        for cell in range(4):
            self.say(range(9), (cell,), everyone_cells[cell], everyone_cells[cell])
        everyone = {"n": audit["n"], "n_between": None, **audit, "rates": audit["overall"]}
        self.hear(everyone, range(9))
        for table in (*audit["attributes"], *audit["intersections"]):
            for at, group in enumerate(table["groups"]):
                cells = members(table["attribute"], at)
                if group["suppressed"] == "nobody":
                    self.say(cells, (0, 1, 2, 3), 0, 0)
                elif group["suppressed"] == f"fewer than {k} people":
                    self.say(cells, (0, 1, 2, 3), 0, k - 1)
                elif not group["suppressed"]:
                    self.hear(group, cells)

    def hear(self, group: dict[str, Any], cells: Sequence[int]) -> None:
        self.say(cells, (0, 1, 2, 3), *(group["n_between"] or (group["n"],) * 2))
        self.say(cells, (2, 3), *(group["positives_between"] or (group["positives"],) * 2))
        for metric, (successes, trials) in SHARE.items():
            rate = group["rates"][metric]
            if rate["hidden"]:
                self.say(cells, successes, *rate["between"])
            else:
                value = round((rate["value"] or 0) * rate["trials"])
                self.say(cells, trials, rate["trials"], rate["trials"])
                self.say(cells, successes, value, value)

    def say(self, cells: Sequence[int], which: Sequence[int], low: float, high: float) -> None:
        self.rows.append(indicator(cells, which))
        self.low.append(low)
        self.high.append(high)

    def known(self, rows: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Which of rows x can only be what it truly is."""
        rules = LinearConstraint(np.array(self.rows), self.low, self.high)
        whole, wanted = np.ones(36), rows @ truth
        open_ = np.ones(len(rows), bool)
        together = [rows.sum(axis=0), -rows.sum(axis=0)]
        alone = [(i, sign * row) for i, row in enumerate(rows) for sign in (1, -1)]
        for of, objective in [*((None, each) for each in together), *alone]:
            if open_.any() if of is None else open_[of]:
                found = milp(objective, integrality=whole, bounds=Bounds(0, 1e6), constraints=rules)
                assert found.x is not None, found.message
                open_ &= np.rint(rows @ found.x) == wanted
        return open_


def members(attribute: str, group: int) -> list[int]:
    """The (sex, age) pairs in a group of a table."""
    if attribute == "sex|age":
        return [group]
    return [s * 3 + a for s, a in product(range(3), repeat=2) if (s if attribute == "sex" else a) == group]


def indicator(cells: Sequence[int], which: Sequence[int]) -> np.ndarray:
    row = np.zeros((9, 4))
    row[np.ix_(list(cells), list(which))] = 1
    return row.ravel()


tables = st.tuples(
    st.integers(0, 2**32 - 1), st.sampled_from([8, 30, 120]), st.sampled_from([0.0, 0.05, 1.0])
)


def drawn(seed: int, scale: int, unknown: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mean = rng.gamma(0.7, scale, (3, 3, 4))
    mean[2] *= unknown
    mean[:, 2] *= unknown
    return rng.poisson(mean).astype(np.int64)


drawings = (
    tables,
    st.sampled_from(["us_cms", "uk", "ohdsi", "datashield"]),
    st.sampled_from(["tpr", "fpr", "selection_rate", "accuracy", "auc"]),
)


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(*drawings)
def test_no_small_count_can_be_worked_out(drawing: tuple[int, int, float], profile: str, gate: str) -> None:
    nothing_small_follows(drawing, profile, gate)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(*drawings)
def test_no_small_count_can_be_worked_out_in_many_tables(
    drawing: tuple[int, int, float], profile: str, gate: str
) -> None:
    nothing_small_follows(drawing, profile, gate)


def nothing_small_follows(drawing: tuple[int, int, float], profile: str, gate: str) -> None:
    joint, asked = drawn(*drawing), policy(profile, gate)
    k = asked.disclosure.k
    if joint.sum() < k:
        return
    reader = Reader(written(joint, asked), asked, joint.sum(axis=(0, 1)))
    truth = joint.reshape(36)
    for row, low, high in zip(reader.rows, reader.low, reader.high, strict=True):
        assert low <= row @ truth <= high, "what is written must be true"
    groups = [(key, g) for key, names in asked.plan.tables().items() for g in range(len(names))]
    targets = [indicator(members(key, g), which) for key, g in groups for which in COUNTED]
    small = np.array([row for row in targets if 0 < row @ truth < k]).reshape(-1, 36)
    assert not reader.known(small, truth).any()


def clear(counts: dict[tuple[int, int], tuple[int, int, int, int]]) -> np.ndarray:
    joint = np.zeros((3, 3, 4), np.int64)
    for place, cells in counts.items():
        joint[place] = cells
    return joint


BIG = (200, 60, 50, 190)
PLAIN = {(0, 0): BIG, (0, 1): BIG, (1, 0): BIG, (1, 1): BIG}


def group(audit: dict[str, Any], attribute: str, name: str) -> dict[str, Any]:
    tables = {t["attribute"]: t for t in (*audit["attributes"], *audit["intersections"])}
    return next(dict(g) for g in tables[attribute]["groups"] if g["group"] == name)


def test_nothing_is_hidden_where_nothing_is_small() -> None:
    audit = written(clear(PLAIN), policy())
    for table in (*audit["attributes"], *audit["intersections"]):
        for found in table["groups"]:
            assert found["suppressed"] in (None, "nobody")
            assert not any(rate["hidden"] for rate in found["rates"].values())


def test_a_small_numerator_is_shown_as_an_interval_only() -> None:
    joint = clear({**PLAIN, (0, 0): (200, 60, 4, 190), (0, 1): (200, 60, 0, 190)})
    women = group(written(joint, policy(gate="fpr")), "sex", "f")
    fnr, tpr, fpr = (women["rates"][metric] for metric in ("fnr", "tpr", "fpr"))
    assert (fnr["value"], fnr["hidden"], fnr["between"]) == (None, True, [0, 10])
    assert fnr["low"] == 0
    assert 10 / 384 < fnr["high"] < 0.06
    assert (tpr["value"], tpr["between"]) == (None, [374, 384])
    assert fpr["value"] == pytest.approx(120 / 520)


def test_the_interval_of_a_hidden_share_does_not_tell_which_it_is() -> None:
    cells = [(200, 60, fn, 194 - fn) for fn in (2, 4)]
    one, other = (
        written(clear({**PLAIN, (0, 0): each, (0, 1): (200, 60, 0, 190)}), policy(gate="fpr"))
        for each in cells
    )
    assert group(one, "sex", "f")["rates"]["fnr"] == group(other, "sex", "f")["rates"]["fnr"]
    assert one["gates"] == other["gates"]


def test_a_group_of_few_takes_another_with_it() -> None:
    audit = written(clear({**PLAIN, (2, 0): (1, 1, 1, 0)}), policy())
    assert group(audit, "sex", "unknown")["suppressed"] == "fewer than 11 people"
    assert any(group(audit, "sex", name)["n_between"] for name in ("f", "m"))
    assert group(audit, "age", "young")["n_between"] is None


@pytest.mark.parametrize(("positives", "reason"), [(5, "fewer than 11 people of one label"), (0, None)])
def test_a_group_with_few_of_one_label_is_suppressed_and_one_with_none_is_not(
    positives: int, reason: str | None
) -> None:
    joint = clear({**PLAIN, (0, 0): (100, 50, 0, positives), (0, 1): (100, 50, 0, 0)})
    women = group(written(joint, policy()), "sex", "f")
    assert women["suppressed"] == reason
    if reason is None:
        assert women["rates"]["tpr"]["value"] is None
        assert not women["rates"]["tpr"]["hidden"]


def test_a_profile_without_zeros_hides_them() -> None:
    joint = clear(
        {(0, 0): (211, 63, 52, 197), (0, 1): (188, 71, 44, 0), (1, 0): (305, 66, 58, 183), (1, 1): BIG}
    )
    strict, lenient = (group(written(joint, policy(p)), "sex|age", "f|old") for p in ("uk", "us_cms"))
    assert lenient["rates"]["tpr"] | {"detectable_gap": None} == {
        **lenient["rates"]["tpr"], "value": 0.0, "hidden": False, "detectable_gap": None,
    }  # fmt: skip
    assert (strict["rates"]["tpr"]["value"], strict["rates"]["tpr"]["hidden"]) == (None, True)
    assert group(written(clear(PLAIN), policy("uk")), "sex", "unknown")["suppressed"] == "nobody"


def test_what_gates_look_at_is_the_last_to_be_hidden() -> None:
    """The first mortgage demo: one rejected count of ten, and small intersections, hid every rate by race."""
    joint = np.array(
        [[[8, 1, 0, 13], [12, 2, 5, 35], [0, 0, 0, 0]],
         [[4, 5, 4, 117], [35, 30, 22, 496], [0, 0, 0, 7]],
         [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]]
    )  # fmt: skip
    audit = written(joint, policy(gate="selection_rate"))
    for name in ("f", "m"):
        assert group(audit, "sex", name)["rates"]["selection_rate"]["value"] is not None
    assert audit["gates"][0]["hidden"] is False


def test_counts_of_two_sites_are_not_written() -> None:
    audit = written(clear(PLAIN), policy(), sites=2)
    assert group(audit, "sex", "f")["suppressed"] == "people from fewer than 3 sites"
    assert audit["verdict"] == "inconclusive"
    assert group(written(clear(PLAIN), policy(min_sites=2), sites=2), "sex", "f")["suppressed"] is None


def test_a_cell_of_two_sites_is_hidden_in_a_group_of_five() -> None:
    asked = policy()
    totals = totals_of(clear(PLAIN), asked)
    tables = {}
    for key, table in totals.tables.items():
        sites = np.full((len(table.groups), 1, 4), 5)
        sites[0, 0, 2] = 2  # false negatives of the first group
        tables[key] = GroupTable(
            key, table.groups, table.confusion, table.scores, table.sites, contributors=sites
        )
    found = disclose(AuditTotals(1, 5, tables, (1,)), asked).tables["sex"]
    facts = found.facts(1)
    assert facts.low.fn[0] < 100 < facts.high.fn[0]
    assert facts.low.fn[1] < facts.high.fn[1]


def test_a_group_of_few_patients_with_many_rows_is_suppressed() -> None:
    asked = policy()
    totals = totals_of(clear({**PLAIN, (2, 0): (20, 20, 20, 20)}), asked)
    people = {"sex": [1000, 1000, 8], "age": [1000, 1008, 0], "sex|age": [500, 500, 0, 500, 500, 0, 8, 0, 0]}
    tables = {}
    for key, table in totals.tables.items():
        counted = np.stack([np.array(people[key]), np.array(people[key]) * 4], axis=1)
        tables[key] = GroupTable(
            key, table.groups, table.confusion, table.scores, table.sites, people=counted
        )
    found = disclose(AuditTotals(1, 5, tables, (1,)), asked)
    assert found.tables["sex"].suppressed == (None, None, "fewer than 11 people")


def test_rounding_leaves_multiples() -> None:
    audit = written(clear({**PLAIN, (0, 0): (201, 61, 52, 193)}), policy(round_n_to=5))
    women = group(audit, "sex", "f")
    assert (women["n"] % 5, women["positives"] % 5) == (0, 0)
    assert women["rates"]["tpr"]["value"] == round(women["rates"]["tpr"]["value"], 3)
    assert audit["gates"][0]["tolerance"] == 0.1


def test_profiles_are_named_and_k_replaces_theirs() -> None:
    found = {name: DisclosureSection(profile=name) for name in ("us_cms", "uk", "ohdsi", "datashield")}  # type: ignore[arg-type]
    assert [(f.k, f.zero_allowed) for f in found.values()] == [(11, True), (10, False), (5, True), (3, True)]
    assert DisclosureSection(profile="uk", k=20).k == 20
    assert DisclosureSection().k == 11


def test_bins_hold_k_of_either_label_or_none_and_break_at_the_threshold() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        scores = rng.poisson(rng.gamma(0.6, 5, (1, 2, 40)))
        cells = np.stack([scores[:, :, :17].sum(axis=2), scores[:, :, 17:].sum(axis=2)], axis=2)
        table = GroupTable("g", ("a",), cells, scores, np.array([5]))
        found = curve(table, 0, cut=17, k=11, zero_allowed=True)
        if found is None:
            continue
        for label in (found.positives, found.n - found.positives):
            assert ((label == 0) | (label >= 11)).all()
        below = np.cumsum(found.n).tolist()
        assert int(cells[0, :, 0].sum()) in [0, *below]
