import hashlib
from pathlib import Path

import pytest

from fairness.policy import load_policy, parse_policy
from foedus.errors import ConfigError

LENDING = (
    '[policy]\nname = "credit"\nprofile = "lending"\n[attributes]\nsex = ["f", "m"]\nrace = ["a", "b"]\n'
)


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(
        '[policy]\nname = "p"\nproflie = "lending"\nintersections = [["sex", "ages"]]\n'
        '[attributes]\nsex = ["f", "m", "f"]\n[[gate]]\nmetric = "tpr"\nattribute = "sexx"\n'
        'compare = "max_difference"\ntolerance = 1.5\n[evidence]\nmin_n = 0\n'
    )
    with pytest.raises(ConfigError, match="6 problems") as caught:
        load_policy(file)
    text = "\n".join(caught.value.problems)
    assert "policy.proflie is not a known key; did you mean 'profile'?" in text
    assert "policy.intersections: 'ages' is not an attribute" in text
    assert "attributes.sex repeats f" in text
    assert "gate.0.attribute is 'sexx', not an attribute here; did you mean 'sex'?" in text
    assert "gate.0.tolerance" in text
    assert "evidence.min_n" in text


def test_problems_between_tables_are_single_sentences() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_policy(
            LENDING + '[[gate]]\nmetric="tpr"\nattribute="x"\ncompare="max_difference"\ntolerance=0.1\n'
        )
    assert caught.value.problems == ["gate.0.attribute is 'x', not an attribute here; valid here: sex, race"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (LENDING.replace("lending", "custom"), "has none of its own; add"),
        (LENDING + "k = 3\n", "attributes.k"),
        (LENDING.replace('"f", "m"', '"f|x", "m"'), "printable characters without"),
        (LENDING.replace('"f", "m"', '"unknown"'), "attributes.sex has 0 groups"),
        (LENDING + 'intersections = [["sex", "race"]]\n', "intersections belong in .policy."),
        (LENDING + '[[gate]]\nmetric="auc"\ncompare="min_ratio"\ntolerance=0.8\n', "compared by difference"),
        ('[policy]\nname = "p"\n', "attributes is missing"),
        (
            LENDING.replace('"lending"', '"lending"\nintersections = [["sex", "sex"]]'),
            "'sex|sex' names an attribute twice".replace("|", r"\|"),
        ),
    ],
)
def test_bad_policy_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_policy(text)


def test_an_intersection_with_too_many_groups_is_refused() -> None:
    many = ", ".join(f'"{i}"' for i in range(80))
    text = f'[policy]\nname="p"\nprofile="lending"\nintersections=[["a","b"]]\n[attributes]\na=[{many}]\nb=["x","y"]'
    with pytest.raises(ConfigError, match="has 243 groups; at most 200"):
        parse_policy(text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_policy(tmp_path / "none.toml")


def test_a_profile_gives_gates_to_every_attribute() -> None:
    gates = parse_policy(LENDING).gates
    assert [(g.metric, g.attribute, g.compare, g.tolerance) for g in gates] == [
        ("selection_rate", "sex", "min_ratio", 0.8),
        ("selection_rate", "race", "min_ratio", 0.8),
    ]


def test_unknown_is_always_the_last_group() -> None:
    plan = parse_policy(LENDING.replace('"f", "m"', '"unknown", "f", "m"')).plan
    assert plan.attributes["sex"] == ("f", "m", "unknown")


def test_digest_is_of_the_meaning_not_of_the_layout() -> None:
    policy = parse_policy(LENDING)
    assert policy.digest == parse_policy("# a comment\n" + LENDING).digest
    assert policy.digest == hashlib.sha256(policy.to_json().encode()).hexdigest()
    assert policy.digest != parse_policy(LENDING.replace('"credit"', '"other"')).digest
