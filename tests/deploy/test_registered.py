"""A site's own head: unaudited until it was audited on rows it has not seen and approved; one byte takes it back."""

import csv
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.bundle import Bundle
from deploy.models import Models
from deploy.served import Served, load
from fairness.registered import Registered
from fewshot.adapt import AdaptedHead
from foedus import files
from foedus.adaptation import fit
from foedus.errors import ApprovalError, AuditError, ConfigError, FewShotError
from foedus.head_audit import audit_head
from foedus.releasing import release
from foedus.runs import RunFolder

Made = Any
STUDY = """
[study]
name = "toy"
classes = ["no", "yes"]
[backbone]
source = "tabular"
[federation]
rounds = 0
min_sites = 1
[door]
mode = "open"
[fewshot]
n_way = 2
n_shot = 1
n_query = 2
episodes = 4
curve_shots = [1]
[fairness]
policy = "policy.toml"
[[table.columns]]
name = "a"
kind = "number"
[[table.columns]]
name = "b"
kind = "number"
[[table.columns]]
name = "c"
kind = "number"
[[table.columns]]
name = "d"
kind = "number"
"""


def row(values: list[float], i: int) -> dict[str, str]:
    numbers = {name: f"{value:.3f}" for name, value in zip("abcd", values, strict=True)}
    return {**numbers, "y": "yes" if values[0] > values[1] else "no", "sex": "fm"[i % 2]}


@pytest.fixture(scope="module")
def few(make_approved: Callable[..., Made], tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A study with a few-shot stage, approved."""
    values = np.random.default_rng(0).normal(size=(400, 4))
    rows = [row(each, i) for i, each in enumerate(values.tolist())]
    return make_approved(tmp_path_factory.mktemp("few"), STUDY, {"ward": rows}, kind='kind = "table"')


@pytest.fixture(scope="module")
def bundle(few: Made) -> Bundle:
    return release(few.run, few.hub, keys=[few.jane.public], to=few.folder / "releases")


@pytest.fixture(scope="module")
def served(bundle: Bundle, few: Made) -> Served:
    return load(bundle.path, few.keys)


@pytest.fixture
def site(few: Made, tmp_path: Path) -> Path:
    return Path(shutil.copytree(few.folder / "sites/ward", tmp_path / "ward"))


@pytest.fixture
def head(bundle: Bundle, site: Path, tmp_path: Path) -> Path:
    """Fitted on everything but the test rows, and registered."""
    out = tmp_path / "heads/ward.safetensors"
    fit(RunFolder(bundle.path), site, classes=None, method="ridge", out=out, hold_out_test=True)
    return out


@pytest.fixture
def models(served: Served, few: Made, tmp_path: Path) -> Models:
    return Models(lambda now: served, heads=tmp_path / "heads", keys=few.keys)


def audited(models: Models) -> bool:
    models.refresh()
    return models.get("toy.ward", "").answerer.audited


def test_fit_audit_approve_and_the_head_counts_as_audited(
    bundle: Bundle, site: Path, head: Path, models: Models, served: Served, few: Made
) -> None:
    assert not audited(models)
    report = audit_head(RunFolder(bundle.path), site, head, policy=None)
    assert (report.study, report.verdict, report.n) == ("toy.ward", "pass", 100)
    assert report.model_digest == files.sha256_file(head)
    assert not audited(models)  # nobody has approved it
    Registered(head).approve(few.jane)
    assert audited(models)
    model = models.get("toy.ward", "")
    rows = np.array([[0.9, 0, -0.9, 0, 0, 0, 0, 0], [-0.9, 0, 0.9, 0, 0, 0, 0, 0]], np.float32)
    assert model.answerer.answer(rows).labels == ["yes", "no"]
    spoilt = bytearray(head.read_bytes())
    spoilt[-1] ^= 1
    head.write_bytes(bytes(spoilt))
    assert not audited(models)
    with pytest.raises(ApprovalError, match="its audit is of another head; the file was changed"):
        Registered(head).approve(few.jane)


@pytest.mark.parametrize("name", ["audit.json", "policy.toml", "backbone.json", "approval.json"])
def test_a_byte_changed_beside_the_head_takes_it_back(
    bundle: Bundle, site: Path, head: Path, models: Models, few: Made, name: str
) -> None:
    audit_head(RunFolder(bundle.path), site, head, policy=None)
    Registered(head).approve(few.jane)
    assert audited(models)
    path = Registered(head).folder / name
    path.write_bytes(path.read_bytes() + b" ")
    assert not audited(models)


def test_a_head_that_fails_its_audit_stays_unaudited(
    bundle: Bundle, site: Path, head: Path, models: Models, few: Made, tmp_path: Path
) -> None:
    data = site / "data.csv"
    rows = list(csv.DictReader(data.open()))
    for each in rows:  # the labels of women's test rows are the other way round
        if each["sex"] == "f":
            each["y"] = "no" if each["y"] == "yes" else "yes"
    with data.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    strict = tmp_path / "strict.toml"
    text = (bundle.path / "policy.toml").read_text()
    strict.write_text(text.replace("tolerance = 0.9", "tolerance = 0.1"))
    report = audit_head(RunFolder(bundle.path), site, head, policy=strict)
    assert report.verdict == "fail"
    with pytest.raises(ApprovalError, match="its audit failed"):
        Registered(head).approve(few.jane)
    assert not audited(models)


def test_only_rows_that_the_head_has_not_seen_audit_it(bundle: Bundle, site: Path, tmp_path: Path) -> None:
    run, out = RunFolder(bundle.path), tmp_path / "heads/ward.safetensors"
    fit(run, site, classes=None, method="ridge", out=out)
    with pytest.raises(AuditError, match=r"all 400 labelled rows .* --hold-out-test"):
        audit_head(run, site, out, policy=None)
    fit(run, site, classes=None, method="ridge", out=out, keep_cases=False)
    with pytest.raises(FewShotError, match="saved without its cases"):
        audit_head(run, site, out, policy=None)


def test_who_may_approve_and_for_how_long(
    bundle: Bundle, site: Path, head: Path, few: Made, new_signer: Callable[..., Any]
) -> None:
    audit_head(RunFolder(bundle.path), site, head, policy=None)
    found, other = Registered(head), new_signer("eve", "auditor")
    with pytest.raises(ApprovalError, match="asks for the signature of: auditor; this key is a nurse's"):
        found.approve(new_signer("ann", "nurse"))
    digest, backbone = (
        files.sha256_file(head),
        bundle.manifest.files["model/backbone.json"].sha256,
    )
    found.approve(other)

    def problems(**more: Any) -> list[str]:
        asked = {"backbone_sha256": backbone, "keys": [few.jane.public], **more}
        return found.problems(digest, **asked)

    assert "whose key is not among those given" in problems()[0]
    assert problems(keys=[other.public]) == []
    assert "no auditor's public key was given" in problems(keys=[])[0]
    assert problems(keys=[other.public], backbone_sha256="0" * 64) == [
        "it was audited on another version of the model"
    ]
    assert "expired on" in problems(keys=[other.public], today=date(2999, 1, 1))[0]
    assert "fit a head" not in problems(keys=[other.public])


def test_another_policy_after_the_audit_takes_a_waiver(
    bundle: Bundle, site: Path, head: Path, few: Made, tmp_path: Path
) -> None:
    run, softer = RunFolder(bundle.path), tmp_path / "softer.toml"
    audit_head(run, site, head, policy=None)
    softer.write_text((bundle.path / "policy.toml").read_text().replace("0.9", "0.95"))
    audit_head(run, site, head, policy=softer)
    with pytest.raises(ApprovalError, match="not the one that was fixed before the evaluation"):
        Registered(head).approve(few.jane)
    Registered(head).approve(few.jane, waive={"policy": "looked at together"})
    many = tmp_path / "many.toml"
    many.write_text(softer.read_text().replace("min_sites = 1", "min_sites = 3"))
    with pytest.raises(ConfigError, match="asks for 3 sites behind a figure"):
        audit_head(run, site, head, policy=many)


def test_a_missing_audit_says_what_to_do(head: Path, few: Made) -> None:
    with pytest.raises(ApprovalError, match="has no audit; see foedus fewshot audit --register"):
        Registered(head).approve(few.jane)
    assert AdaptedHead.load(head).classes == ("no", "yes")
