"""personal = "best": each site keeps the head that does best on its own validation examples.

federated   the shared head as it is
personal    the site's own head, fitted around the shared one (`clients.training.own_head`)
few-shot    the shared head after gradient steps on the site's cases, as many as leave-one-out allows
"""

from typing import Literal

import numpy as np

from clients.training import own_head
from fewshot.maml.safe import fit_maml
from foedus.examples import Examples
from foedus.head import LinearHead

Kind = Literal["federated", "personal", "few-shot"]


def choose_head(
    shared: LinearHead, train: Examples, validation: Examples, *, seed: int
) -> tuple[LinearHead, Kind, dict[Kind, float]]:
    """The head with the lowest log-loss on the validation examples, fitted again with them.

    Ties, and a site without validation examples, keep the shared head.

    Args:
        shared: On standardised features.
        train: The site's training examples, standardised.
        validation: Its validation examples, standardised.
        seed: Draws the folds of the personal head, the same ones both times.

    Returns:
        The head, which it is, and each candidate's log-loss (nats) on the validation examples; none without any.
    """
    losses: dict[Kind, float] = {}
    if len(validation):
        losses = {
            kind: _loss(head, validation) for kind, head in _candidates(shared, train, seed=seed).items()
        }
    kept: Kind = min(losses, key=losses.__getitem__, default="federated")
    if kept == "federated":
        return shared, kept, losses
    return _candidates(shared, _together(train, validation), seed=seed)[kept], kept, losses


def few_shot_head(shared: LinearHead, examples: Examples) -> LinearHead | None:
    """The shared head adapted to some examples; None with fewer than two classes.

    Classes without an example keep their rows, at the temperature of the others.
    """
    present, labels = np.unique(examples.labels, return_inverse=True)
    if len(present) < 2:
        return None
    start = shared.weight[present].astype(np.float64), shared.bias[present].astype(np.float64)
    found = fit_maml(examples.features[None].astype(np.float64), labels.astype(np.int64), start=start)
    heat = np.float32(found.temperature[0])
    weight, bias = heat * shared.weight, heat * shared.bias
    weight[present], bias[present] = found.weight[0], found.bias[0]
    return LinearHead(weight, bias)


def _candidates(shared: LinearHead, examples: Examples, *, seed: int) -> dict[Kind, LinearHead]:
    found: dict[Kind, LinearHead] = {"federated": shared}
    if len(examples):
        found["personal"] = own_head(examples, prior=shared, rng=np.random.default_rng(seed))
    adapted = few_shot_head(shared, examples)
    return found if adapted is None else {**found, "few-shot": adapted}


def _loss(head: LinearHead, examples: Examples) -> float:
    rows = np.arange(len(examples))
    return float(-head.log_probabilities(examples.features)[rows, examples.labels].mean())


def _together(train: Examples, validation: Examples) -> Examples:
    return Examples(
        np.concatenate([train.features, validation.features]),
        np.concatenate([train.labels, validation.labels]),
    )
