"""A round of episodes at a site: a start that adapts in a few steps, on frozen features or through the backbone."""

import numpy as np

from clients.workplace import Workplace
from fewshot.episodes import EpisodeSampler
from foedus.backbones import Standardiser
from foedus.head import LinearHead
from foedus.meta import MetaSection
from foedus.model import Model


def train_start(
    site: Workplace, meta: MetaSection, shared: Model, standardiser: Standardiser, *, number: int
) -> tuple[Model, float]:
    """The start after this site's steps of a round, and the mean loss after adaptation over its episodes.

    Args:
        site: Where we are.
        meta: The study's section.
        shared: The start that came.
        standardiser: The federation's.
        number: Of the round, from 1; with the study's seed it decides the episodes.

    Raises:
        FewShotError: If the training examples do not allow the episodes.
        BackboneError: If the backbone learns and learn2learn is not installed here.
    """
    from fewshot.maml.shared import Outer, SharedHead, learn_start
    from fewshot.maml.tasks import Inner

    rows = site.data.rows("train")
    seed = int(site.rng(number).integers(2**31))
    labels = site.data.labels[rows]
    sampler = EpisodeSampler(labels, meta.n_way, meta.n_shot, meta.n_query, random_state=seed, site=site.name)
    inner = Inner(meta.inner_steps, meta.inner_lr, meta.first_order)
    if site.study.backbone.tuned:
        from clients.meta_backbone import SharedBackbone

        learner = SharedBackbone(site, shared, standardiser, inner, anil=meta.algorithm == "anil")
        outer = Outer(meta.outer_steps, meta.episodes, meta.algorithm == "reptile", learner.rates())
        loss = learn_start(learner, site.kept(rows), sampler, outer)
        return learner.model(), loss
    head, federation = SharedHead(shared.head.weight, shared.head.bias, inner), site.study.federation
    rates = {"weight": (federation.lr, federation.weight_decay), "bias": (federation.lr, 0.0)}
    outer = Outer(meta.outer_steps, meta.episodes, meta.algorithm == "reptile", rates)
    features = site.examples("train", standardiser=standardiser).features
    loss = learn_start(head, (features,), sampler, outer)
    weight, bias = (value.detach().numpy().astype(np.float32) for value in (head.weight, head.bias))
    return Model(LinearHead(weight, bias)), loss
