"""What the sites that serve a model see together: the sum of their journals, for `foedus monitor --sites`.

A site's part is made of whole blocks of records (`foedus.journals.whole_blocks`) and goes through the
door like every other contribution: windows of histograms and, where labels came, counts of outcomes.
"""

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Self

import numpy as np
from pydantic import Field, ValidationError

from foedus import journals, outcomes
from foedus.config import Section
from foedus.errors import ConfigError
from foedus.head import LinearHead
from foedus.histograms import DECISIONS, TRUTHS, Histograms
from foedus.outcomes import CHANCES, CONFUSION, Outcomes
from foedus.statistic import Arrays, Quantity, add, count
from foedus.study import Study

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
        enough = {
            DECISIONS: Quantity(
                histograms[DECISIONS].shape,
                "count",
                0,
                histograms[DECISIONS].high,
                1.0,
                self.asked.fewest,
                behind="sum",
            )
        }
        kept = {name: quantity for name, quantity in histograms.items() if name != TRUTHS}
        labelled = outcomes.quantities(self.asked.attributes, self.study.n_classes)
        return {PARTS: count(2), **kept, **enough, **labelled}

    def measure(self, journal: Path, *, labels: Path | None, fewest: int) -> Arrays:
        """A site's part; zeros where it has noted nothing.

        Args:
            journal: The folder of its `foedus serve --journal`.
            labels: CSV with id, label and the policy's attributes.
            fewest: The site's own smallest block.

        Raises:
            DataError: If the labels cannot be read.
        """
        folder, fewest = journal / self.study.study.name, max(fewest, self.asked.fewest)
        found: Arrays = {name: np.zeros(q.shape, np.int64) for name, q in self.declare().items()}
        found[CHANCES] = np.zeros(2)
        windows = self._windows(folder, fewest)
        for window in windows:
            found |= add({name: found[name] for name in window}, window)
        seen = None if labels is None else self._outcomes(folder, labels, fewest)
        found |= {} if seen is None else seen.arrays()
        found[PARTS] = np.array([bool(windows), bool(seen)], np.int64)
        return found

    def outcomes(self, total: Arrays) -> Outcomes:
        """The counts of labelled records in a sum."""
        return Outcomes.from_arrays(
            {name: total[name] for name in (CONFUSION, CHANCES)}, self.asked.attributes
        )

    def _windows(self, folder: Path, fewest: int) -> list[Arrays]:
        windows = journals.read_windows(folder, version=str(self.asked.version), day=self.asked.day)
        sized = [(day, int(window[DECISIONS].sum()), window) for day, window in windows]
        kept = journals.whole_blocks(sized, fewest)
        return [{name: counts for name, counts in window.items() if name != TRUTHS} for window in kept]

    def _outcomes(self, folder: Path, labels: Path, fewest: int) -> Outcomes:
        lines = journals.read_predictions(folder, version=str(self.asked.version), day=self.asked.day)
        pairs = outcomes.join(lines, labels)
        kept = journals.whole_blocks(((pair[0]["time"][:10], 1, pair) for pair in pairs), fewest)
        study = self.study
        return outcomes.counted(
            kept,
            classes=study.study.classes,
            positive=study.positive_index,
            attributes=self.asked.attributes,
        )
