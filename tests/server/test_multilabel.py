"""Several labels a record, end to end: what rest tells of three findings, at four real hospitals."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import f1_score, hamming_loss, multilabel_confusion_matrix, roc_auc_score

from clients.workplace import Workplace
from fairness.audit import audit_request, subject
from fairness.policy import load_policy
from fairness.signing import create_key, load_signer
from foedus import adaptation, files, planning, ranking, simulation
from foedus.assembled import assemble
from foedus.backbones import Standardiser
from foedus.cli.studies import show
from foedus.demos import heart
from foedus.demos.heart.findings import LABELS, write_sites
from foedus.errors import AuditError, ConfigError, ReleaseError, RunError
from foedus.export import export
from foedus.head import LinearHead
from foedus.labels import Labels
from foedus.mitigating import mitigate
from foedus.releasing import release
from foedus.runs import SERVING_FILE, RunFolder
from foedus.study import parse_study

STUDY = """
[study]
name = "findings"
task = "multilabel"
classes = ["disease", "angina", "st-depression"]
positive = "disease"
[backbone]
source = "tabular"
personal = "head"
[federation]
rounds = 3
lr = 0.05
batch_size = 32
min_sites = 3
[door]
mode = "secure-only"
[fairness]
policy = "policy.toml"
[[table.columns]]
name = "age"
kind = "number"
[[table.columns]]
name = "sex"
kind = "category"
categories = ["Female", "Male"]
[[table.columns]]
name = "cp"
kind = "category"
categories = ["asymptomatic", "atypical angina", "non-anginal", "typical angina"]
[[table.columns]]
name = "trestbps"
kind = "number"
missing = [0]
[[table.columns]]
name = "chol"
kind = "number"
missing = [0]
[[table.columns]]
name = "restecg"
kind = "category"
categories = ["lv hypertrophy", "normal", "st-t abnormality"]
"""
POLICY = """
[policy]
name = "findings"
[attributes]
sex = ["female", "male"]
[[gate]]
metric = "tpr"
compare = "max_difference"
tolerance = 0.2
"""
SAME = ("model/head.safetensors", "audit.json", "results.json")


def write_hospitals(folder: Path) -> Path:
    """study.toml, policy.toml and the four hospitals."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.toml").write_text(STUDY)
    (folder / "policy.toml").write_text(POLICY)
    write_sites(folder / "sites", seed=0)
    for toml in folder.glob("sites/*/site.toml"):
        toml.write_text(toml.read_text().replace('doors = ["open"]', 'doors = ["open", "secure-only"]'))
    return folder


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hospitals(tmp_path_factory.mktemp("findings"))


@pytest.fixture(scope="module")
def run(hospitals: Path) -> RunFolder:
    return simulation.simulate(hospitals / "study.toml", hospitals / "sites", runs=hospitals / "runs")[0]


@pytest.fixture(scope="module")
def results(run: RunFolder) -> dict[str, Any]:
    return dict(json.loads((run.path / "results.json").read_text()))


def test_the_federation_does_better_than_each_hospital_alone(results: dict[str, Any]) -> None:
    models, mean = results["models"], results["mean"]
    for where in (models, mean):
        assert where["federated"]["auc"] > where["local"]["auc"]
        assert where["federated"]["log_loss"] < where["local"]["log_loss"]
        assert where["personal"]["macro_f1"] >= where["local"]["macro_f1"]
        assert where["personal"]["hamming_loss"] <= where["local"]["hamming_loss"]
    assert mean["federated"]["macro_f1"] >= mean["local"]["macro_f1"]
    assert models["federated"]["auc"] == pytest.approx(models["pooled"]["auc"], abs=0.01)
    assert results["task"] == "multilabel"
    assert results["classes"] == LABELS


def _at_the_hospitals(run: RunFolder, sites: Path, only: str = "*") -> tuple[Labels, NDArray[np.float32]]:
    """Labels of the test patients, and the run's scores on them."""
    arrays = files.read_arrays(run.path / "model/head.safetensors")
    head, standardiser = LinearHead.from_arrays(arrays), Standardiser.from_arrays(arrays)
    places = [Workplace(folder, run.study()) for folder in sorted(sites.glob(only))]
    tests = [site.examples("test", standardiser=standardiser) for site in places]
    scores = np.concatenate([head.scores(test.features) for test in tests])
    return np.concatenate([test.labels for test in tests]), scores


def test_the_federations_figures_are_those_of_the_rows_at_the_hospitals(
    run: RunFolder, results: dict[str, Any], hospitals: Path
) -> None:
    truth, scores = _at_the_hospitals(run, hospitals / "sites")
    found = results["models"]["federated"]
    assert found["n"] == len(truth)
    assert found["confusion"] == multilabel_confusion_matrix(truth, scores > 0).tolist()
    assert found["accuracy"] == pytest.approx((truth == (scores > 0)).all(axis=1).mean())
    assert found["hamming_loss"] == pytest.approx(hamming_loss(truth, scores > 0))
    assert found["micro_f1"] == pytest.approx(f1_score(truth, scores > 0, average="micro"))
    assert found["macro_f1"] == pytest.approx(f1_score(truth, scores > 0, average="macro"))
    assert found["auc"] == pytest.approx(roc_auc_score(truth, scores), abs=0.01)  # from histograms
    truth, scores = _at_the_hospitals(run, hospitals / "sites", only="hungary")
    [own] = [site["federated"] for site in results["sites"] if site["site"] == "hungary"]
    assert own["auc"] == pytest.approx(roc_auc_score(truth, scores))


def test_the_audit_is_of_the_label_that_the_study_names(run: RunFolder, results: dict[str, Any]) -> None:
    audit = json.loads((run.path / "audit.json").read_text())
    [[tn, fp], [fn, tp]] = results["models"]["federated"]["confusion"][0]
    assert audit["classes"] == ["not disease", "disease"]
    assert audit["positive"] == "disease"
    assert (audit["n"], audit["positives"]) == (tn + fp + fn + tp, fn + tp)
    assert audit["overall"]["tpr"]["value"] == pytest.approx(tp / (tp + fn))
    assert audit["overall"]["fpr"]["value"] == pytest.approx(fp / (fp + tn))
    report = (run.path / "report.html").read_text()
    [note] = audit["notes"]
    assert note.endswith("'disease' alone; nothing is said of angina, st-depression.")
    assert "of the label 'disease' alone" in (run.path / "model/README.md").read_text()
    for text in ("st-depression", "Hamming loss", "Missed", "nothing is said of angina"):
        assert text in report


def test_the_command_prints_every_label_and_all_of_it_as_json(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    show(run.path, as_json=False)
    printed = capsys.readouterr().out
    for text in ("all labels right", "macro f1", "st-depression", "Hamming loss"):
        assert text in printed
    show(run.path, as_json=True)
    assert json.loads(capsys.readouterr().out)["results"]["models"]["federated"]["micro_f1"] > 0.6


def test_a_run_resumed_after_a_round_ends_with_the_same_bytes(
    run: RunFolder, hospitals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = RunFolder.checkpoint

    def stop_after(self: RunFolder, number: int, *args: Any, **kwargs: Any) -> None:
        keep(self, number, *args, **kwargs)
        if number == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "checkpoint", stop_after)
    with pytest.raises(KeyboardInterrupt):
        simulation.simulate(hospitals / "study.toml", hospitals / "sites", runs=hospitals / "stopped")
    monkeypatch.undo()
    [path] = (hospitals / "stopped").iterdir()
    simulation.resume(RunFolder.open(path))
    for name in SAME:
        assert (path / name).read_bytes() == (run.path / name).read_bytes(), name


def test_a_gate_on_another_label_is_refused_with_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(POLICY + 'positive = "angina"\n')
    seen = subject(parse_study(STUDY), LinearHead.zeros(3, 2))
    policy, edges = load_policy(tmp_path / "policy.toml"), np.zeros(1)
    with pytest.raises(AuditError, match=r"angina.*not disease, disease"):
        audit_request(policy, head=seen.head, positive=seen.positive, edges=edges, classes=seen.classes)


@pytest.mark.slow
def test_onnx_gives_each_label_a_probability_by_itself(run: RunFolder, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    found = export(run, tmp_path / "model.onnx")
    assert found.figures.max_abs_difference < 1e-4
    assert found.figures.agree == 1.0
    assert found.figures.n_records > 0
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    whole = assemble(run)
    probabilities, scores = session.run(
        None, whole.front.feeds(whole.front.samples(5, np.random.default_rng(0)))
    )
    assert probabilities == pytest.approx(1 / (1 + np.exp(-scores)), abs=1e-6)
    assert session.get_modelmeta().custom_metadata_map["task"] == "multilabel"


def test_what_takes_one_class_says_so_in_one_sentence(
    run: RunFolder, hospitals: Path, tmp_path: Path
) -> None:
    with pytest.raises(AuditError, match=r"the study is multilabel; mitigation looks at two classes"):
        mitigate(run)
    with pytest.raises(RunError, match=r"is multilabel; few-shot heads take one class a record"):
        adaptation.evaluate(
            run, hospitals, classes=None, method="ridge", n_way=2, n_shot=1, n_query=1, episodes=2
        )
    with pytest.raises(ConfigError, match=r"LogME and H-score take one class a record"):
        ranking.rank(hospitals / "study.toml", hospitals / "sites")
    assert not (run.path / SERVING_FILE).exists()
    create_key(tmp_path, name="hub", role="coordinator", passphrase=None)
    with pytest.raises(
        ReleaseError, match=r"a model of several labels a record is not served; foedus export"
    ):
        release(run, load_signer(tmp_path / "hub.key", passphrase=str), keys=[], to=tmp_path)


PRIVATE = {
    'mode = "secure-only"': 'mode = "secure+ddp"\nepsilon = 8.0',
    "rounds = 3\nlr = 0.05": "rounds = 2\nlr = 1.0",
    'name = "age"\nkind = "number"': 'name = "age"\nkind = "number"\nrange = [18, 100]',
    'name = "trestbps"\nkind = "number"': 'name = "trestbps"\nkind = "number"\nrange = [50, 260]',
    'name = "chol"\nkind = "number"': 'name = "chol"\nkind = "number"\nrange = [80, 700]',
}


def test_a_private_run_keeps_its_clip_and_claim_and_learns(hospitals: Path, tmp_path: Path) -> None:
    text = STUDY
    for old, new in PRIVATE.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "study.toml").write_text(text)
    (tmp_path / "policy.toml").write_text(POLICY)
    shutil.copytree(hospitals / "sites", tmp_path / "sites")
    for toml in tmp_path.glob("sites/*/site.toml"):
        toml.write_text(toml.read_text().replace('"secure-only"]', '"secure+ddp"]'))
    run, outcome = simulation.simulate(tmp_path / "study.toml", tmp_path / "sites", runs=tmp_path / "runs")
    attacked, found = outcome.results["privacy"]["attack"], outcome.results["models"]["federated"]
    assert attacked["within_claim"]
    assert attacked["clipping_held"]
    assert outcome.results["privacy"]["at_site"]["site"] in dict(heart.HOSPITALS).values()
    assert found["accuracy"] is None  # a noisy count for each label, none of whole records
    assert found["micro_f1"] is not None
    assert len(found["confusion"]) == 3
    assert outcome.audit is not None
    assert outcome.audit.classes == ["not disease", "disease"]
    truth, scores = _at_the_hospitals(run, tmp_path / "sites")
    assert roc_auc_score(truth, scores) > 0.7
    show(run.path, as_json=False)


def test_the_plan_knows_what_is_sent(hospitals: Path) -> None:
    found = planning.estimate(hospitals / "study.toml", hospitals / "sites")
    assert {e.what for e in found.exchanges} >= {"ridge sums", "validating a round", "audit"}
    assert "histograms of the service" not in {e.what for e in found.exchanges}
