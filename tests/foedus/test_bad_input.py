"""Bad input at the command line: one clear sentence, the right exit code, no traceback, nothing half-done.

Everything goes through `foedus` itself, on real folders (conftest.py). Sites whose answers are broken are
in tests/server/test_simulation.py, commands after a run in cli/.
"""

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from foedus import files

Toy = Any
"""The class in conftest.py, which no test can import."""
Row = dict[str, str]
COLUMNS = '[[table.columns]]\nname = "a"\nkind = "number"\n[[table.columns]]\nname = "b"\nkind = "number"\n'
NO_ATTRIBUTE = '[groups.sex]\ncolumn = "sex"\nvalues = { f = "f", m = "m" }\n'


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("rounds = 2", "round = 2", "federation.round is not a known key; did you mean 'rounds'?"),
        ("rounds = 2", 'rounds = "2"', "federation.rounds: input should be a valid integer (found '2')"),
        (
            "rounds = 2",
            "rounds = -1",
            "federation.rounds: input should be greater than or equal to 0 (found -1)",
        ),
        ("[door]", "[door", "study.toml has 1 problem:\n  - the file is not valid TOML"),
        ('"yes"]', '"yes", "no"]', "study.classes: repeated: no; name each once"),
        ('name = "b"', 'name = "a"', "table.columns: repeated: a; name each once"),
        (
            "[door]",
            "[fewshot]\nn_way = 3\n[door]",
            "fewshot.n_way is 3 but there are 2 classes to draw from; lower n_way or add classes",
        ),
        (
            "[door]",
            "[fewshot]\nn_way = 2\nnovel_classes = ['no']\n[door]",
            "fewshot.n_way is 2 but there are 1 classes to draw from; lower n_way or add classes",
        ),
        (
            '"policy.toml"',
            '"polcy.toml"',
            "polcy.toml has 1 problem:\n  - the file does not exist; check the path",
        ),
    ],
)
def test_a_study_that_cannot_be_is_refused_before_a_run_begins(
    toy: Toy, old: str, new: str, sentence: str
) -> None:
    toy.change(old, new)
    done = toy.simulate()
    assert done.code == 2
    assert sentence in done.err
    assert not (toy.folder / "runs").exists()


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("bundeld:minilm-l6", "backbone.source 'bundeld:minilm-l6' is not known; did you mean 'bundled'?"),
        ("bundled:minilm-l12", "'bundled:minilm-l12' is not bundled; did you mean 'minilm-l6'?"),
    ],
)
def test_an_unknown_backbone_is_one_error_not_a_refusal_by_every_site(
    toy: Toy, source: str, sentence: str
) -> None:
    toy.change('source = "tabular"', f'source = "{source}"')
    toy.change(COLUMNS, "")
    done = toy.simulate()
    assert done.code == 2
    assert f"BackboneError: {sentence}" in done.err
    assert "does not count" not in done.err
    assert not toy.finished()


def _ids_on_two_sides(toy: Toy) -> None:
    toy.change("[policy]", '[split]\ncolumn = "part"\n[policy]', file="sites/west/site.toml")
    parts = ("train", "test")
    toy.spoil(
        "west", lambda rows: [{**row, "id": str(i // 2), "part": parts[i % 2]} for i, row in enumerate(rows)]
    )


def _latin_1(toy: Toy) -> None:
    path = toy.site("west") / "data.csv"
    path.write_bytes(path.read_bytes().replace(b"yes", b"s\xed"))


@pytest.mark.parametrize(
    ("spoil", "line", "sentence"),
    [
        (
            lambda toy: toy.spoil("west", lambda rows: []),
            "records",
            "site 'west' has no records; 'data.csv' is empty",
        ),
        (_ids_on_two_sides, "leakage", "30 units in more than one split: 0, 1, 10, 11, 12 and 25 more"),
        (_latin_1, "data", "'data.csv' is not UTF-8 text: byte"),
        (
            lambda toy: toy.spoil(
                "west", lambda rows: [{"id": row["id"], **row, "y": "perhaps"} for row in rows]
            ),
            "records",
            "none of the 60 records of site 'west' can be used (60: label is not a class of the study)",
        ),
        (
            lambda toy: toy.spoil(
                "west", lambda rows: [{k: row[k] for k in ("id", "a", "b", "y")} for row in rows]
            ),
            "data",
            "[groups.sex] column asks for column 'sex', which 'data.csv' does not have; valid here: id, a, b, y",
        ),
    ],
    ids=["empty", "ids on two sides", "not UTF-8", "no label of the study", "no such attribute"],
)
def test_a_site_that_cannot_take_part_is_told_why_and_the_others_go_on(
    toy: Toy, spoil: Any, line: str, sentence: str
) -> None:
    spoil(toy)
    code, lines = toy.check("west")
    [found] = lines[line]
    assert (code, found["status"]) == (1, "fail")
    assert sentence in found["found"]
    assert found["how_to_fix"]
    done = toy.simulate()
    assert done.code == 0
    assert "site 'west'" in done.err
    assert "does not count: the site's data cannot be read or do not fit the study" in done.err
    results = toy.results()
    assert [site["site"] for site in results["sites"]] == ["east", "north"]
    assert len(results["refused"]) == 1


def test_a_single_class_site_takes_part_with_sane_heads_and_undefined_metrics_as_null(toy: Toy) -> None:
    toy.spoil("west", lambda rows: [row for row in rows if row["y"] == "yes"])
    code, lines = toy.check("west")
    assert code == 0
    assert [found["status"] for found in lines["classes"]] == ["warn", "warn"]
    assert "only one: yes" in lines["classes"][0]["found"]
    assert toy.simulate("--held-out").code == 0
    west = toy.results_of("west")
    for kind in ("local", "personal", "federated"):
        assert west[kind]["auc"] is None
        assert west[kind]["log_loss"] < 1
    assert west["local"]["accuracy"] == west["personal"]["accuracy"] == 1.0
    assert toy.results()["held_out"][2]["auc"] is None


def test_a_class_that_a_site_lacks_is_a_warning_there_and_learnt_from_the_others(toy: Toy) -> None:
    toy.change('"yes"]', '"yes", "maybe"]')
    toy.change('name = "toy"', 'name = "toy"\n[disclosure]\nk = 1\nmin_sites = 1', file="policy.toml")
    for site in ("east", "north"):
        toy.spoil(site, lambda rows: [{**row, "y": "maybe"} if float(row["a"]) > 1 else row for row in rows])
    code, lines = toy.check("west")
    assert (code, lines["classes"][1]["found"], lines["classes"][1]["status"]) == (0, "none of maybe", "warn")
    assert toy.simulate().code == 0
    assert toy.results()["models"]["federated"]["accuracy"] > 0.7
    west = toy.results_of("west")
    assert west["local"]["accuracy"] > 0.8
    assert west["personal"]["log_loss"] < west["federated"]["log_loss"]


def test_a_label_that_is_not_in_the_study_sets_its_record_aside(toy: Toy) -> None:
    toy.spoil("west", lambda rows: [{**rows[0], "y": "perhaps"}, *rows[1:]])
    code, lines = toy.check("west")
    assert code == 0
    assert lines["set aside"][0]["found"] == "1: label is not a class of the study: 'perhaps' (row 1)"
    done = toy.simulate()
    assert done.code == 0
    assert "1 of 60 records set aside: label is not a class of the study" in done.err
    assert "perhaps" not in done.err
    assert toy.results_of("west")["n_train"] + toy.results_of("west")["n_test"] < 60


def test_an_attribute_that_a_site_does_not_declare_is_unknown_there_and_no_gate_passes(toy: Toy) -> None:
    toy.change(NO_ATTRIBUTE, "", file="sites/west/site.toml")
    toy.change('name = "toy"', 'name = "toy"\n[disclosure]\nk = 1\nmin_sites = 1', file="policy.toml")
    code, lines = toy.check("west")
    assert (code, lines["groups"][0]["status"]) == (0, "warn")
    assert lines["groups"][0]["found"] == "none, but the study is audited: everyone here counts as unknown"
    done = toy.simulate()
    assert done.code == 0
    assert "INCONCLUSIVE" in done.out
    assert "sex is unknown for more than 5% of the people" in " ".join(done.out.split())


def test_missing_and_infinite_cells_are_told_and_poison_no_sum(toy: Toy) -> None:
    def spoil(rows: list[Row], cell: str) -> list[Row]:
        return [{**row, "a": "", "b": cell if i % 9 == 0 else row["b"]} for i, row in enumerate(rows)]

    heads = []
    for cell in ("", "inf", "-inf", "nan", "1e308", "n/a"):
        toy.spoil("west", lambda rows, cell=cell: spoil(rows, cell))
        code, lines = toy.check("west")
        assert (code, lines["column a"][0]["found"]) == (0, "no usable value: 60 empty")
        assert lines["column a"][0]["status"] == "warn"
        assert toy.simulate("--runs", f"runs-{cell.replace('/', '')}").code == 0
        [head] = (toy.folder / f"runs-{cell.replace('/', '')}").glob("*/model/head.safetensors")
        arrays = files.read_arrays(head)
        assert all(np.isfinite(array).all() for array in arrays.values()), cell
        heads.append(head.read_bytes())
    assert len(set(heads)) == 1


def test_a_disk_that_is_full_fails_the_run_in_one_sentence_and_it_resumes(toy: Toy) -> None:
    """A file-size limit makes the kernel refuse the write half-way, as a full disk does."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    command = [Path(sys.executable).with_name("foedus"), "simulate", "study.toml", "--sites", "sites"]
    done = subprocess.run(
        command, cwd=toy.folder, preexec_fn=limit, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "could not be written (File too large); what was there before is intact. Free some" in done.stderr
    assert "Traceback" not in done.stderr
    assert not toy.finished()
    [run] = (path.parent for path in toy.folder.glob("runs/*/run.json"))
    assert toy.foedus("resume", run.name).code == 0
    assert toy.results()["rounds"] == 2


def test_unreadable_images_are_named_and_a_site_of_nothing_else_is_refused(toy: Toy) -> None:
    west = _images(toy, "west", broken=1)
    code, lines = toy.check("west")
    assert (code, lines["set aside"][0]["status"]) == (0, "warn")
    assert lines["set aside"][0]["found"] == "1: image is damaged or cut off (no/0.png)"
    for path in west.glob("scans/*/*.png"):
        path.write_bytes(b"hello")
    code, lines = toy.check("west")
    assert code == 1
    assert (
        "none of the 16 records of site 'west' can be used (16: not an image" in lines["records"][0]["found"]
    )


@pytest.mark.slow
def test_a_site_with_an_unreadable_image_takes_part_without_it(toy: Toy) -> None:
    for site in ("east", "north", "west"):
        _images(toy, site, broken=site == "west")
    done = toy.simulate()
    assert done.code == 0
    assert "1 of 16 records set aside: image is damaged or cut off" in done.err
    assert toy.results()["refused"] == []
    sizes = [toy.results_of(site)["n_train"] + toy.results_of(site)["n_test"] for site in ("east", "west")]
    assert sizes[1] < sizes[0]


def _images(toy: Toy, site: str, *, broken: int) -> Path:
    """Make the study one of images, and give a site 8 of each class; the first ones are cut off."""
    if COLUMNS in (toy.folder / "study.toml").read_text():
        toy.change(COLUMNS, "")
        toy.change('source = "tabular"', 'source = "bundled:efficientnet-lite0"')
        toy.change('[fairness]\npolicy = "policy.toml"\n', "")
    folder: Path = toy.site(site)
    (folder / "site.toml").write_text(
        f'[site]\nname = "{site}"\n[data]\nkind = "images"\npath = "scans"\n'
        '[policy]\ndoors = ["open"]\nrelease_site_metrics = true\n'
    )
    rng = np.random.default_rng(len(site))
    for label, level in (("no", 0), ("yes", 155)):
        (folder / "scans" / label).mkdir(parents=True)
        for i in range(8):
            path = folder / "scans" / label / f"{i}.png"
            Image.fromarray(rng.integers(level, level + 100, (32, 32, 3), dtype=np.uint8)).save(path)
            if label == "no" and i < broken:
                path.write_bytes(path.read_bytes()[:60])
    return folder
