"""The order of the files: what takes longest begins first, so that no worker is left alone with it at the end."""

import gc
from collections import Counter

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """By the time a file's tests are allowed, slow before quick, many before few; within a file as written."""
    many = Counter(item.path for item in items)
    needs: dict[object, tuple[float, bool, int]] = {}
    for item in items:
        limit, slow = item.get_closest_marker("timeout"), item.get_closest_marker("slow") is not None
        found = (float(limit.args[0]) if limit else 0.0, slow, many[item.path])
        needs[item.path] = max(found, needs.get(item.path, found))
    items.sort(key=lambda item: needs[item.path], reverse=True)


def pytest_collection_finish() -> None:
    """What is imported by now stays: a full look for garbage, which Flower asks for, need not see it again."""
    gc.freeze()
