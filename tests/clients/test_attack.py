"""A site whose backbone learns tries its own clip, with its own records and its own code."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from clients import per_record
from clients.attack import attack, own, try_clip
from clients.workplace import Workplace
from foedus.errors import AuditError
from foedus.study import parse_study

STUDY = """
[study]
name = "notes"
classes = ["bank", "ship"]
[backbone]
source = "bundled:minilm-l6"
max_tokens = 8
tune = "lora"
[tuning]
blocks = 1
[federation]
rounds = 2
[door]
mode = "local-dp"
epsilon = 8
sampling_rate = 0.5
"""
SITE = """
[site]
name = "east"
[data]
kind = "text"
path = "data.csv"
label = "y"
[policy]
doors = ["local-dp"]
"""


def site(folder: Path, *, records: int = 60) -> Workplace:
    texts = {"bank": ["rates rose", "loan due"], "ship": ["cargo sailed", "sea calm"]}
    rows = [
        {"text": f"{texts[y][i % 2]} {i}", "y": y} for i, y in enumerate(["bank", "ship"] * (records // 2))
    ]
    pd.DataFrame(rows).to_csv(folder / "data.csv", index=False)
    (folder / "site.toml").write_text(SITE)
    return Workplace(folder, parse_study(STUDY))


def _unclipped(gradients: torch.Tensor, clip_norm: float) -> np.ndarray:
    return np.asarray(gradients.double().sum(0).numpy())


def test_the_clip_holds_where_the_backbone_learns(tmp_path: Path) -> None:
    east = site(tmp_path)
    found = try_clip(east, own(east))
    assert found.held
    assert found.tried == 2
    assert 0.9 < found.largest <= 1 + 1e-4
    assert found.unclipped > 100
    audit = attack(east)
    assert audit.clipping == found
    assert audit.verdict in ("pass", "inconclusive")


def test_gradients_that_are_not_clipped_fail_the_audit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    east = site(tmp_path)
    monkeypatch.setattr(per_record, "_clipped", _unclipped)
    audit = attack(east)
    assert audit.verdict == "fail"
    assert "The clip DID NOT HOLD: 2 units" in audit.reason()


def test_a_site_with_too_few_records_cannot_try(tmp_path: Path) -> None:
    east = site(tmp_path, records=8)
    with pytest.raises(AuditError, match="training examples are too few to attack; 10 are needed"):
        try_clip(east, own(east))
