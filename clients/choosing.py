"""personal = "best": each site keeps the head that does clearly best on its own validation examples.

personal    the site's own head, fitted around the shared one (`clients.training.own_head`)
federated   the shared head as it is
local       the site's own head, fitted to its own examples alone
few-shot    the shared head after gradient steps on the site's cases, as many as leave-one-out allows
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from clients.training import head_alone, midway
from fewshot.maml.safe import fit_maml
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.labels import cross_entropies, several

Kind = Literal["personal", "federated", "local", "few-shot"]


def choose_head(
    shared: LinearHead, train: Examples, validation: Examples, *, seed: int
) -> tuple[LinearHead, Kind, dict[Kind, float]]:
    """The head that the validation examples speak for, fitted again with them.

    A site's validation examples are few, and the lowest of four noisy losses is often the luckiest. So the
    personal head, which averages the shared and the local one, stays unless another's log-loss is lower by
    more than the standard error of their difference (one-standard-error rule: Breiman et al. 1984). A site
    without validation examples keeps the shared head.

    Args:
        shared: On standardised features.
        train: The site's training examples, standardised.
        validation: Its validation examples, standardised.
        seed: Draws the folds of its own heads, the same ones both times.

    Returns:
        The head, which it is, and each candidate's log-loss (nats) on the validation examples; none without any.
    """
    if not len(validation):
        return shared, "federated", {}
    losses = {kind: _losses(head, validation) for kind, head in _candidates(shared, train, seed=seed).items()}
    kept = clearly_best(losses)
    head = (
        shared if kept == "federated" else _candidates(shared, _together(train, validation), seed=seed)[kept]
    )
    return head, kept, {kind: float(each.mean()) for kind, each in losses.items()}


def clearly_best(losses: dict[Kind, NDArray[np.float64]]) -> Kind:
    """The first candidate, or the lowest of those that are better by more than the error of the difference.

    Args:
        losses: Each candidate's log-loss on the same n >= 1 examples, (n,); one example is no evidence.
    """
    first = next(iter(losses))

    def gap(kind: Kind) -> float:
        """Mean difference to the first, plus its standard error: below 0 where it is clearly better."""
        gaps = losses[kind] - losses[first]
        if kind == first or len(gaps) < 2:
            return 0.0
        return float(gaps.mean() + gaps.std(ddof=1) / np.sqrt(len(gaps)))

    clear = [kind for kind in losses if gap(kind) < 0]
    return min(clear, key=lambda kind: float(losses[kind].mean()), default=first)


def few_shot_head(shared: LinearHead, examples: Examples) -> LinearHead | None:
    """The shared head adapted to some examples; None with fewer than two classes, or several labels a record.

    Classes without an example keep their rows, at the temperature of the others.
    """
    if several(examples.labels):
        return None
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
    """Every head there can be, the one that stays without evidence first."""
    found: dict[Kind, LinearHead] = {"federated": shared}
    if len(examples):
        zero = LinearHead.zeros(*shared.weight.shape)
        local = head_alone(examples, zero=zero, rng=np.random.default_rng(seed))
        found = {"personal": midway(local, shared, examples), **found, "local": local}
    adapted = few_shot_head(shared, examples)
    return found if adapted is None else {**found, "few-shot": adapted}


def _losses(head: LinearHead, examples: Examples) -> NDArray[np.float64]:
    """(n,), the log-loss of each example."""
    return cross_entropies(head.scores(examples.features), examples.labels)


def _together(train: Examples, validation: Examples) -> Examples:
    return Examples(
        np.concatenate([train.features, validation.features]),
        np.concatenate([train.labels, validation.labels]),
    )
