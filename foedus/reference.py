"""What no federation could know, and a simulation can: the same recipe with all data in one place."""

from collections.abc import Sequence

import numpy as np

from clients.report import local_head, score
from clients.training import Descent, train
from clients.workplace import Workplace
from foedus.backbones import Standardiser
from foedus.examples import Examples
from foedus.labels import cross_entropies
from foedus.metrics import Metrics
from foedus.model import Model
from foedus.study import Study


def pooled_model(
    study: Study,
    workplaces: Sequence[Workplace],
    standardiser: Standardiser,
    start: Model,
    *,
    balance: str = "",
) -> Model:
    """The study's recipe with all training examples in one place; the best epoch by pooled validation loss.

    As many passes over the examples as the federation makes, without its strategy; balanced as its examples are.
    """
    federation = study.federation
    descent = Descent(federation.local_epochs, federation.batch_size, federation.lr, federation.weight_decay)
    model = best = Model(start.head, start.backbone)
    best_loss = _validation_loss(model, workplaces, standardiser, balance)
    for number in range(federation.rounds):
        rng = np.random.default_rng([study.study.seed, number])
        model = _pass(study, workplaces, standardiser, descent, model, rng=rng, balance=balance)
        if (loss := _validation_loss(model, workplaces, standardiser, balance)) < best_loss:
            best, best_loss = model, loss
    return best


def _pass(
    study: Study,
    workplaces: Sequence[Workplace],
    standardiser: Standardiser,
    descent: Descent,
    model: Model,
    *,
    rng: np.random.Generator,
    balance: str,
) -> Model:
    if not study.backbone.tuned:
        parts = [
            site.balanced(site.examples("train", standardiser=standardiser), balance) for site in workplaces
        ]
        pooled = concatenate(parts)
        return Model(train(model.head, pooled, descent, rng=rng)[0])
    from clients.finetune import Lesson, finetune

    rows = [site.data.rows("train") for site in workplaces]
    kept = [site.kept(r) for site, r in zip(workplaces, rows, strict=True)]
    lesson = Lesson(
        tunable=workplaces[0].tunable,
        kept=tuple(np.concatenate(parts) for parts in zip(*kept, strict=True)),
        labels=np.concatenate([site.data.labels[r] for site, r in zip(workplaces, rows, strict=True)]),
        standardiser=standardiser,
        descent=descent,
        tuning=study.tuning,
    )
    return finetune(lesson, model, rng=rng)[0]


def _validation_loss(
    model: Model, workplaces: Sequence[Workplace], standardiser: Standardiser, balance: str
) -> float:
    parts = [
        site.balanced(site.examples("validation", standardiser=standardiser, tuned=model.backbone), balance)
        for site in workplaces
    ]
    pooled = concatenate(parts)
    if pooled.importance is not None and len(pooled):
        losses = cross_entropies(model.head.scores(pooled.features), pooled.labels)
        return float(np.average(losses, weights=pooled.importance))
    loss = score(model.head, pooled)["log_loss"]
    return float("inf") if loss is None else loss


def local_everywhere(site: Workplace, workplaces: Sequence[Workplace]) -> Metrics:
    """A site's local head on the test examples of all sites: what it knows of the others' patients."""
    head, standardiser = local_head(site)
    tests = concatenate([other.examples("test", standardiser=None) for other in workplaces])
    return score(head, Examples(standardiser.apply(tests.features), tests.labels))


def concatenate(parts: Sequence[Examples]) -> Examples:
    """All examples in one; groups are dropped."""
    features = np.concatenate([part.features for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    counted = [part.importance for part in parts if part.importance is not None]
    return Examples(features, labels, importance=np.concatenate(counted) if counted else None)
