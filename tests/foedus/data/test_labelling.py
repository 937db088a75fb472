"""Several labels in one cell: read, mapped, set aside, split and shown at a site."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from foedus.data import load_site_data
from foedus.data.check import check_site
from foedus.errors import ConfigError, DataError
from foedus.site import SiteConfig
from foedus.study import Study

MakeSite = Callable[[str], SiteConfig]
MakeStudy = Callable[..., Study]
WriteCsv = Callable[..., Path]
SITE = '[data]\nkind = "text"\npath = "data.csv"\nlabel = "topics"\nlabel_separator = ";"\n'
TOPICS = ["grain", "ship", "trade"]
CELLS = ["grain;ship", "", "ship", " trade ; grain;", "ship;ship", "grain"]
ROWS = [["text", "topics"], *([f"report {i}", cell] for i, cell in enumerate(CELLS))]
MATRIX = [[1, 1, 0], [0, 0, 0], [0, 1, 0], [1, 0, 1], [0, 1, 0], [1, 0, 0]]


@pytest.fixture
def topics(make_study: MakeStudy) -> Study:
    """A multilabel study of three topics."""
    study = make_study(TOPICS, door={"mode": "open"})
    return Study.model_validate(
        {**study.model_dump(), "study": {"name": "t", "task": "multilabel", "classes": TOPICS}}
    )


def test_a_cell_holds_any_number_of_labels_and_an_empty_one_none(
    tmp_path: Path, make_site: MakeSite, topics: Study, write_csv: WriteCsv
) -> None:
    write_csv(ROWS)
    data = load_site_data(tmp_path, make_site(SITE), topics)
    assert data.labels.tolist() == MATRIX
    assert data.quarantined == []
    table = pa.table({"text": [row[0] for row in ROWS[1:]], "topics": [cell or None for cell in CELLS]})
    pq.write_table(table, tmp_path / "data.parquet")
    again = load_site_data(tmp_path, make_site(SITE.replace(".csv", ".parquet")), topics)
    assert again.labels.tolist() == MATRIX


def test_labels_are_mapped_and_those_mapped_to_nothing_left_out(
    tmp_path: Path, make_site: MakeSite, topics: Study, write_csv: WriteCsv
) -> None:
    write_csv([["text", "topics"], ["a", "corn;ship;weather"], ["b", "weather"], ["c", "Corn"]])
    site = make_site(SITE + '[data.labels]\ncorn = "grain"\nweather = ""\n')
    data = load_site_data(tmp_path, site, topics)
    assert data.labels.tolist() == [[1, 1, 0], [0, 0, 0]]
    assert [(q.record, q.reason) for q in data.quarantined] == [
        ("row 3", "label is not a class of the study: 'Corn'")
    ]


def test_undeclared_labels_are_named_in_one_sentence(
    tmp_path: Path, make_site: MakeSite, topics: Study, write_csv: WriteCsv, caplog: pytest.LogCaptureFixture
) -> None:
    write_csv([*ROWS, ["x", "grain;gold;oil"], ["y", "oil"]])
    site = make_site(SITE)
    with caplog.at_level(logging.WARNING):
        data = load_site_data(tmp_path, site, topics)
    assert len(data) == 6
    assert (
        "labels that the study does not declare: 'gold', 'oil'; map each to one of its classes" in caplog.text
    )
    [row] = [
        row for row in check_site(tmp_path, topics).rows if row.check == "set aside" and "gold" in row.found
    ]
    assert row.found == "1: label is not a class of the study: 'gold', 'oil' (row 7)"


def test_the_check_counts_each_label_and_the_records_with_none(
    tmp_path: Path, make_site: MakeSite, topics: Study, write_csv: WriteCsv
) -> None:
    write_csv(ROWS)
    make_site(SITE)
    for study in (topics, None):
        [row] = [row for row in check_site(tmp_path, study).rows if row.check == "labels"]
        assert (row.found, row.status) == ("grain 3, ship 3, trade 1; without any 1", "ok")


@pytest.mark.parametrize("several", [True, False])
def test_study_and_site_must_agree_on_how_many_labels_a_record_has(
    tmp_path: Path,
    make_site: MakeSite,
    make_study: MakeStudy,
    topics: Study,
    write_csv: WriteCsv,
    several: bool,
) -> None:
    write_csv(ROWS)
    if several:
        site, study, problem = make_site(SITE.replace('label_separator = ";"\n', "")), topics, "is not set"
    else:
        site, study, problem = make_site(SITE), make_study(TOPICS), "takes one class each; remove it"
    with pytest.raises(DataError, match=problem):
        load_site_data(tmp_path, site, study)


def test_a_folder_per_class_cannot_hold_several_labels(
    tmp_path: Path, make_site: MakeSite, topics: Study, save_png: Callable[..., Path]
) -> None:
    save_png("images/grain/a.png", 0)
    site = make_site('[data]\nkind = "images"\npath = "images"\nlabel_separator = ";"\n')
    with pytest.raises(
        DataError, match=r"a folder per class gives every image one class; list .* in a manifest"
    ):
        load_site_data(tmp_path, site, topics)


def test_a_manifest_of_images_can(
    tmp_path: Path, make_site: MakeSite, topics: Study, save_png: Callable[..., Path], write_csv: WriteCsv
) -> None:
    rows = [[f"images/{i}.png", cell] for i, cell in enumerate(CELLS)]
    for i, row in enumerate(rows):
        save_png(str(row[0]), i)
    write_csv([["path", "topics"], *rows])
    site = make_site(SITE.replace('kind = "text"', 'kind = "images"'))
    assert load_site_data(tmp_path, site, topics).labels.tolist() == MATRIX


def test_a_medmnist_file_of_several_labels_can(tmp_path: Path, make_site: MakeSite, topics: Study) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 4), dtype=np.uint8)
    arrays = {
        f"{part}_{what}": values
        for part in ("train", "val", "test")
        for what, values in (("images", pixels), ("labels", np.array(MATRIX, np.uint8)))
    }
    np.savez(tmp_path / "chest.npz", **arrays)
    named = '[data]\nkind = "images"\npath = "chest.npz"\nlabel_separator = ";"\n'
    named += 'labels = { "0" = "grain", "1" = "ship", "2" = "trade" }\n'
    assert load_site_data(tmp_path, make_site(named), topics).labels.tolist() == MATRIX * 3
    with pytest.raises(DataError, match=r"with \[data\] label_separator"):
        load_site_data(
            tmp_path,
            make_site(named.replace('label_separator = ";"\n', "")),
            topics.model_copy(update={"study": topics.study.model_copy(update={"task": "classification"})}),
        )


@pytest.mark.parametrize("mark", ["", "; ", "a", "1"])
def test_a_separator_is_one_character_that_is_in_no_name(make_site: MakeSite, mark: str) -> None:
    with pytest.raises(ConfigError, match=r"label_separator: expected one character that is no letter"):
        make_site(SITE.replace('";"', f'"{mark}"'))


def test_rare_labels_are_on_every_side_of_the_split_whatever_the_order(
    tmp_path: Path, make_site: MakeSite, topics: Study, write_csv: WriteCsv
) -> None:
    rng = np.random.default_rng(0)
    rows = [[f"text {i}", ";".join(["grain"] * (i % 2) + ["trade"] * (i % 20 == 0))] for i in range(200)]
    sides = []
    for order in (np.arange(200), rng.permutation(200)):
        write_csv([["text", "topics"], *(rows[i] for i in order)])
        data = load_site_data(tmp_path, make_site(SITE), topics)
        assert {side: int(data.labels[data.rows(side)][:, 2].sum()) for side in ("train", "test")} == {
            "train": 6,
            "test": 3,
        }
        sides.append(dict(zip(data.inputs, data.split, strict=True)))
    assert sides[0] == sides[1]
