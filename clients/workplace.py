"""A site at work: its configuration, data and features, opened once per process."""

import hashlib
import zlib
from collections import Counter
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from clients import features
from fairness.balance import Balance
from foedus.backbones import Standardiser, describe, open_tunable
from foedus.backbones.coral import Covariance
from foedus.data import SiteData, load_site_data
from foedus.errors import ConfigError, DoorError
from foedus.examples import Examples
from foedus.site import SiteConfig, allows_backbone, load_site
from foedus.statistic import Arrays
from foedus.study import Split, Study, study_from_json

if TYPE_CHECKING:
    from foedus.backbones.tunable import Kept, Tunable

Part = Split | Literal["all"]
"""A split, or every record."""
ANSWERS = 8
"""Sets of tuned features that are kept: each split as pre-trained, at the start and at the end."""


class Workplace:
    """One site and one study: everything local work needs, loaded when first asked for."""

    def __init__(self, folder: Path, study: Study) -> None:
        self.folder = folder
        self.study = study
        self.config: SiteConfig = load_site(folder)
        self._require_allowed_backbone()
        self.data: SiteData = load_site_data(folder, self.config, study)
        self.spec = describe(study.backbone, study.table)
        self._frozen: NDArray[np.float32] | None = None
        self._tuned: dict[str, NDArray[np.float32]] = {}
        self._standardised: tuple[bytes, NDArray[np.float32]] | None = None

    @property
    def name(self) -> str:
        """The site's name."""
        return self.config.site.name

    @property
    def raw(self) -> NDArray[np.float32]:
        """(n, dim), float32: features of every record from the frozen backbone."""
        if self._frozen is None:
            device = self.config.device
            self._frozen = features.features(self.folder, self.data, self.spec, self.study, device=device)
        return self._frozen

    @cached_property
    def _owners(self) -> NDArray[np.int64]:
        """(n,): a number for the patient or customer of each record."""
        return np.asarray(np.unique(self.data.units, return_inverse=True)[1], np.int64).reshape(-1)

    @property
    def tunable(self) -> "Tunable":
        """The backbone with tensors that learn; shared by the process, so `load` before use."""
        return open_tunable(self.study.to_json(), self.config.device)

    def kept(self, rows: NDArray[np.int64]) -> "Kept":
        """What the cache holds of some records: inputs of the part of the backbone that learns."""
        return tuple(array[rows] for array in features.kept(self.folder, self.data, self.tunable))

    def rows(self, *splits: Part) -> NDArray[np.int64]:
        """Positions of the records of some splits, "all" for every one."""
        every = np.arange(len(self.data.labels))
        return np.concatenate([every if split == "all" else self.data.rows(split) for split in splits])

    def examples(
        self, *splits: Part, standardiser: Standardiser | None, tuned: Arrays | None = None
    ) -> Examples:
        """Examples of the splits named ("all" for every record), standardised if asked.

        Args:
            splits: Which.
            standardiser: The federation's.
            tuned: The backbone's tensors, in a study that tunes it; as pre-trained when None.
        """
        rows = self.rows(*splits)
        if self.study.backbone.tuned:
            return self._tuned_examples(rows, standardiser, tuned or {})
        chosen = self.raw if standardiser is None else self._apply(standardiser)
        groups = {name: values[rows] for name, values in self.data.groups.items()}
        units = self.data.units[rows] if self.study.door.private else None
        return Examples(chosen[rows], self.data.labels[rows], groups, units, owners=self._owners[rows])

    def census(self) -> Examples:
        """Every usable record without its features, and what was counted of the others while reading."""
        nothing = np.empty((len(self.data), 0), np.float32)
        set_aside = Counter(record.kind for record in self.data.quarantined)
        return Examples(nothing, self.data.labels, set_aside=set_aside, cells=self.data.notes)

    def _tuned_examples(
        self, rows: NDArray[np.int64], standardiser: Standardiser | None, tuned: Arrays
    ) -> Examples:
        found = self.embed(rows, tuned)
        chosen = found if standardiser is None else standardiser.apply(found)
        groups = {name: values[rows] for name, values in self.data.groups.items()}
        units = self.data.units[rows] if self.study.door.private else None
        return Examples(chosen, self.data.labels[rows], groups, units, owners=self._owners[rows])

    def balanced(self, examples: Examples, balance: str) -> Examples:
        """The examples with what each counts in training, in a study that balances groups.

        Args:
            examples: Of this site.
            balance: As it travelled; empty where nothing is balanced.

        Raises:
            ConfigError: If it is not valid, or the study does not balance groups.
        """
        if not balance:
            return examples
        if self.study.federation.balance == "none":
            raise ConfigError(
                "the request received", ["groups are balanced, which the study does not ask for"]
            )
        found = Balance.from_json(balance, n_classes=self.study.n_classes)
        return found.apply(examples, fewest=self.config.policy.min_class_count)

    def embed(self, rows: NDArray[np.int64], tuned: Arrays) -> NDArray[np.float32]:
        """(len(rows), dim), float32: features from the tuned backbone; the last few answers are kept."""
        tensors = tuned or self.tunable.initial()
        content = b"".join(tensors[name].tobytes() for name in sorted(tensors))
        key = hashlib.sha256(rows.tobytes() + content).hexdigest()
        if key not in self._tuned:
            self.tunable.load(tensors)
            self._tuned[key] = self.tunable.embed(self.kept(rows))
        self._tuned[key] = found = self._tuned.pop(key)  # the last asked for is the last to go
        while len(self._tuned) > ANSWERS:
            del self._tuned[next(iter(self._tuned))]
        return found

    def _require_allowed_backbone(self) -> None:
        """Before anything is opened: a coordinator may not choose what is read from this disk."""
        if not allows_backbone(self.config.policy, self.study.backbone.source, folder=self.folder):
            raise DoorError(
                f"backbone.source is '{self.study.backbone.source}', which is in no folder that the site's "
                "policy lets a study load weights from; use a bundled backbone, or ask the site to add the "
                "folder to [policy] backbone_folders."
            )

    def rng(self, *streams: int) -> np.random.Generator:
        """A generator that depends on the study's seed, this site and `streams` alone."""
        return np.random.default_rng([self.study.study.seed, zlib.crc32(self.name.encode()), *streams])

    def _apply(self, standardiser: Standardiser) -> NDArray[np.float32]:
        key = b"".join(array.tobytes() for array in standardiser.arrays().values())
        if self._standardised is None or self._standardised[0] != key:
            self._standardised = (key, self._align(standardiser))
        return self._standardised[1]

    def _align(self, standardiser: Standardiser) -> NDArray[np.float32]:
        """(n, dim), standardised and, if asked, aligned by the covariance of this site's own training examples."""
        plain, colour = replace(standardiser, colour=None).apply(self.raw), standardiser.colour
        own = None if colour is None else Covariance.of(plain[self.rows("train")])
        return plain if own is None or colour is None else own.align(plain, colour)


@lru_cache(maxsize=256)
def open_workplace(folder: Path, study_json: str) -> Workplace:
    """The workplace of a site for a study; opened once per process.

    Raises:
        ConfigError: If the study or the site file is not valid.
        DoorError: If the site's policy does not let the study load its backbone.
        DataError: If the data do not fit the study.
        BackboneError: If the backbone is not on this machine.
    """
    return Workplace(folder, study_from_json(study_json))
