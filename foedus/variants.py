"""A study with other values: what a trial runs, what the winner's file says, what a private search leaves."""

import json
import math
import tomllib
from collections.abc import Mapping
from typing import Any

from foedus.budget import TEST, plan, search_releases
from foedus.errors import ConfigError
from foedus.privacy.accountant import Gaussian, epsilon
from foedus.rewriting import with_values, without_section
from foedus.runs import POLICY_FILE
from foedus.search import Drawn, SearchSection, Values, draw
from foedus.study import Study, parse_study, study_from_json


def trial_study(study: Study, search: SearchSection, values: Values, *, number: int, rounds: int) -> Study:
    """The study that a trial runs, with as many rounds as its rung.

    A trial shows what so many rounds come to, so patience does not apply.

    Raises:
        ConfigError: If the values do not go together.
    """
    section = {**search.model_dump(mode="json"), "trial": number} if study.door.private else None
    more = {"federation.rounds": rounds, "federation.patience": None}
    return changed(study, {**values, **more}, search=section, fewshot=None, fairness=None)


def changed(study: Study, values: Mapping[str, Any], **sections: Any) -> Study:
    """The study with other values, by their keys, and other whole sections.

    Raises:
        ConfigError: If that is no valid study.
    """
    fields = study.model_dump(mode="json")
    for key, value in values.items():
        section, _, name = key.partition(".")
        fields[section][name] = value
    return study_from_json(json.dumps({**fields, **sections}))


def drawn_trials(study: Study, section: SearchSection) -> Drawn:
    """The configurations to try: each gives a valid study, and none is drawn twice.

    Raises:
        ConfigError: If the space does not hold enough of them.
    """

    def refusal(values: Values) -> str | None:
        try:
            changed(study, values, search=None)
        except ConfigError as error:
            return "; ".join(error.problems)
        return None

    return draw(section, seed=study.study.seed, private=study.door.private, refusal=refusal)


def rewrite(text: str, study: Study, values: Values, *, budget: dict[str, float] | None) -> str:
    """The text of a study file with other values and without [search]; the rest as it was written.

    Args:
        text: Of the study file.
        study: What it says.
        values: The new ones.
        budget: Of a private search: its `left` becomes the study's epsilon.

    Raises:
        ConfigError: If the file is written in a way that cannot be edited line by line.
    """
    changes: dict[str, Any] = dict(values)
    if budget is not None:
        changes["door.epsilon"] = budget["left"]
    if study.fairness is not None:
        changes["fairness.policy"] = POLICY_FILE
    found = with_values(without_section(text, "search"), changes)
    try:
        if parse_study(found) == changed(study, changes, search=None):
            return found
    except (tomllib.TOMLDecodeError, ConfigError):
        pass
    raise ConfigError(
        "tune",
        [
            "the study file cannot be edited in place; write its sections as [section], with one line for each key"
        ],
    )


def budget_of(study: Study, search: SearchSection) -> dict[str, float]:
    """Epsilon of the whole search, what it leaves to the study itself (rounded down), and of both together."""
    trial = trial_study(study, search, {}, number=1, rounds=search.rounds)
    spent = Gaussian(plan(trial).multiplier(TEST), steps=search_releases(study, search))
    rest = plan(changed(study, {}, search={**search.model_dump(mode="json"), "trial": None}))
    delta = study.door.delta
    left = _down(epsilon([Gaussian(rest.multiplier(name)) for name in rest.shares], delta))
    own = plan(changed(study, {"door.epsilon": left}, search=None))
    together = epsilon([spent, *(Gaussian(own.multiplier(name)) for name in own.shares)], delta)
    return {
        "asked": study.door.epsilon,
        "search": epsilon([spent], delta),
        "left": left,
        "together": together,
    }


def _down(value: float) -> float:
    """Rounded down to four digits."""
    step = 10.0 ** (math.floor(math.log10(value)) - 3)
    return float(f"{math.floor(value / step * (1 - 1e-9)) * step:.4g}")
