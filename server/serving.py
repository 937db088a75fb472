"""What a service needs beside the model: a temperature, a threshold for prediction sets, when to abstain.

All of it from sums over sites, written into the model folder before the run is sealed, so that an
auditor who approves the run approves this, too.
"""

import numpy as np
from numpy.typing import NDArray

from fairness.policy import load_policy
from foedus import files
from foedus.confidence import PredictionSets, Serving, cover, least_sure
from foedus.evaluation import Evaluation
from foedus.head import LinearHead
from foedus.histograms import TOP, TRUTHS, Histograms
from foedus.runs import HISTOGRAMS_FILE, POLICY_FILE, SERVING_FILE, RunFolder
from foedus.statistic import Arrays
from server.federation import Federation

TEMPERATURES = [float(2 ** (step / 4)) for step in range(-16, 17)]
ALPHA, ABSTAIN = 0.1, 0.1
"""Share of records whose set may miss the truth; share of the test records it would have abstained on."""


def write_serving(federation: Federation, head: LinearHead, run: RunFolder) -> None:
    """Write serving.json and, unless the study is private, histograms.safetensors.

    A model that aligns features at each site is never served by itself, nor is one of several labels a record; they
    get neither.
    """
    standardiser = federation.standardiser
    if (
        standardiser is None
        or federation.study.backbone.align != "none"
        or federation.study.multilabel
        or not (run.path / POLICY_FILE).exists()
    ):
        return
    if federation.study.door.private:
        files.write_json(run.path / SERVING_FILE, Serving().model_dump())
        return
    [tried] = federation.ask(
        Evaluation([head], TEMPERATURES), split="validation", what="the temperature of the scores"
    )
    losses = [np.inf if found.metrics["log_loss"] is None else found.metrics["log_loss"] for found in tried]
    traffic = federation.ask(Histograms(head), split="test")
    kept = coarsened(traffic, fewest=load_policy(run.path / POLICY_FILE).disclosure.k)
    truths, top = traffic[TRUTHS], traffic[TOP]
    least = cover(truths, ALPHA)
    below = least_sure(top, ABSTAIN)
    serving = Serving(
        temperature=TEMPERATURES[int(np.argmin(losses))],
        prediction_sets=None
        if least is None
        else PredictionSets(alpha=ALPHA, least_probability=least, n=int(truths.sum())),
        abstain_below=below,
        abstain_rate=float(top[: round(below * len(top))].sum() / max(1, int(top.sum()))),
    )
    files.write_arrays(run.path / HISTOGRAMS_FILE, kept)
    files.write_json(run.path / SERVING_FILE, serving.model_dump())


def coarsened(traffic: Arrays, *, fewest: int) -> Arrays:
    """The histograms with bins of fewer than `fewest` examples added to the next, so that none tells of a few.

    A bin that went into its neighbour is left at 0; the true classes' probabilities are left out.
    """
    found: Arrays = {}
    for name, counts in traffic.items():
        if name != TRUTHS:
            rows = np.atleast_2d(counts)
            found[name] = np.stack([_coarse(row, fewest) for row in rows]).reshape(counts.shape)
    return found


def _coarse(row: NDArray[np.generic], fewest: int) -> NDArray[np.int64]:
    found, waiting, last = np.zeros(len(row), np.int64), 0, None
    for place, n in enumerate(row.tolist()):
        waiting += int(n)
        if waiting >= fewest:
            found[place], waiting, last = waiting, 0, place
    if last is not None:
        found[last] += waiting
    return found
