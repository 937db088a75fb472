import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fewshot.adapt import AdaptedHead, adapt
from fewshot.heads import PrototypeClassifier, RidgeHead
from fewshot.open_set import NONE_OF_THESE
from fewshot.support_set import LABELS
from fewshot.whitening import Whitening
from foedus.errors import FewShotError, RunError
from foedus.examples import Examples

NAMES = ["ape", "bee", "cat", "dog"]


def make(seed: int = 0, labels: tuple[int, ...] = (1, 2, 3)) -> Examples:
    rng = np.random.default_rng(seed)
    y = np.repeat(labels, 5)
    return Examples((rng.normal(size=(len(y), 8)) + 2 * rng.normal(size=(4, 8))[y]).astype(np.float32), y)


@pytest.mark.parametrize("method", ["prototypical", "ridge"])
@pytest.mark.parametrize("whiten", [True, False])
def test_saved_and_loaded_head_gives_the_estimators_probabilities(
    tmp_path: Path, method: str, whiten: bool
) -> None:
    support, query = make(), make(5).features
    base = make(9, (0, 1, 2))
    whitening = Whitening().fit(base.features, base.labels) if whiten else None
    adapt(support, method, classes=NAMES, whitening=whitening).save(tmp_path / "head.safetensors")
    head = AdaptedHead.load(tmp_path / "head.safetensors")
    assert head.classes == ("bee", "cat", "dog")
    assert head.cases == (5, 5, 5)
    white = (lambda x: x) if whitening is None else whitening.transform
    oracle = RidgeHead() if method == "ridge" else PrototypeClassifier()
    expected = oracle.fit(white(support.features), support.labels).predict_proba(white(query))
    np.testing.assert_allclose(head.predict_proba(query), expected, atol=1e-4)
    assert head.predict(query) == [NAMES[i + 1] for i in expected.argmax(1)]


@pytest.mark.parametrize("whiten", [True, False])
def test_unstandardised_head_reads_raw_features(whiten: bool) -> None:
    support, base = make(), make(9, (0, 1, 2))
    mean, scale = np.arange(8.0), np.arange(1.0, 9.0)
    whitening = Whitening().fit(base.features, base.labels) if whiten else None
    head = adapt(support, "ridge", classes=NAMES, whitening=whitening)
    raw = (support.features * scale + mean).astype(np.float32)
    np.testing.assert_allclose(
        head.unstandardised(mean, scale).predict_proba(raw), head.predict_proba(support.features), atol=1e-4
    )


@pytest.mark.parametrize("method", ["prototypical", "ridge", "maml"])
def test_saved_head_keeps_its_sets_and_what_it_rejects(tmp_path: Path, method: str) -> None:
    support, query, base = make(), make(5).features, make(9, (0, 1, 2))
    whitening = Whitening().fit(base.features, base.labels)
    fitted = adapt(support, method, classes=NAMES, whitening=whitening)
    fitted.unstandardised(np.zeros(8), np.ones(8)).save(tmp_path / "head")
    head = AdaptedHead.load(tmp_path / "head")
    estimator = RidgeHead().fit(whitening.transform(support.features), support.labels)
    sets = estimator.predict_set(whitening.transform(query), alpha=0.2)
    assert head.predict_set(query, 0.2) == [[NAMES[i + 1] for i in np.flatnonzero(row)] for row in sets]
    strange = estimator.predict(whitening.transform(query), reject=True) == NONE_OF_THESE
    assert [name == NONE_OF_THESE for name in head.predict(query, reject=True)] == strange.tolist()
    assert head.guarantees == fitted.guarantees


@pytest.mark.parametrize("method", ["prototypical", "ridge"])
def test_leave_one_out_count_equals_refitting_without_each_case(method: str) -> None:
    support = make(3)
    head = adapt(support, method, classes=NAMES)
    fixed = {}
    if method == "ridge":
        fixed["penalty"] = RidgeHead().fit(support.features, support.labels).penalty_
    right = 0
    for i in range(len(support)):
        rest = support.take(np.delete(np.arange(len(support)), i))
        if method == "ridge":
            # The penalty is relative to the support's own size, which changes a little without one case.
            whole, part = (((x - x.mean(0)) ** 2).sum() / len(x) for x in (support.features, rest.features))
            oracle = RidgeHead(penalty=fixed["penalty"] * float(whole / part)).fit(rest.features, rest.labels)
        else:
            oracle = PrototypeClassifier().fit(rest.features, rest.labels)
        right += int(oracle.predict(support.features[i : i + 1])[0] == support.labels[i])
    assert head.guarantees.right == right


def test_a_file_without_cases_still_predicts_and_says_what_it_cannot(tmp_path: Path) -> None:
    """As the files of earlier versions."""
    replace(adapt(make(), "ridge", classes=NAMES), support=None).save(tmp_path / "head")
    head = AdaptedHead.load(tmp_path / "head")
    assert len(head.predict(make().features)) == 15
    for ask in (
        lambda: head.predict(make().features, reject=True),
        lambda: head.predict_set(make().features),
    ):
        with pytest.raises(FewShotError, match="saved without its cases; fit it again with them"):
            ask()
    arrays = adapt(make(), "ridge", classes=NAMES).arrays() | {LABELS: np.zeros(15, np.int64)}
    with pytest.raises(FewShotError, match="the cases kept with the head do not fit it"):
        AdaptedHead.from_arrays(arrays, head.about())


def test_only_ridge_is_shrunk_towards_texts() -> None:
    weight = np.random.default_rng(0).normal(size=(4, 8))
    assert adapt(make(), "ridge", classes=NAMES, towards=weight).guarantees.right is not None
    with pytest.raises(FewShotError, match="method is 'prototypical', and only 'ridge' is shrunk"):
        adapt(make(), "prototypical", classes=NAMES, towards=weight)


def test_same_head_same_bytes_and_no_temporary_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        adapt(make(), "ridge", classes=NAMES).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_failed_save_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "head.safetensors"
    adapt(make(), "ridge", classes=NAMES).save(path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError, match="No space left"):
        adapt(make(3), "ridge", classes=NAMES).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_load_refuses_other_files(tmp_path: Path) -> None:
    with pytest.raises(FewShotError, match="does not exist; fit a head with"):
        AdaptedHead.load(tmp_path / "none")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(FewShotError, match="is not a head that Foedus saved"):
        AdaptedHead.load(tmp_path / "text")
    head = adapt(make(), "ridge", classes=NAMES)
    with pytest.raises(FewShotError, match="does not describe a head of format"):
        AdaptedHead.from_arrays(head.arrays(), {**head.about(), "method": "pickle"})
    with pytest.raises(FewShotError, match="weight and bias do not fit 2 classes"):
        AdaptedHead.from_arrays(head.arrays(), {**head.about(), "classes": ["a", "b"]})
    assert json.dumps(head.about())


def test_errors_say_what_was_found() -> None:
    support = make()
    with pytest.raises(FewShotError, match="method is 'rigde'; did you mean 'ridge'"):
        adapt(support, "rigde", classes=NAMES)
    with pytest.raises(FewShotError, match="support set has 1 class, expected at least 2"):
        adapt(make(labels=(2,)), "ridge", classes=NAMES)
    with pytest.raises(FewShotError, match=r"a support label is outside 0\.\.1"):
        adapt(support, "ridge", classes=["ape", "bee"])
    with pytest.raises(FewShotError, match="not finite; remove those examples"):
        adapt(Examples(support.features * np.nan, support.labels), "ridge", classes=NAMES)
    whitening = Whitening().fit(support.features[:, :3], support.labels)
    with pytest.raises(FewShotError, match="features have length 8 but the whitening has 3"):
        adapt(support, "ridge", classes=NAMES, whitening=whitening)
    with pytest.raises(FewShotError, match=r"features have shape \(2, 5\), expected \(n, 8\)"):
        adapt(support, "ridge", classes=NAMES).predict_proba(np.zeros((2, 5), np.float32))


def test_importing_every_module_brings_no_torch_timm_or_learn2learn() -> None:
    code = (
        "import sys, fewshot.adapt, fewshot.evaluate, fewshot.episode_sums, fewshot.prototypical\n"
        "print([m for m in ('torch', 'timm', 'learn2learn', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
