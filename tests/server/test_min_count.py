"""Sums of features over too few examples are not made, not sent where they would be seen, and not read."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from clients.app import app as client_app
from clients.statistics import FEATURE_SUMS, KNOWN
from clients.workplace import open_workplace
from fewshot.prototypical import CLASS_SUM, PrototypeSums
from fewshot.ridge import CLASS_COUNT, GRAM, MIN_COUNT, RidgeSums
from foedus import records, simulation
from foedus.backbones import Moments
from foedus.backbones.moments import COUNT
from foedus.errors import RoundError
from foedus.runs import RunFolder
from foedus.site import find_sites
from foedus.statistic import Arrays
from foedus.study import load_study
from foedus.sums import lacking
from server.local_grid import LocalGrid


def _rows(site: Path, labels: list[str]) -> None:
    """Give a site exactly these training records."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, len(labels)))
    frame = pd.DataFrame({"id": range(len(labels)), "a": a, "b": b, "y": labels, "part": "train", "sex": "f"})
    frame.to_csv(site / "data.csv", index=False)
    file = site / "site.toml"
    file.write_text(file.read_text().replace("[policy]", '[split]\ncolumn = "part"\n[policy]'))


def _run(toy: Path) -> RunFolder:
    run, _ = simulation.simulate(toy / "study.toml", toy / "sites", runs=toy / "runs", reference=False)
    return run


def _ask(toy: Path, site: Path, statistic: str, **settings: Any) -> Message:
    config = {
        records.STUDY: load_study(toy / "study.toml").to_json(),
        records.RUN: "r",
        records.STATISTIC: statistic,
        records.SETTINGS: json.dumps(settings),
        records.SPLIT: "train",
    }
    content = RecordDict({records.CONFIG: ConfigRecord(dict(config))})
    message = Message(content, dst_node_id=1000, message_type=records.QUERY_STATISTIC)
    [reply] = LocalGrid(client_app, [site]).send_and_receive([message])
    return reply


def _sums(reply: Message) -> Arrays:
    assert not reply.has_error(), reply.error.reason
    return records.from_record(reply.content[records.ARRAYS])


@pytest.mark.parametrize(
    ("counts", "fewest"), [([0, 0], 0), ([1, 3], MIN_COUNT), ([0, 4], MIN_COUNT), ([2, 3], 0), ([90, 1], 0)]
)
def test_what_a_total_lacks_follows_from_its_own_count(counts: list[int], fewest: int) -> None:
    quantities = PrototypeSums(2, 3).declare()
    assert lacking({CLASS_SUM: np.zeros((2, 3)), CLASS_COUNT: np.array(counts)}, quantities) == fewest


def test_examples_of_features_are_counted_by_the_feature_most_have() -> None:
    moments = Moments(dim=2)
    assert lacking({COUNT: np.array([4, 1])}, moments.declare()) == 5
    assert lacking({COUNT: np.array([5, 1])}, moments.declare()) == 0


def test_an_open_site_with_too_few_examples_keeps_them_and_the_study_goes_on(toy: Path) -> None:
    _rows(toy / "sites/west", ["yes", "no", "yes", "no"])
    run = _run(toy)
    for line in run.rounds():
        assert line["answered"] == 3
        [rejected] = line["rejected"]
        assert rejected["site"] == "west"
        assert "stands for fewer than 5 examples and would be seen by itself" in rejected["reason"]


def test_a_coordinator_cannot_ask_for_sums_over_fewer(toy: Path) -> None:
    site = toy / "sites/west"
    _rows(site, ["yes", "no", "yes"])
    for name in ("ridge", "prototypes"):
        reply = _ask(toy, site, name, n_classes=2, dim=4, classes=[], min_count=0)
        assert reply.has_error()
        assert "fewer than 5 examples" in (reply.error.reason or "")


def test_a_total_over_too_few_examples_is_not_read_under_masks(toy: Path) -> None:
    study = toy / "study.toml"
    study.write_text(study.read_text().replace('mode = "open"', 'mode = "secure-only"'))
    for site in find_sites(toy / "sites"):
        _rows(site, ["yes"])
        file = site / "site.toml"
        file.write_text(file.read_text().replace('doors = ["open"]', 'doors = ["secure-only"]'))
    with pytest.raises(RoundError, match=re.escape("fewer than 5 examples of all sites together are behind")):
        _run(toy)


def test_a_site_leaves_its_rare_classes_out_of_every_sum_of_features(toy: Path) -> None:
    site = toy / "sites/west"
    _rows(site, ["no"] * 7 + ["yes"] * 2)
    settings = {"n_classes": 2, "dim": 4, "classes": [], "min_count": 5}
    both = _sums(_ask(toy, site, "prototypes", **settings))
    assert both[CLASS_COUNT].tolist() == [7, 2]

    file = site / "site.toml"
    file.write_text(file.read_text().replace("[policy]", "[policy]\nmin_class_count = 3"))
    open_workplace.cache_clear()
    kept = _sums(_ask(toy, site, "prototypes", **settings))
    assert kept[CLASS_COUNT].tolist() == [7, 0]
    assert not kept[CLASS_SUM][1].any()
    np.testing.assert_array_equal(kept[CLASS_SUM][0], both[CLASS_SUM][0])
    gram = _sums(_ask(toy, site, "ridge", **settings))[GRAM]
    assert gram[-1, -1] * RidgeSums(n_classes=2, dim=4).declare()[GRAM].resolution == 7
    moments = _ask(toy, site, "moments", dim=4)
    assert _sums(moments)[COUNT].max() == 7


def test_feature_sums_are_statistics_a_site_answers() -> None:
    assert {RidgeSums.name, PrototypeSums.name, Moments.name} <= FEATURE_SUMS
    assert KNOWN.keys() >= FEATURE_SUMS
