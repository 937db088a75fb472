"""foedus fewshot, on a run and sites of its own: what works, and bad input at each option."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewshot.adapt import AdaptedHead
from fewshot.open_set import NONE_OF_THESE

Toy = Any
"""The class in tests/foedus/conftest.py, which no test can import."""
FEWSHOT = "[fewshot]\nn_way = 2\nn_shot = 1\nn_query = 2\nepisodes = 20\ncurve_shots = [1]\n[door]"


@pytest.fixture
def run(toy: Toy) -> str:
    """Id of a finished run with a few-shot stage."""
    toy.change("[door]", FEWSHOT)
    assert toy.simulate().code == 0
    [path] = toy.finished()
    return str(path.name)


def test_episodes_and_a_head_of_a_site(toy: Toy, run: str) -> None:
    asked = ("--site", "sites/west", "--n-way", "2", "--n-shot", "1", "--json")
    done = toy.foedus("fewshot", "evaluate", run, *asked)
    assert done.code == 0
    assert json.loads(done.out)["accuracy"] > 0.6
    done = toy.foedus("fewshot", "fit", run, "--site", "sites/west", "--out", "heads/west.safetensors")
    assert done.code == 0
    head = AdaptedHead.load(Path("heads/west.safetensors"))
    assert head.classes == ("no", "yes")
    assert "For each class by itself 90 % takes 9 cases" in " ".join(done.out.split())
    assert "keep it here" in " ".join(done.out.split())
    a, b = np.random.default_rng(9).normal(size=(2, 40))
    present = np.zeros(40)  # each number is followed by whether it is missing
    raw = np.stack([a, present, b, present], axis=1).astype(np.float32)
    truth = np.where(a > b, "yes", "no")
    assert (
        np.mean([name in found for name, found in zip(truth, head.predict_set(raw, 0.1), strict=True)]) > 0.8
    )
    assert head.predict(np.full((1, 4), 1e6, np.float32), reject=True) in (["no"], ["yes"], [NONE_OF_THESE])


def test_a_head_is_registered_with_a_service(toy: Toy, run: str) -> None:
    asked = ("fewshot", "fit", run, "--support", "sites/west", "--register", "heads")
    assert toy.foedus(*asked, "--name", "ward").code == 0
    assert AdaptedHead.load(Path("heads/ward.safetensors")).classes == ("no", "yes")
    assert toy.foedus(*asked, "--name", "../ward").code == 2
    assert toy.foedus(*asked[:-2]).code == 2


def test_a_head_saved_without_its_cases(toy: Toy, run: str) -> None:
    asked = ("--site", "sites/west", "--out", "head", "--no-keep-cases", "--json")
    done = toy.foedus("fewshot", "fit", run, *asked)
    found = json.loads(done.out)
    assert (found["keeps_cases"], found["guarantees"]["right"] is None) == (False, False)
    assert AdaptedHead.load(Path("head")).support is None


def test_methods_are_compared_on_the_same_episodes(toy: Toy, run: str) -> None:
    asked = ("--site", "sites/west", "--n-way", "2", "--n-shot", "2", "--episodes", "60")
    done = toy.foedus("fewshot", "compare", run, *asked, "--methods", "ridge,prototypical", "--json")
    found = json.loads(done.out)
    names = [row["method"] for row in found["methods"]]
    assert names == ["prototypical", "ridge", "ridge, not whitened"]
    assert len(found["paired"]) == 2
    assert all(row["accuracy"] <= 0 for row in found["paired"])
    table = toy.foedus("fewshot", "compare", run, *asked).out
    assert "best" in table
    assert "60 episodes are few" in table


TEXTS = {
    "grain": ["wheat harvest rose", "corn exports fell", "barley crop and maize", "soybean fields, farmers"],
    "money": ["the dollar weakened", "yen and sterling", "central bank rate cut", "currency traders sold"],
}


def test_heads_of_text_start_from_the_names_of_the_classes(toy: Toy) -> None:
    columns = (
        '[[table.columns]]\nname = "a"\nkind = "number"\n[[table.columns]]\nname = "b"\nkind = "number"\n'
    )
    toy.change(columns, "")
    toy.change('source = "tabular"', 'source = "bundled:minilm-l6"')
    toy.change('classes = ["no", "yes"]', 'classes = ["grain", "money"]')
    toy.change("[door]", FEWSHOT)
    toy.change("rounds = 2", "rounds = 1")
    toy.change('[fairness]\npolicy = "policy.toml"\n', "")
    for name in ("east", "north", "west"):
        site = toy.site(name)
        text = (site / "site.toml").read_text()
        text = text.replace('kind = "table"', 'kind = "text"\ntext = "text"').partition("[groups.sex]")[0]
        (site / "site.toml").write_text(text)
        lines = [f"{i},{label},{words} {i}" for i in range(15) for label, (*_, words) in _said(i).items()]
        (site / "data.csv").write_text("id,y,text\n" + "\n".join(lines) + "\n")
    done = toy.simulate("--no-reference")
    assert done.code == 0, done.err
    [path] = toy.finished()
    asked = ("--site", "sites/west", "--n-way", "2", "--n-shot", "1", "--n-query", "2", "--episodes", "40")
    found = json.loads(toy.foedus("fewshot", "compare", path.name, *asked, "--json").out)
    accuracy = {row["method"]: row["accuracy"] for row in found["methods"]}
    assert accuracy["ridge towards names"] > 0.9
    done = toy.foedus("fewshot", "fit", path.name, "--site", "sites/west", "--out", "head", "--names")
    assert done.code == 0
    assert AdaptedHead.load(Path("head")).classes == ("grain", "money")


def _said(i: int) -> dict[str, list[str]]:
    return {label: [words[i % len(words)].replace(",", "")] for label, words in TEXTS.items()}


@pytest.mark.parametrize(
    ("command", "options", "code", "sentence"),
    [
        (
            "evaluate",
            "--n-way 5",
            2,
            "n_way is 5 but the data have 2 classes with at least 20 examples; lower n_way",
        ),
        (
            "evaluate",
            "--n-way 2 --n-shot 99",
            2,
            "0 classes with at least 114 examples; lower n_way or add examples",
        ),
        ("evaluate", "--episodes 1", 2, "1 is not in the range x>=2"),
        (
            "evaluate",
            "--classes yes,yes",
            2,
            "--classes has 1 problem:\n  - classes: repeated: yes; name each once",
        ),
        ("evaluate", "--classes yes,,no", 2, "classes: a name is blank; write it or remove it"),
        ("evaluate", "--classes yes", 2, "classes: list should have at least 2 items"),
        ("evaluate", "--method mamml", 2, "'mamml' is not one of 'prototypical', 'ridge'"),
        (
            "evaluate",
            "--site sites/south",
            2,
            "sites/south/site.toml has 1 problem:\n  - the file does not exist",
        ),
        (
            "fit",
            "--classes yes,no,perhaps",
            2,
            "site 'west' has no example of perhaps; add some, correct the name",
        ),
        (
            "fit",
            "--classes yes,perhaps",
            2,
            "the support set has 1 class, expected at least 2; add labelled examples",
        ),
        ("fit", "--out study.toml/head", 2, "could not be written (File exists)"),
        ("fit", "--names", 2, "backbone 'tabular' reads no text; leave --names out"),
        ("compare", "--methods ridge,knn", 2, "--methods has 1 problem:\n  - 'knn' is unknown; valid here"),
        ("fit", "--out sites", 2, "could not be written (Is a directory)"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(
    toy: Toy, run: str, command: str, options: str, code: int, sentence: str
) -> None:
    before = sorted(toy.folder.rglob("*"))
    given = ["--site", "sites/west"] + (["--out", "head.safetensors"] if command == "fit" else [])
    done = toy.foedus("fewshot", command, run, *given, *options.split())
    assert done.code == code
    assert " ".join(sentence.split()) in " ".join(done.err.replace("│", " ").split())
    assert sorted(toy.folder.rglob("*")) == before


def test_a_run_without_a_few_shot_stage_is_refused(toy: Toy) -> None:
    assert toy.simulate().code == 0
    [path] = toy.finished()
    done = toy.foedus("fewshot", "evaluate", path.name, "--site", "sites/west")
    assert done.code == 2
    assert "has no few-shot stage; add [fewshot] to its study and run it again" in done.err


def test_too_few_examples_of_the_novel_classes_end_the_run_with_what_they_take(toy: Toy) -> None:
    toy.change("[door]", FEWSHOT.replace("n_query = 2", "n_query = 40"))
    done = toy.simulate()
    assert done.code == 1
    assert "RoundError: 2-way 1-shot episodes (prototypical): 0 of 3 sites answered" in done.err
    assert "west: the site has too few classes or examples for the episodes asked for" in done.err
    assert (
        "A site needs 2 classes with 41 test examples each for these; a new run can ask for less" in done.err
    )
    assert not toy.finished()
    listed = toy.foedus("list", "--json")
    assert json.loads(listed.out)[0]["status"] == "failed"


def test_a_registered_head_is_audited_and_approved(toy: Toy, run: str) -> None:
    strict = Path("policy.toml").read_text()
    alone = (
        '\n[evidence]\nmin_sites = 1\ninconclusive = "waive_with_signature"\n[disclosure]\nmin_sites = 1\n'
    )
    Path("heads.toml").write_text(strict + alone)
    place = ("--support", "sites/west", "--register", "heads", "--name", "ward")
    assert toy.foedus("fewshot", "fit", run, *place, "--hold-out-test").code == 0
    refused = toy.foedus("fewshot", "audit", run, *place)
    assert refused.code == 2
    assert "asks for 3 sites behind a figure" in " ".join(refused.err.split())
    done = toy.foedus("fewshot", "audit", run, *place, "--policy", "heads.toml")
    assert done.code == 0
    assert "toy.ward: " in done.out
    assert "foedus approve heads/ward.safetensors" in done.out
    assert toy.foedus("auditor", "init", "--name", "jane").code == 0
    approve = ("approve", "heads/ward.safetensors", "--key", "auditor/jane.key")
    assert "tpr:sex: inconclusive" in toy.foedus(*approve).err
    assert toy.foedus(*approve, "--waive", "tpr:sex=few cases; read one by one").code == 0
    assert Path("heads/ward.audit/approval.json").exists()
