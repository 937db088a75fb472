"""A ledger of its own for every test."""

from collections.abc import Callable
from pathlib import Path

import pytest

from foedus.privacy.ledger import Ledger


@pytest.fixture
def open_ledger(tmp_path: Path) -> Callable[..., Ledger]:
    def make(data: str = "d1", *, cap: float = 8.0, unit: str = "patient") -> Ledger:
        return Ledger.open(tmp_path / "ledger", data=data, unit=unit, cap_epsilon=cap, delta=1e-5)

    return make
