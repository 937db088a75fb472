"""study.toml and site.toml: strict, all problems at once, the nearest valid key."""

from pathlib import Path

import pytest

from foedus.errors import ConfigError
from foedus.site import find_sites, load_site
from foedus.study import load_study, parse_study, study_from_json

MINIMAL = '[study]\nname = "x"\nclasses = ["a", "b"]\n'


def test_all_problems_are_reported_together_with_the_nearest_key() -> None:
    text = """
    [study]
    name = "x"
    clases = ["a"]
    classes = ["a", "b"]
    [federation]
    round = 3
    rounds = "3"
    [backbone]
    tune = "deep"
    """
    with pytest.raises(ConfigError) as caught:
        parse_study(text)
    message = str(caught.value)
    assert "study has 4 problems" in message
    assert "study.clases is not a known key; did you mean 'classes'?" in message
    assert "federation.round is not a known key; did you mean 'rounds'?" in message
    assert "federation.rounds: input should be a valid integer (found '3')" in message
    assert "backbone.tune: input should be 'head', 'lora', 'last-blocks' or 'full'" in message


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (
            "[federation]\nrounds = -1",
            r"federation.rounds: input should be greater than or equal to 0 \(found -1\)",
        ),
        ("[federation]\nstrategy = 'fedavgg'", "federation.strategy: input should be 'fedavg'"),
        ("[fewshot]\nn_way = 2\nmethods = ['ridge', 'ridge']", "fewshot.methods: repeated: ridge; name each"),
        ("[fewshot]\nn_way = 2\nnovel_classes = ['a', 'a']", "fewshot.novel_classes: repeated: a; name each"),
        ("[fewshot]\nn_way = 2\nnew_sites = ['n', 'n']", "fewshot.new_sites: repeated: n; name each once"),
        (
            "[fewshot]\nn_way = 2\nnew_sites = ['']",
            "fewshot.new_sites: a name is blank; write it or remove it",
        ),
        ("[fewshot]\nn_way = 2\ncurve_shots = [1, 1]", "fewshot.curve_shots: repeated: 1; name each once"),
        (
            "[fewshot]\nn_way = 2\ncurve_shots = [0]",
            r"fewshot.curve_shots.0: .* than or equal to 1 \(found 0\)",
        ),
        (
            "[fewshot]\nn_way = 2\nepisodes = 1",
            r"fewshot.episodes: .* greater than or equal to 2 \(found 1\)",
        ),
        (
            "[[table.columns]]\nname = 'a'\nkind = 'number'\n" * 2,
            "table.columns: repeated: a; name each once",
        ),
        (
            "[[table.columns]]\nname = 's'\nkind = 'category'\ncategories = ['f', 'm', 'f']",
            "table.columns.0.categories: repeated: f; name each once",
        ),
        ("[federation]\nlr = -1", "federation.lr: input should be greater than 0"),
        ("[fewshot]\nn_way = 5", "fewshot.n_way is 5 but there are 2 classes to draw from; lower n_way"),
        (
            "[fewshot]\nn_way = 2\nnovel_classes = ['c']",
            "fewshot.novel_classes: 'c' is not one of the classes",
        ),
        ("[backbone]\nsource = 'tabular'", r"there is no \[\[table.columns\]\]; declare the columns"),
        ("[backbone]\nimage_size = 50", "backbone.image_size"),
        ("[[table.columns]]\nname = 'age'\nkind = 'number'\nrange = [9, 1]", "low must be below high"),
        (
            "[[table.columns]]\nname = 'sex'\nkind = 'category'",
            "column 'sex' is a category; list its categories",
        ),
    ],
)
def test_a_bad_value_is_named_by_its_key(more: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_study(MINIMAL + more)


def test_repeated_classes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"study\.classes: repeated: a; name each once"):
        parse_study('[study]\nname = "x"\nclasses = ["a", "a"]')


def test_a_study_survives_the_wire() -> None:
    study = parse_study(MINIMAL + '[fewshot]\nn_way = 2\n[door]\nmode = "open"\n')
    assert study_from_json(study.to_json()) == study


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"study": 3}', '{"study": {"name": "../x", "classes": ["a", "b"]}}']
)
def test_a_study_from_the_wire_is_checked_like_a_file(text: str) -> None:
    with pytest.raises(ConfigError, match="the study received"):
        study_from_json(text)


def test_a_missing_or_unreadable_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the file does not exist; check the path"):
        load_study(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes('name = "Zürich"'.encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_study(tmp_path / "latin.toml")
    (tmp_path / "bad.toml").write_text("[study")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_study(tmp_path / "bad.toml")


def test_a_site_file_names_its_nearest_section(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('[site]\nname = "a"\n[date]\nkind = "table"\npath = "x.csv"\n')
    with pytest.raises(ConfigError, match=r"date is not a known key; did you mean 'data'?"):
        load_site(tmp_path)


def test_bands_need_one_name_more_than_edges(tmp_path: Path) -> None:
    text = '[site]\nname="a"\n[data]\nkind="table"\npath="x.csv"\n'
    text += '[groups.age]\ncolumn="age"\nedges=[50]\nbands=["old"]\n'
    (tmp_path / "site.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"groups.age: 1 edges make 2 bands; found 1"):
        load_site(tmp_path)


def test_a_folder_without_sites_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no sub-folder holds a site.toml"):
        find_sites(tmp_path)
