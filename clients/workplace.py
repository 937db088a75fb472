"""A site at work: its configuration, data and features, opened once per process."""

import zlib
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from clients import features
from foedus.backbones import Standardiser, describe
from foedus.data import SiteData, load_site_data
from foedus.errors import DoorError
from foedus.examples import Examples
from foedus.site import SiteConfig, allows_backbone, load_site
from foedus.study import Split, Study, study_from_json

Part = Split | Literal["all"]
"""A split, or every record."""


class Workplace:
    """One site and one study: everything local work needs, loaded when first asked for."""

    def __init__(self, folder: Path, study: Study) -> None:
        self.folder = folder
        self.study = study
        self.config: SiteConfig = load_site(folder)
        self._require_allowed_backbone()
        self.data: SiteData = load_site_data(folder, self.config, study)
        self.spec = describe(study.backbone, study.table)
        self.raw = features.features(folder, self.data, self.spec, study, device=self.config.device)
        self._standardised: tuple[bytes, NDArray[np.float32]] | None = None

    @property
    def name(self) -> str:
        """The site's name."""
        return self.config.site.name

    def examples(self, *splits: Part, standardiser: Standardiser | None) -> Examples:
        """Examples of the splits named ("all" for every record), standardised if asked."""
        every = np.arange(len(self.data.labels))
        rows = np.concatenate([every if split == "all" else self.data.rows(split) for split in splits])
        chosen = self.raw if standardiser is None else self._apply(standardiser)
        groups = {name: values[rows] for name, values in self.data.groups.items()}
        units = self.data.units[rows] if self.study.door.private else None
        return Examples(chosen[rows], self.data.labels[rows], groups, units)

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
            self._standardised = (key, standardiser.apply(self.raw))
        return self._standardised[1]


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
