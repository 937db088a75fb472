"""The figures a site releases of itself, as they arrived: numbers under known names, or nothing."""

import json
from typing import Any

from foedus.errors import DoorError
from foedus.metrics import SCALARS

COUNTS, MODELS = ("n_train", "n_test"), ("local", "federated", "personal")
LONGEST_KEY, DEEPEST = 64, 8
"""Characters of a name, and lists or tables in each other."""
MOST = 2.0**62


def released_figures(text: str, *, site: str) -> dict[str, Any]:
    """What a site says of itself.

    Args:
        text: JSON, as it came beside the site's reply.
        site: Whose reply it was; figures under another name are refused.

    Raises:
        DoorError: If they are anything but counts and metrics, all finite.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise DoorError("the figures it releases of itself are not valid JSON") from None
    if not isinstance(found, dict) or set(found) != {"site", *COUNTS, *MODELS}:
        raise DoorError("the figures it releases of itself are not those that were asked for")
    if found["site"] != site:
        raise DoorError("the figures it releases are another site's")
    if not all(_is_count(found[key]) for key in COUNTS):
        raise DoorError("the figures it releases of itself have no count of its examples")
    if not all(_is_metrics(found[kind]) for kind in MODELS):
        raise DoorError("the figures it releases of itself are not the metrics of a model")
    return found


def _is_metrics(found: Any) -> bool:
    """Whether they can be shown and averaged; None where the study has no such model."""
    if found is None:
        return True
    if not isinstance(found, dict) or not {"n", *SCALARS} <= set(found):
        return False
    scalars = [found[key] for key in SCALARS]
    return _is_count(found["n"]) and all(map(_is_number, scalars)) and _holds_numbers(found)


def _holds_numbers(found: Any, *, levels: int = DEEPEST) -> bool:
    """Whether nothing but numbers is in there, under plain names."""
    if isinstance(found, dict) and not all(map(_is_plain, found)):
        return False
    inside = found.values() if isinstance(found, dict) else found if isinstance(found, list) else None
    if inside is None:
        return _is_number(found)
    return levels > 0 and all(_holds_numbers(each, levels=levels - 1) for each in inside)


def _is_plain(key: str) -> bool:
    return key.isidentifier() and key.isascii() and len(key) <= LONGEST_KEY


def _is_number(found: Any) -> bool:
    return found is None or (isinstance(found, int | float) and abs(found) < MOST)


def _is_count(found: Any) -> bool:
    return isinstance(found, int) and not isinstance(found, bool) and 0 <= found < 2**50
