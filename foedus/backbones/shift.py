"""How far sites lie apart: each tells its own squared distance, and only the sum over sites is read."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from foedus.backbones.moments import MIN_COUNT, MomentSettings
from foedus.config import validate
from foedus.errors import BackboneError, ConfigError
from foedus.examples import Examples
from foedus.statistic import Arrays, Quantity, Settings, count

SQUARED, NOISE, EXAMPLES, SITES = "shift-squared", "shift-noise", "shift-examples", "shift-sites"
FACTOR = 4.0
"""Beyond so many times the sampling noise chance is no explanation: were all features one and the same,
the squared distance over its expectation would be chi-square with one degree, above 4 in 5 % of sites."""
SMALL = 0.2**2
"""Below a fifth of a deviation a difference of means is negligible (Cohen 1988), however certain it is."""


@dataclass(frozen=True)
class SiteShift:
    """What the sums say about the distance between sites.

    Attributes:
        squared: Mean over sites of ‖site's mean - federation's mean‖² / d, features in units of the
            federation's standard deviation.
        noise: What it would be if every site drew its examples from the same population.
        n_sites: Sites behind it.
    """

    squared: float
    noise: float
    n_sites: int

    @property
    def large(self) -> bool:
        """Whether the sites differ by more than chance, and by enough to matter."""
        return self.squared > max(FACTOR * self.noise, SMALL)


@dataclass(frozen=True)
class Shift:
    """The statistic "shift": two numbers of each site, asked for once the standardiser is known."""

    dim: int
    name: ClassVar[str] = "shift"

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
        """Four single numbers."""
        number = Quantity((1,), low=0.0, min_count=MIN_COUNT)
        return {SQUARED: number, NOISE: number, EXAMPLES: count(1, behind="sum"), SITES: count(1)}

    def measure(self, examples: Examples) -> Arrays:
        """One site's squared distance from the federation's mean, which standardised features have at 0.

        Raises:
            BackboneError: If the features have another width.
        """
        x, n = examples.features, len(examples)
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise BackboneError(f"features have shape {x.shape}, expected (n, {self.dim}).")
        mean = x.mean(axis=0, dtype=np.float64) if n else np.zeros(self.dim)
        return {
            SQUARED: np.array([float(mean @ mean) / self.dim]),
            NOISE: np.array([1 / n if n else 0.0]),
            EXAMPLES: np.array([n], np.int64),
            SITES: np.array([int(n > 0)], np.int64),
        }

    def read(self, total: Arrays) -> SiteShift:
        """The mean over sites; sampling alone gives 1/nᵢ - 1/n on average (one feature, deviation 1)."""
        n, n_sites = int(total[EXAMPLES].item()), int(total[SITES].item())
        squared, noise = (float(total[key].item()) / max(n_sites, 1) for key in (SQUARED, NOISE))
        return SiteShift(squared, max(noise - 1 / max(n, 1), 0.0), n_sites)
