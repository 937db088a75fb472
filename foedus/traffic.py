"""What the sites that serve a model see together: the sum of their journals, for `foedus monitor --sites`.

A site's part is made of whole blocks of records (`foedus.journals.whole_blocks`) and goes through the
door like every other contribution: windows of histograms and, where labels came, counts of outcomes.
"""

from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Annotated, Self

import numpy as np
from pydantic import Field, ValidationError

from foedus import journals, outcomes
from foedus.config import Section
from foedus.errors import ConfigError, DataError, DoorError
from foedus.head import LinearHead
from foedus.histograms import DECISIONS, TRUTHS, Histograms
from foedus.outcomes import CHANCES, CONFUSION, Outcomes
from foedus.statistic import Arrays, Quantity, add, count
from foedus.study import Study

ASKED_FILE, SUM_FILE = "traffic.json", "traffic.safetensors"
"""In a run folder: the question, and its answer."""
PARTS = "parts"
"""Sites whose histograms are in the sum, and sites whose labels are."""
MAX_GROUPS = 200
Groups = Annotated[list[str], Field(max_length=MAX_GROUPS)]


class Asked(Section):
    """What is asked of every site that serves a study's model."""

    version: int = Field(ge=1)
    """Of the release."""
    day: date | None = None
    """The window, UTC; all of the version when not given."""
    fewest: int = Field(ge=1)
    """Records of the smallest block that may be in the sum."""
    attributes: dict[str, Groups] = Field(max_length=MAX_GROUPS)
    """The policy's."""

    @classmethod
    def from_json(cls, text: str) -> Self:
        """As it arrived.

        Raises:
            ConfigError: If it is anything else.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise ConfigError("the request received", [f"'{where}' of the traffic is not valid"]) from None


@dataclass(frozen=True)
class Traffic:
    """The sum that is asked for.

    Attributes:
        asked: Version, window and groups.
        study: Of the model.
        dim: Features of its backbone.
    """

    asked: Asked
    study: Study
    dim: int

    def declare(self) -> dict[str, Quantity]:
        """What the door must know; every record with histograms is in `decisions` once."""
        histograms = Histograms(LinearHead.zeros(self.study.n_classes, self.dim)).declare()
        enough = {DECISIONS: replace(histograms[DECISIONS], min_count=self.asked.fewest)}
        kept = {name: quantity for name, quantity in histograms.items() if name != TRUTHS}
        labelled = outcomes.quantities(self.asked.attributes, self.study.n_classes)
        return {PARTS: count(2), **kept, **enough, **labelled}

    def measure(self, journal: Path, *, labels: Path | None, block: int) -> Arrays:
        """A site's part; zeros where it has noted nothing.

        Args:
            journal: The folder of its `foedus serve --journal`.
            labels: CSV with id, label and the policy's attributes; it may not be there yet.
            block: Records of the smallest block, the site's own figure: who asks could move the blocks'
                borders with another one, and learn what lies between.

        Raises:
            DoorError: If the policy asks for larger blocks.
            DataError: If the labels cannot be read, or the journal is of another model.
        """
        if block < self.asked.fewest:
            raise DoorError(
                f"the site's blocks are of {block} records (service.min_records) and the policy's k is "
                f"{self.asked.fewest}; raise min_records to take part"
            )
        folder = journal / self.study.study.name
        found: Arrays = {name: np.zeros(q.shape, np.int64) for name, q in self.declare().items()}
        found[CHANCES] = np.zeros(2)
        windows = self._windows(folder, block)
        for window in windows:
            if any(counts.shape != found[name].shape for name, counts in window.items()):
                raise DataError(f"{folder} holds windows of another model; move the journal away")
            found |= add({name: found[name] for name in window}, window)
        seen = None if labels is None or not labels.exists() else self._outcomes(folder, labels, block)
        found |= {} if seen is None else seen.arrays()
        found[PARTS] = np.array([bool(windows), bool(seen)], np.int64)
        return found

    def labelled(self, total: Arrays) -> Outcomes:
        """The counts of labelled records in a sum."""
        return Outcomes.from_arrays(
            {name: total[name] for name in (CONFUSION, CHANCES)}, self.asked.attributes
        )

    def _windows(self, folder: Path, block: int) -> list[Arrays]:
        windows = journals.read_windows(folder, version=str(self.asked.version), day=self.asked.day)
        sized = [(day, int(window[DECISIONS].sum()), window) for day, window in windows]
        kept = journals.whole_blocks(sized, block)
        return [{name: counts for name, counts in window.items() if name != TRUTHS} for window in kept]

    def _outcomes(self, folder: Path, labels: Path, block: int) -> Outcomes:
        lines = journals.read_predictions(folder, version=str(self.asked.version), day=self.asked.day)
        pairs = outcomes.join(lines, labels)
        kept = journals.whole_blocks(((pair[0]["time"][:10], 1, pair) for pair in pairs), block)
        study = self.study
        return outcomes.counted(
            kept,
            classes=study.study.classes,
            positive=study.positive_index,
            attributes=self.asked.attributes,
        )
