"""[meta]: rounds of episodes, which learn a start that adapts in a few steps, instead of a model for everyone."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from foedus.config import Section

if TYPE_CHECKING:
    from foedus.study import Study

Algorithm = Literal["fedmeta", "per-fedavg", "anil", "reptile"]
OWN_DESCENT = frozenset({"fedprox", "scaffold"})
"""Strategies that change how a site descends, which episodes replace."""
PLAIN_ONLY = ("dropout", "label_smoothing", "augment", "compile")
"""Keys of [tuning] that have no place in an episode's exact gradient."""


class MetaSection(Section):
    """[meta]"""

    algorithm: Algorithm = "fedmeta"
    """"fedmeta": the mean meta-gradient of a round's episodes travels. "per-fedavg": each site takes several steps
    of it. "anil": so, but in an episode only the head moves, and the backbone learns outside. "reptile": steps
    towards where plain descent on an episode ends."""
    first_order: bool = False
    """Leave the second derivatives out: cheaper, and for networks that have none."""
    n_way: int = Field(default=5, ge=2)
    """Classes in an episode; each keeps its own row of the head."""
    n_shot: int = Field(default=5, ge=1)
    """Support examples of each class, on which an episode adapts."""
    n_query: int = Field(default=15, ge=2)
    """Query examples of each class, which judge the adapted model; reptile adapts on them too."""
    inner_steps: int = Field(default=5, ge=1, le=100)
    """Gradient steps on a support set."""
    inner_lr: float = Field(default=0.05, gt=0, le=100)
    """Their learning rate."""
    episodes: int = Field(default=16, ge=1, le=1000)
    """Episodes of one step at a site, averaged; federation.lr (and tuning.lr) is that step's rate."""
    steps: int = Field(default=5, ge=1, le=1000)
    """Such steps of a site in a round; fedmeta takes one."""

    @property
    def outer_steps(self) -> int:
        """Steps of a site in a round."""
        return 1 if self.algorithm == "fedmeta" else self.steps

    def problems(self, study: "Study") -> list[str]:
        """What does not go together with rounds of episodes."""
        backbone, federation, door = study.backbone, study.federation, study.door
        problems = []
        if self.n_way > study.n_classes:
            problems.append(
                f"meta.n_way is {self.n_way} but there are {study.n_classes} classes; lower n_way or add classes"
            )
        if federation.rounds == 0:
            problems.append("[meta] needs gradient rounds, and federation.rounds is 0; change one of them")
        if door.private:
            problems.append(
                f"[meta]: in an episode one unit's examples move the gradients of all others, so clipping each unit's "
                f'own, as door.mode "{door.mode}" does, would bound nothing; set mode = "secure-only" or remove [meta]'
            )
        if federation.strategy in OWN_DESCENT:
            problems.append(
                f'[meta] replaces the local descent that "{federation.strategy}" changes; choose another strategy'
            )
        if federation.patience is not None:
            problems.append(
                "federation.patience waits for a validation of the shared model as it is, and [meta] learns one to "
                "be adapted; remove one of them"
            )
        if backbone.keeps_heads or backbone.personal == "ditto" or backbone.local_norms:
            key = "local_norms" if backbone.local_norms else f'personal = "{backbone.personal}"'
            problems.append(f"backbone.{key} and [meta] are two ways to adapt; keep one")
        if federation.balance != "none":
            problems.append(
                "federation.balance has no meaning in episodes, whose classes are balanced; remove it"
            )
        if study.search is not None:
            problems.append(
                "[search] ranks shared models as they are, and [meta] learns one to be adapted; remove one"
            )
        if self.first_order and self.algorithm == "reptile":
            problems.append("meta.first_order: reptile has no second derivatives; remove it")
        return [*problems, *self._tuning_problems(study)]

    def _tuning_problems(self, study: "Study") -> list[str]:
        if not study.backbone.tuned:
            anil = self.algorithm == "anil"
            return [
                'meta.algorithm "anil" lets the head alone adapt while the backbone learns, and backbone.tune is '
                '"head"; set tune = "lora", or algorithm = "per-fedavg", which is the same then'
            ] * anil
        problems, plain = [], type(study.tuning)()
        if study.tuning.optimizer != "sgd":
            problems.append('[meta] steps along plain meta-gradients; set tuning.optimizer = "sgd"')
        given = [key for key in PLAIN_ONLY if getattr(study.tuning, key) != getattr(plain, key)]
        if given:
            problems.append(f"tuning.{', tuning.'.join(given)}: episodes do without; remove them")
        return problems
