"""A run's whole model as ONNX: the same scores, nothing altered gets through, the documentation runs."""

import importlib.util
import json
import re
import runpy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from foedus import export as exporting
from foedus import files, simulation
from foedus.assembled import Assembled, Whole, assemble
from foedus.backbones import Standardiser, open_backbone
from foedus.backbones.registry import open_tunable
from foedus.backbones.saving import read_tuned
from foedus.errors import BackboneError, ExportError, FoedusError, RunError
from foedus.export import Figures, export
from foedus.fronts import take
from foedus.onnx_graph import sealed, to_graph
from foedus.runs import AUDIT_FILE, HEAD_FILE, RunFolder

onnxruntime = pytest.importorskip("onnxruntime")
ROOT = Path(__file__).parents[2]
EXPORTED = "model/model.onnx"
STUDY = """
[study]
name = "{name}"
classes = {classes}
[backbone]
source = "{source}"
[federation]
rounds = 1
min_sites = 2
[door]
mode = "open"
"""
COLUMNS = """
[[table.columns]]
name = "year"
kind = "number"
[[table.columns]]
name = "dose"
kind = "number"
[[table.columns]]
name = "ward"
kind = "category"
categories = ["a", "b"]
"""
SITE = '[site]\nname = "{name}"\n[data]\n{data}\n[policy]\ndoors = ["open"]\n'
KINDS = ("the weather was {} on the coast", "the bank {} its interest rate", "the striker {} in the final")
WORDS = ("stormy", "mild", "raised", "held", "scored", "fell", "bright", "cut")


def _site(folder: Path, name: str, data: str) -> Path:
    site = folder / "sites" / name
    site.mkdir(parents=True)
    (site / "site.toml").write_text(SITE.format(name=name, data=data))
    return site


def _run(folder: Path, study: str) -> RunFolder:
    (folder / "study.toml").write_text(study)
    run, _ = simulation.simulate(
        folder / "study.toml", folder / "sites", runs=folder / "runs", reference=False
    )
    return run


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Years have a large mean and a small spread, doses and wards are missing here and there."""
    folder, rng = tmp_path_factory.mktemp("table"), np.random.default_rng(0)
    for name in ("east", "north", "west"):
        site = _site(folder, name, 'kind = "table"\npath = "data.csv"\nlabel = "y"')
        year, dose = 2010 + rng.integers(0, 9, 80), rng.normal(1e-3, 1e-3, 80)
        y = np.where(year + 1000 * dose > 2015, "yes", "no")
        frame = pd.DataFrame({"year": year, "dose": dose, "ward": rng.choice(["a", "b", "c"], 80), "y": y})
        frame.loc[::7, "dose"] = np.nan
        frame.loc[::11, "ward"] = None
        frame.to_csv(site / "data.csv", index=False)
    return _run(folder, STUDY.format(name="table", classes=["no", "yes"], source="tabular") + COLUMNS)


def _digits(folder: Path, tune: str) -> RunFolder:
    """Zeros and ones on the bundled network."""
    digits = load_digits(n_class=2)
    for place, name in enumerate(("east", "north")):
        site = _site(folder, name, 'kind = "images"\npath = "scans"')
        for index in range(place, 60, 2):
            path = site / f"scans/{digits.target[index]}/{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((digits.images[index] * 15).astype(np.uint8)).save(path)
    study = STUDY.format(name="digits", classes=["0", "1"], source="bundled:efficientnet-lite0")
    return _run(
        folder,
        study.replace("[federation]", f'tune = "{tune}"\n[federation]\nstart = "zero"\nlocal_epochs = 5'),
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run on images, exported."""
    run = _digits(tmp_path_factory.mktemp("images"), "head")
    export(run)
    return run


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run on sentences of three kinds, exported."""
    folder = tmp_path_factory.mktemp("texts")
    for name in ("east", "north"):
        site = _site(folder, name, 'kind = "text"\npath = "data.csv"\nlabel = "topic"')
        rows = [
            (f"{kind.format(word)}, {name}", "wbs"[topic])
            for topic, kind in enumerate(KINDS)
            for word in WORDS
        ]
        pd.DataFrame(rows, columns=["text", "topic"]).to_csv(site / "data.csv", index=False)
    run = _run(folder, STUDY.format(name="texts", classes=["w", "b", "s"], source="bundled:minilm-l6"))
    export(run)
    return run


def _ask(path: str | Path, feeds: dict[str, Any]) -> tuple[Any, Any]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    probabilities, scores = session.run(["probabilities", "scores"], feeds)
    return probabilities, scores


def _equal(run: RunFolder, path: str | Path) -> None:
    """ONNX, torch and the way the sites compute agree, one input at a time and seven at once."""
    whole = assemble(run)
    records = whole.front.samples(7, np.random.default_rng(1))
    for rows in (range(1), range(7)):
        some = take(records, rows)
        feeds = whole.front.feeds(some)
        probabilities, scores = _ask(path, feeds)
        _, ours = whole.module(*(torch.from_numpy(array) for array in feeds.values()))
        assert scores.shape == (len(rows), len(whole.study.study.classes))
        assert scores == pytest.approx(ours.numpy(), abs=1e-4)
        assert scores == pytest.approx(whole.scores(some), abs=1e-4)
        assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_a_table_gives_the_same_scores_and_says_what_it_is(table: RunFolder) -> None:
    found = export(table)
    _equal(table, found.path)
    assert found.path == str(table.path / "model/model.onnx")
    assert found.size_bytes == Path(found.path).stat().st_size < 5000
    assert (found.figures.n_checked, found.figures.n_records, found.figures.agree) == (32 + 63, 63, 1)
    assert found.figures.accuracy_before == found.figures.accuracy_after
    about = onnxruntime.InferenceSession(found.path).get_modelmeta().custom_metadata_map
    card = files.read_json(table.path / "model/backbone.json")
    assert json.loads(about["classes"]) == ["no", "yes"]
    assert (about["study"], about["backbone"], about["audit"]) == ("table", "tabular", "none")
    assert (about["backbone_digest"], about["head_sha256"]) == (card["digest"], card["head_sha256"])
    assert json.loads(about["preprocessing"])["columns"][:2] == ["year", "year: missing"]


def test_the_same_run_gives_the_same_file_and_each_is_in_its_log(table: RunFolder, tmp_path: Path) -> None:
    first, elsewhere = export(table), export(table, tmp_path / "new/folder/model.onnx")
    assert Path(first.path).read_bytes() == Path(elsewhere.path).read_bytes()
    logged = [json.loads(line) for line in (table.path / "log.jsonl").read_text().splitlines()]
    assert logged[-1]["event"] == "exported"
    assert logged[-1]["file"] == "model/model.onnx"
    assert logged[-1]["sha256"] == files.sha256_file(Path(first.path))
    table.verify_log()


@pytest.mark.slow
def test_images_give_the_same_scores_and_no_path_of_this_machine(images: RunFolder) -> None:
    path = images.path / EXPORTED
    _equal(images, path)
    content = path.read_bytes()
    for place in (ROOT, Path(torch.__file__).parents[1], images.path):
        assert str(place).encode() not in content


@pytest.mark.slow
def test_texts_give_the_same_scores_whatever_their_length(texts: RunFolder) -> None:
    _equal(texts, texts.path / EXPORTED)
    whole = assemble(texts)
    for some in (["rain"], ["a mild day"] * 6 + ["the bank " * 60]):
        scores = _ask(texts.path / EXPORTED, whole.front.feeds(some))[1]
        assert scores == pytest.approx(whole.scores(some), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["images", "texts"])
def test_8_bit_weights_say_what_they_cost(kind: str, request: pytest.FixtureRequest) -> None:
    run: RunFolder = request.getfixturevalue(kind)
    small = export(run, int8=True)
    assert small.path == str(run.path / "model/model-int8.onnx")
    assert small.size_bytes < 0.5 * (run.path / EXPORTED).stat().st_size
    figures = small.figures
    assert figures.n_checked == figures.n_records > 0
    assert 0 < figures.max_probability_difference < 0.5
    assert 0.99 <= figures.agree <= 1
    assert figures.accuracy_before is not None
    assert figures.accuracy_after is not None
    about = onnxruntime.InferenceSession(small.path).get_modelmeta().custom_metadata_map
    assert (about["precision"], about["study"]) == ("int8", run.study().study.name)


@pytest.mark.slow
def test_a_tuned_backbone_is_exported_as_tuned(tmp_path: Path) -> None:
    run = _digits(tmp_path, "lora")
    found = export(run)
    _equal(run, found.path)
    card = files.read_json(run.path / "model/backbone.json")
    about = onnxruntime.InferenceSession(found.path).get_modelmeta().custom_metadata_map
    assert about["tuned_sha256"] == card["tuned_sha256"]
    whole, study = assemble(run), run.study()
    records = whole.front.samples(4, np.random.default_rng(0))
    features, plain = whole.embedder.embed(records), open_backbone(study.backbone, None).embed(records)
    trained = open_tunable(study.to_json())  # keeps half precision between two blocks
    trained.load(read_tuned(run.path / "model"))
    kept = np.abs(features - trained.embed(trained.path.below(records))).max()
    assert kept < 0.1 * np.abs(features - plain).max()


def _figures(*, agree: float, far: float = 0.0, n_records: int = 300) -> Figures:
    return Figures(max(n_records, 256), n_records, far, far, agree, None, None)


def test_8_bit_weights_that_change_over_1_percent_are_refused_with_the_number() -> None:
    exporting.require_agreement(_figures(agree=0.99))
    with pytest.raises(ExportError, match=r"only 98\.5% of the decisions on 300 test records"):
        exporting.require_agreement(_figures(agree=0.985))
    with pytest.raises(ExportError, match=r"only 50\.0% of the decisions on 256 random inputs"):
        exporting.require_agreement(_figures(agree=0.5, n_records=0))


def test_a_table_has_nothing_that_8_bits_would_make_smaller(table: RunFolder) -> None:
    with pytest.raises(RunError, match=r"leave out --int8"):
        export(table, int8=True)


@pytest.mark.parametrize(
    ("agree", "far"), [(1.0, 2e-4), (0.9, 0.0), (1.0, float("nan"))], ids=["far", "decides otherwise", "NaN"]
)
def test_a_file_that_is_not_the_model_is_refused(agree: float, far: float) -> None:
    exporting.require_equal(_figures(agree=1.0, far=9e-5), largest=3.0)
    with pytest.raises(ExportError, match=r"does not give what the run's own model gives"):
        exporting.require_equal(_figures(agree=agree, far=far), largest=3.0)


def test_large_scores_may_differ_by_a_millionth() -> None:
    exporting.require_equal(_figures(agree=1.0, far=9e-4), largest=1000.0)


def test_a_refused_export_leaves_nothing_behind(
    table: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Assembled, "scores", lambda self, records: np.full((len(records), 2), 0.5, np.float32)
    )
    with pytest.raises(ExportError, match="nothing was written"):
        export(table, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def _altered(run: RunFolder, tmp_path: Path, change: Callable[[RunFolder], None]) -> RunFolder:
    shutil.copytree(run.path, tmp_path / "run")
    copy = RunFolder.open(tmp_path / "run")
    change(copy)
    return copy


def _other_head(run: RunFolder) -> None:
    arrays = files.read_arrays(run.path / HEAD_FILE)
    files.write_arrays(run.path / HEAD_FILE, {**arrays, "bias": arrays["bias"] + 1})


def _other_digest(run: RunFolder) -> None:
    card = files.read_json(run.path / "model/backbone.json")
    files.write_json(run.path / "model/backbone.json", {**card, "digest": "0" * 64})


def _aligned(run: RunFolder) -> None:
    arrays = files.read_arrays(run.path / HEAD_FILE)
    colour = np.eye(len(arrays["feature-mean"]), dtype=np.float32)
    digest = files.write_arrays(run.path / HEAD_FILE, {**arrays, "feature-colour": colour})
    card = files.read_json(run.path / "model/backbone.json")
    files.write_json(run.path / "model/backbone.json", {**card, "head_sha256": digest})


def _unfinished(run: RunFolder) -> None:
    run.set_state("failed")


@pytest.mark.parametrize(
    ("change", "kind", "match"),
    [
        (_other_head, RunError, "its sha256 differs"),
        (_other_digest, BackboneError, "is not the backbone that run 'run' was trained"),
        (_aligned, RunError, "there is no model that stands alone"),
        (_unfinished, RunError, "run 'run' is failed; foedus resume"),
    ],
)
def test_a_run_whose_parts_do_not_belong_together_is_refused(
    table: RunFolder, tmp_path: Path, change: Any, kind: type[FoedusError], match: str
) -> None:
    with pytest.raises(kind, match=match):
        export(_altered(table, tmp_path, change))


def test_a_failed_check_ends_with_exit_code_1_and_not_2(
    table: RunFolder, toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Assembled, "scores", lambda self, records: np.full((len(records), 2), 0.5, np.float32)
    )
    done = toy.foedus("export", str(table.path), "--to", "model.onnx")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("ExportError: the ONNX file does not give")


def test_without_the_sites_random_inputs_are_what_is_checked(table: RunFolder, tmp_path: Path) -> None:
    run = _altered(table, tmp_path, lambda run: run.set_state("finished", sites=str(tmp_path / "gone")))
    found = export(run, tmp_path / "model.onnx").figures
    assert (found.n_checked, found.n_records, found.accuracy_before) == (32, 0, None)


def test_a_missing_extra_is_one_sentence(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name)
    )
    done = toy.foedus("export", "any-run")
    said = "RunError: foedus export needs onnxruntime; run pip install 'foedus[onnx]'.\n"
    assert (done.code, done.out, done.err) == (2, "", said)


def test_the_command_warns_of_an_audit_that_did_not_pass(toy: Any) -> None:
    toy.simulate("--no-reference")
    [run] = toy.finished()
    done = toy.foedus("export", run.name, "--to", "model.onnx", "--json")
    verdict = files.read_json(run / AUDIT_FILE)["verdict"]
    assert verdict != "pass"
    assert done.code == 0
    assert json.loads(done.out)["audit"] == verdict
    assert f"Warning: its audit says {verdict}, and the file is marked audit={verdict}" in done.err
    about = onnxruntime.InferenceSession("model.onnx").get_modelmeta().custom_metadata_map
    assert about["audit"] == verdict


def test_the_verdict_is_that_of_the_head_that_is_exported(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert exporting.verdict(run, "abc") == "none"
    files.write_json(tmp_path / AUDIT_FILE, {"verdict": "fail", "model_digest": "abc"})
    assert exporting.verdict(run, "abc") == "fail"
    assert exporting.verdict(run, "another head") == "none"


def test_a_private_run_s_directions_are_in_the_graph(table: RunFolder, tmp_path: Path) -> None:
    plain = assemble(table)
    dim = len(plain.standardiser.mean)
    rng = np.random.default_rng(3)
    centred = Standardiser(plain.standardiser.mean, plain.standardiser.scale, rng.normal(size=dim) / dim)
    module = Whole(plain.front, centred, plain.head).eval()
    private = replace(plain, standardiser=centred, module=module)
    (tmp_path / "model.onnx").write_bytes(sealed(to_graph(private), {}))
    records = private.front.samples(40, rng)
    feeds = private.front.feeds(records)
    feeds["columns"][0] = private.standardiser.mean  # the mean itself has no direction and stays at 0
    expected = private.head.scores(centred.apply(feeds["columns"]))
    assert _ask(tmp_path / "model.onnx", feeds)[1] == pytest.approx(expected, abs=1e-4)
    assert not np.allclose(expected, plain.head.scores(plain.standardiser.apply(feeds["columns"])), atol=1e-2)


def _examples() -> tuple[str, str]:
    section = (ROOT / "docs/runs.md").read_text().split("## Taking the model elsewhere")[1].split("\n## ")[0]
    served, plain = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    return served, plain


@pytest.mark.slow
def test_the_documented_onnxruntime_example_runs(
    images: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(images.path / EXPORTED, tmp_path)
    record = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(record).save(tmp_path / "scan.png")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "example.py").write_text(_examples()[0])
    found = runpy.run_path("example.py")
    assert found["scores"] == pytest.approx(assemble(images).scores([record]), abs=1e-4)
    assert found["classes"] == ["0", "1"]


def test_the_documented_head_without_foedus_is_the_same(
    table: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = assemble(table)
    records = whole.front.samples(5, np.random.default_rng(0))
    monkeypatch.chdir(table.path)
    np.save("features.npy", whole.embedder.embed(records))
    Path("example.py").write_text(_examples()[1])
    found = runpy.run_path("example.py")
    assert found["scores"].numpy() == pytest.approx(whole.scores(records), abs=1e-4)
