"""Standardising features by the federation's mean and standard deviation, from one round of sums."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from foedus.config import Section, validate
from foedus.errors import BackboneError, ConfigError
from foedus.examples import Examples
from foedus.statistic import Arrays, Quantity, Settings, count

MEAN, SCALE, CENTRE, COLOUR = "feature-mean", "feature-scale", "feature-centre", "feature-colour"
COUNT = "feature-count"
SUM, SUM_FINE = "feature-sum", "feature-sum-fine"
SQUARES, SQUARES_FINE = "feature-squares", "feature-squares-fine"
CONSTANT = 1e-6
"""A feature whose deviation is below this (times its mean, if that is above 1) is constant."""
MIN_COUNT = 5
"""Examples a released total needs: the sum over one case is that case's features."""

STEP = 2.0**16
LIMIT = 2.0**68
FINE = 2.0**-36
"""Sums travel as a multiple of STEP plus the rest on a grid of FINE. One fixed-point grid is
either too narrow for squared amounts of money or too coarse to see that a feature is constant."""


class MomentSettings(Section):
    """What the coordinator sends to ask for moments."""

    dim: int = Field(ge=1, le=1_000_000)
    """Length of a feature vector."""


@dataclass(frozen=True)
class Standardiser:
    """x to (x - mean) / scale, and what is missing to 0, the mean.

    With a centre (private studies) each row is then brought to length one, moved by the centre
    and brought to length one again: no example, however odd, is longer than any other.

    Attributes:
        mean: (d,), float64.
        scale: (d,), float64, above 0; 1 where a feature is constant or was never seen.
        centre: (d,), float64, the mean direction, or None.
        n: Examples it was learnt from; does not travel.
        colour: (d, d), float32, what each site gives its whitened features (`foedus.backbones.coral`), or
            None. Only the site can do that: it alone knows its own covariance.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    centre: NDArray[np.float64] | None = None
    n: int = 0
    colour: NDArray[np.float32] | None = None

    def apply(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, d), float32, with NaN as 0.

        Raises:
            BackboneError: If the features have another width, or are to be aligned, which this cannot do.
        """
        if self.colour is not None:
            raise BackboneError(
                "the model reads features that each site aligns by its own covariance (backbone.align), so it works "
                'only at a site with training examples; for a model that stands alone, set align = "none".'
            )
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise BackboneError(f"features have shape {features.shape}, expected (n, {len(self.mean)}).")
        standard = (features - self.mean) / self.scale
        standard = np.where(np.isnan(standard), 0.0, standard)
        if self.centre is not None:
            standard = unit_rows(unit_rows(standard) - self.centre)
        return standard.astype(np.float32)

    def arrays(self) -> Arrays:
        """As named arrays, in the order they travel."""
        centre = {} if self.centre is None else {CENTRE: self.centre}
        colour = {} if self.colour is None else {COLOUR: self.colour}
        return {MEAN: self.mean, SCALE: self.scale, **centre, **colour}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """From named arrays; others beside them (a head's) are left alone.

        Raises:
            ConfigError: If they are missing, of different shapes, not finite, or scale is not positive.
        """
        lacking = [name for name in (MEAN, SCALE) if name not in arrays]
        if lacking:
            raise ConfigError("the standardiser received", [f"{name} is missing" for name in lacking])
        mean, scale = np.asarray(arrays[MEAN], np.float64), np.asarray(arrays[SCALE], np.float64)
        centre = np.asarray(arrays[CENTRE], np.float64) if CENTRE in arrays else None
        fits = mean.ndim == 1 and mean.shape == scale.shape
        if centre is not None and (centre.shape != mean.shape or not np.isfinite(centre).all()):
            raise ConfigError("the standardiser received", [f"{CENTRE} must be finite, as long as {MEAN}"])
        if not fits or not np.isfinite(mean).all() or not np.isfinite(scale).all() or (scale <= 0).any():
            problem = f"{MEAN} and {SCALE} must be finite, of one length, with {SCALE} above 0"
            raise ConfigError("the standardiser received", [problem])
        colour = np.asarray(arrays[COLOUR], np.float32) if COLOUR in arrays else None
        square = (len(mean), len(mean))
        if colour is not None and (colour.shape != square or not np.isfinite(colour).all()):
            raise ConfigError("the standardiser received", [f"{COLOUR} must be finite, of shape {square}"])
        return cls(mean, scale, centre, colour=colour)


def unit_rows(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Every row at length one; a row of zeros stays."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1.0))


@dataclass(frozen=True)
class Moments:
    """The statistic "moments": Σx, Σx² and how many are not missing, for each feature."""

    dim: int
    name: ClassVar[str] = "moments"

    def settings(self) -> Settings:
        """Small parameters, sent as configuration."""
        return {"dim": self.dim}

    def arrays(self) -> Arrays:
        """No array parameter."""
        return {}

    @classmethod
    def from_wire(cls, settings: Settings, arrays: Arrays) -> Self:
        """The same statistic, from what arrived at the site."""
        if arrays:
            raise ConfigError("the request received", [f"{key} is not a known array" for key in arrays])
        return cls(validate(MomentSettings, settings, source="the request received").dim)

    def declare(self) -> dict[str, Quantity]:
        """Shapes, kinds and grids."""
        shape = (self.dim,)
        coarse = Quantity(shape, "real", -LIMIT, LIMIT, STEP, MIN_COUNT)
        fine = Quantity(shape, "real", -STEP, STEP, FINE, MIN_COUNT)
        n = count(self.dim, behind="max")
        return {COUNT: n, SUM: coarse, SUM_FINE: fine, SQUARES: coarse, SQUARES_FINE: fine}

    def measure(self, examples: Examples) -> Arrays:
        """One site's sums over the features that are not NaN.

        Raises:
            BackboneError: If the features have another width, or are too large to sum.
        """
        x = examples.features.astype(np.float64)
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise BackboneError(f"features have shape {x.shape}, expected (n, {self.dim}).")
        present = ~np.isnan(x)
        x = np.where(present, x, 0.0)
        squares = np.square(x).sum(axis=0)
        if not (squares <= LIMIT).all():
            raise BackboneError(
                "features are too large to be summed; use smaller units (thousands, millions)."
            )
        total, total_fine = _split(x.sum(axis=0))
        squared, squared_fine = _split(squares)
        return {
            COUNT: present.sum(axis=0, dtype=np.int64),
            SUM: total,
            SUM_FINE: total_fine,
            SQUARES: squared,
            SQUARES_FINE: squared_fine,
        }

    def read(self, total: Arrays) -> Standardiser:
        """Mean and standard deviation (of the population) of every feature."""
        n_present = np.maximum(np.asarray(total[COUNT], np.float64), 1)
        mean = _joined(total, SUM, SUM_FINE) / n_present
        variance = _joined(total, SQUARES, SQUARES_FINE) / n_present - np.square(mean)
        deviation = np.sqrt(np.maximum(variance, 0.0))
        constant = deviation < CONSTANT * np.maximum(1.0, np.abs(mean))
        n = int(np.max(total[COUNT], initial=0))
        return Standardiser(mean, np.where(constant, 1.0, deviation), n=n)


def _split(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    coarse = np.rint(values / STEP) * STEP
    return coarse, values - coarse


def _joined(total: Arrays, coarse: str, fine: str) -> NDArray[np.float64]:
    return np.asarray(total[coarse], np.float64) + np.asarray(total[fine], np.float64)
