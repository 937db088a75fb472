"""`foedus export`: a finished run's whole model as one ONNX file, checked against the run's own scores."""

import importlib.util
import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from foedus import __version__, files
from foedus.data import load_site_data
from foedus.errors import ExportError, FoedusError, RunError
from foedus.labels import Labels, decided, several
from foedus.runs import AUDIT_FILE, RunFolder
from foedus.site import find_sites, load_site

if TYPE_CHECKING:
    from foedus.assembled import Assembled
    from foedus.fronts import Records

log = logging.getLogger(__name__)

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
TOLERANCE = 1e-4
"""Largest difference between equal scores; a millionth of the largest score where that is above 100."""
AGREE = 0.99
"""Least share of decisions that 8-bit weights must leave as they were."""
SAMPLES = {"float32": 32, "int8": 256}
"""Random inputs both models are asked about."""
TEST_RECORDS = {"float32": 64, "int8": 512}
"""Most test records both models are asked about, where the run's sites are here."""
BATCH = 16
"""Inputs at once, after a first one by itself: any number must do."""

Precision = Literal["float32", "int8"]
Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Figures:
    """How an exported model compares with the run's own; 8-bit weights on test records alone, if there are any.

    Attributes:
        n_checked: Inputs both were asked about.
        n_records: How many of them are test records of the run's sites; the others are random.
        max_abs_difference: Of the scores.
        max_probability_difference: Of the class probabilities.
        agree: Share of the same decisions.
        accuracy_before: Of the run's own model on the test records; None where there are none.
        accuracy_after: Of the exported model.
    """

    n_checked: int
    n_records: int
    max_abs_difference: float
    max_probability_difference: float
    agree: float
    accuracy_before: float | None
    accuracy_after: float | None


@dataclass(frozen=True)
class Exported:
    """A written file.

    Attributes:
        path: Where it is.
        size_bytes: Its size.
        precision: Of the backbone's weights.
        audit: The run's verdict: "pass", "fail", "inconclusive", or "none".
        figures: What the check found.
    """

    path: str
    size_bytes: int
    precision: Precision
    audit: str
    figures: Figures


def export(run: RunFolder, to: Path | None = None, *, int8: bool = False) -> Exported:
    """Write the whole model of `run` to `to`, after it has given what the run's own model gives.

    Args:
        run: A finished run.
        to: The file; model/model.onnx (with int8 model/model-int8.onnx) in the run folder when None.
        int8: Keep the backbone's weights in 8 bits: a quarter of the size, and other scores.

    Raises:
        RunError: If ONNX is not installed or the run has no whole model.
        ExportError: If the check says no; `to` is then as it was.
        BackboneError: If the run's backbone is not on this machine.
    """
    require_packages()
    from foedus.assembled import assemble
    from foedus.onnx_graph import quantised, sealed, to_graph

    precision: Precision = "int8" if int8 else "float32"
    whole = assemble(run)
    if int8 and whole.embedder.spec.modality == "table":
        raise RunError("a table's model has no network whose weights could be smaller; leave out --int8.")
    inputs, labels = _inputs(run, whole, precision)
    expected = [whole.scores(part) for part in inputs]
    graph, about = to_graph(whole), metadata(run, whole)
    content = sealed(graph, {**about, "precision": "float32"})
    figures = compare(np.concatenate(expected), _answers(whole, content, inputs), labels)
    require_equal(figures, largest=max(float(np.abs(part).max()) for part in expected))
    if int8:
        real = slice(1 if len(inputs) > 1 else 0, None)
        content = sealed(quantised(graph), {**about, "precision": "int8"})
        figures = compare(np.concatenate(expected[real]), _answers(whole, content, inputs[real]), labels)
        require_agreement(figures)
    to = to or run.path / "model" / ("model-int8.onnx" if int8 else "model.onnx")
    _write(run, to, content, precision=precision)
    return Exported(str(to), len(content), precision, about["audit"], figures)


def require_packages() -> None:
    """Raise RunError if ONNX is not installed."""
    if lacking := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise RunError(f"foedus export needs {', '.join(lacking)}; run pip install 'foedus[onnx]'.")


def verdict(run: RunFolder, head_sha256: str) -> str:
    """The audit's verdict on the run's head; "none" where no audit, or one of another head, is there."""
    if not (run.path / AUDIT_FILE).exists():
        return "none"
    audit = files.read_json(run.path / AUDIT_FILE)
    return str(audit["verdict"]) if audit.get("model_digest") == head_sha256 else "none"


def metadata(run: RunFolder, whole: "Assembled") -> dict[str, str]:
    """What the file says about itself (metadata_props); lists and settings as JSON."""
    spec, study = whole.embedder.spec, whole.study
    return {
        "study": study.study.name,
        "classes": json.dumps(study.study.classes, ensure_ascii=False),
        **({"task": "multilabel"} if study.multilabel else {}),
        "positive": study.study.classes[study.positive_index],
        "backbone": spec.source,
        "backbone_digest": spec.digest,
        "head_sha256": str(whole.card["head_sha256"]),
        **({"tuned_sha256": str(whole.card["tuned_sha256"])} if "tuned_sha256" in whole.card else {}),
        "preprocessing": json.dumps(spec.preprocessing, ensure_ascii=False, sort_keys=True),
        "audit": verdict(run, str(whole.card["head_sha256"])),
        "foedus": __version__,
    }


def compare(expected: Scores, found: tuple[Scores, Scores], labels: NDArray[np.int64]) -> Figures:
    """How far an exported model is from the run's own.

    Args:
        expected: (n, n_classes), the run's own scores.
        found: The exported model's probabilities and scores, each (n, n_classes).
        labels: (n_records,), of the last inputs; the others are random and have none. Or (n_records,
            n_labels), see foedus.labels.
    """
    probabilities, scores = found
    if several(labels):
        chosen, before, wanted = decided(scores), decided(expected), expit(expected)
    else:
        chosen, before, wanted = scores.argmax(axis=1), expected.argmax(axis=1), softmax(expected, axis=1)
    n = len(labels)
    return Figures(
        n_checked=len(expected),
        n_records=n,
        max_abs_difference=float(np.abs(scores - expected).max()),
        max_probability_difference=float(np.abs(probabilities - wanted).max()),
        agree=float((chosen == before).mean()),
        accuracy_before=_right(before[-n:], labels) if n else None,
        accuracy_after=_right(chosen[-n:], labels) if n else None,
    )


def _right(answers: NDArray[np.generic], labels: Labels) -> float:
    """The share of records answered right, in every label."""
    return float((answers == labels).reshape(len(labels), -1).all(axis=1).mean())


def require_equal(figures: Figures, *, largest: float) -> None:
    """Refuse a file that is not the run's model.

    Raises:
        ExportError: With what was found.
    """
    allowed = TOLERANCE * max(1.0, largest / 100)
    far = max(figures.max_abs_difference, figures.max_probability_difference)
    if not (far <= allowed and figures.agree == 1):
        found = (
            "not a number" if math.isnan(far) else f"{far:.1e} away, same decisions on {figures.agree:.2%}"
        )
        raise ExportError(
            f"the ONNX file does not give what the run's own model gives ({found} of {figures.n_checked} inputs; "
            f"at most {allowed:.0e} is allowed), so nothing was written; this backbone cannot be exported."
        )


def require_agreement(figures: Figures) -> None:
    """Refuse 8-bit weights that decide otherwise too often.

    Raises:
        ExportError: With the share of same decisions.
    """
    if not figures.agree >= AGREE:
        kind = "test records" if figures.n_records else "random inputs"
        raise ExportError(
            f"with 8-bit weights only {figures.agree:.1%} of the decisions on {figures.n_checked} {kind} stay as they "
            f"were, and {AGREE:.0%} must, so nothing was written; export it without --int8."
        )


def _answers(whole: "Assembled", content: bytes, inputs: list["Records"]) -> tuple[Scores, Scores]:
    """Probabilities and scores of ONNX Runtime for all inputs.

    Raises:
        ExportError: If it cannot run the file.
    """
    import onnxruntime

    from foedus.fronts import take
    from foedus.onnx_graph import OUTPUTS

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    feeds = [whole.front.feeds(take(part, rows)) for part in inputs for rows in _batches(len(part))]
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        parts = [session.run(OUTPUTS, feed) for feed in feeds]
    except Exception as error:  # ONNX Runtime's errors have no base of their own
        raise ExportError(
            f"ONNX Runtime cannot run the exported file ({type(error).__name__}), so nothing was written; use "
            "another backbone, or the head with torch (docs/runs.md)."
        ) from error
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _batches(n: int) -> list[range]:
    """The first input by itself, then BATCH at once."""
    return [range(1), *(range(at, min(at + BATCH, n)) for at in range(1, n, BATCH))]


def _inputs(
    run: RunFolder, whole: "Assembled", precision: Precision
) -> tuple[list["Records"], NDArray[np.int64]]:
    """Random inputs, then test records of the run's sites if they are here, and the labels of the latter."""
    samples = whole.front.samples(SAMPLES[precision], np.random.default_rng(0))
    found = _test_records(run, whole, most=TEST_RECORDS[precision])
    shape = (0, whole.study.n_classes) if whole.study.multilabel else (0,)
    labels = np.concatenate([np.empty(shape, np.int64), *(labels for _, labels in found)])
    return [samples, *(records for records, _ in found)], labels


def _test_records(
    run: RunFolder, whole: "Assembled", *, most: int
) -> list[tuple["Records", NDArray[np.int64]]]:
    """Test records and labels of every site that can be read here, at most `most` together."""
    from foedus.fronts import take

    sites = Path(run.state().get("sites") or "/nowhere")
    found = []
    try:
        folders = find_sites(sites)
    except FoedusError:
        log.info("the run's sites are not here; random inputs are all there is to check with")
        return []
    for folder in folders:
        try:
            data = load_site_data(folder, load_site(folder), whole.study)
        except FoedusError as error:
            log.warning("%s is left out of the check: %s", folder.name, error)
            continue
        if len(rows := _spread(data.rows("test"), max(1, most // len(folders)))):
            found.append((take(data.inputs, rows.tolist()), data.labels[rows]))
    return found


def _spread(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most `most` of the rows, from first to last: files are often sorted by class."""
    return rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(np.int64)]


def _write(run: RunFolder, to: Path, content: bytes, *, precision: Precision) -> None:
    """Write the file, and say so in the run's log if it lies in the run folder."""
    files.write_bytes(to, content)
    place, home = to.resolve(), run.path.resolve()
    if place.is_relative_to(home):
        name = place.relative_to(home).as_posix()
        run.log("exported", file=name, sha256=files.sha256_file(to), precision=precision)
