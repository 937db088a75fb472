import csv
import dataclasses
import hashlib
from collections import Counter
from pathlib import Path

import pytest

from foedus.demos import newswire, prepare
from foedus.demos.newswire import BANKS, TOPICS, read, sample
from foedus.site import find_sites, load_site
from foedus.study import load_study


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files in the form of the real ones: 100 training and 40 test documents of each topic."""
    folder = tmp_path / "cache" / "newswire"
    folder.mkdir(parents=True)
    digests = {}
    for file, n in zip(newswire.PACKAGE.files, (100, 40), strict=True):
        side = Path(file).stem
        lines = ["Category\tText", "d\tstring", "class\t"]
        lines += [f"{topic}\t{topic} says {side} {i} reuter " for topic in TOPICS for i in range(n)]
        lines += ["earn\tthe same on both sides reuter", "earn\tthe same  on both sides reuter", ""]
        (folder / Path(file).name).write_text("\n".join(lines) + "\n")
        digests[file] = hashlib.sha256((folder / Path(file).name).read_bytes()).hexdigest()
    monkeypatch.setattr(newswire, "PACKAGE", dataclasses.replace(newswire.PACKAGE, files=digests))
    return folder.parent


def test_documents_are_divided_among_the_banks_once(tmp_path: Path, cache: Path) -> None:
    prepared = prepare("newswire", tmp_path, cache=cache)
    assert load_study(prepared.study_path).study.classes == list(TOPICS)
    sites = {load_site(folder).site.name for folder in find_sites(prepared.sites_path)}
    assert sites == set(BANKS)
    rows = []
    for bank in BANKS:
        with (prepared.sites_path / bank / "documents.csv").open(newline="") as file:
            rows += list(csv.DictReader(file))
    texts = [row["text"] for row in rows]
    assert len(set(texts)) == len(texts)
    assert all(
        ("-test" in text) == (row["split"] == "test")
        for row, text in zip(rows, texts, strict=True)
        if text != "the same on both sides reuter"
    )
    sides = Counter(row["split"] for row in rows)
    assert sides["train"] + sides["validation"] == 801
    assert sides["test"] == 320
    assert 60 <= sides["validation"] <= 100


def test_read_drops_repeats_and_what_was_seen_before(cache: Path) -> None:
    train, test = (cache / "newswire" / Path(file).name for file in newswire.PACKAGE.files)
    assert len(read(train, besides=set())["earn"]) == 101
    assert len(read(test, besides={"the same on both sides reuter"})["earn"]) == 40


def test_sample_keeps_proportions_but_spares_small_topics() -> None:
    documents = {"earn": [f"e{i}" for i in range(900)], "grain": [f"g{i}" for i in range(100)]}
    drawn = sample(documents, 100, at_least=40, seed=0)
    assert {topic: len(texts) for topic, texts in drawn.items()} == {"earn": 90, "grain": 40}
    assert sample(documents, 100, at_least=40, seed=0) == drawn
    assert len(set(drawn["grain"])) == 40
