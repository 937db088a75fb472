"""What a contribution becomes in a private study: noise on every number, charged before it is made.

A statistic declares how much one unit can change each of its arrays. m arrays released
together are scaled so that one unit changes each by at most 1/√m of the joint sensitivity;
the noise on array a is then multiplier x sensitivity_a x √m.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor, log2, prod, sqrt
from pathlib import Path

import numpy as np

from foedus import files
from foedus.errors import DoorError
from foedus.privacy.accountant import Gaussian
from foedus.privacy.ledger import Ledger
from foedus.privacy.noise import discrete_gaussian, sigma_steps
from foedus.statistic import Arrays, Quantity
from foedus.sums import check

REACH = 2.0**32
"""No entry of a private contribution is larger."""


def declared(quantities: Mapping[str, Quantity], multiplier: float) -> dict[str, Quantity]:
    """What leaves when `quantities` are noised: real numbers, on a grid that is fine against the noise.

    Raises:
        DoorError: If an array declares no sensitivity.
    """
    return {
        name: Quantity(
            quantity.shape,
            "real",
            -REACH - 64 * multiplier * scale,
            REACH + 64 * multiplier * scale,
            _grid(scale, multiplier, prod(quantity.shape)),
            sensitivity=scale,
        )
        for (name, quantity), scale in zip(quantities.items(), _scales(quantities), strict=True)
    }


def as_declared(total: Arrays, quantities: Mapping[str, Quantity]) -> Arrays:
    """A noisy total in the kinds that were declared: counts are whole and not negative."""
    return {
        name: np.maximum(np.rint(value), 0).astype(np.int64) if quantities[name].kind == "count" else value
        for name, value in total.items()
    }


def deviation(quantities: Mapping[str, Quantity], multiplier: float) -> dict[str, float]:
    """Standard deviation of the noise on each array's total, in the array's own unit; at least."""
    scales = _scales(quantities)
    return {name: multiplier * scale for name, scale in zip(quantities, scales, strict=True)}


def add_noise(
    arrays: Arrays, quantities: Mapping[str, Quantity], *, multiplier: float, honest: int
) -> Arrays:
    """One site's contribution with its share of the noise; noise of any `honest` sites is enough.

    Args:
        arrays: The contribution.
        quantities: As the statistic declares them, before noise.
        multiplier: Noise over what one unit can change.
        honest: Sites whose noise is counted on; 1 where each site trusts nobody.

    Raises:
        DoorError: If the contribution is not what was declared, or not bounded.
    """
    noised = declared(quantities, multiplier)
    check(arrays, before_noise(quantities))
    found: Arrays = {}
    for name, quantity in noised.items():
        if prod(quantity.shape) == 0:
            found[name] = np.zeros(quantity.shape)
            continue
        sigma = sigma_steps(
            multiplier,
            sensitivity=quantity.sensitivity or 0.0,
            resolution=quantity.resolution,
            size=prod(quantity.shape),
            honest=honest,
        )
        steps = np.rint(arrays[name].astype(np.float64) / quantity.resolution).astype(np.int64)
        found[name] = (steps + discrete_gaussian(quantity.shape, sigma)) * quantity.resolution
    return found


def _scales(quantities: Mapping[str, Quantity]) -> list[float]:
    """Sensitivity of each array, widened for the arrays released beside it."""
    unbounded = [name for name, quantity in quantities.items() if quantity.sensitivity is None]
    if unbounded:
        raise DoorError(
            f"nothing bounds what one unit can change in '{unbounded[0]}', so no noise can hide it; "
            "it does not leave in a private study"
        )
    together = sqrt(sum(prod(quantity.shape) > 0 for quantity in quantities.values()))
    return [together * float(quantity.sensitivity or 0.0) for quantity in quantities.values()]


def _grid(scale: float, multiplier: float, size: int) -> float:
    """A power of two, fine enough that rounding adds 2 % to the sensitivity and any share of noise has 256 steps."""
    return float(2.0 ** floor(log2(min(scale / (64 * sqrt(max(size, 1))), multiplier * scale / 2**14))))


def before_noise(quantities: Mapping[str, Quantity]) -> dict[str, Quantity]:
    """What a contribution has to be before it is noised."""
    return {name: _as_real(quantity) for name, quantity in quantities.items()}


def _as_real(quantity: Quantity) -> Quantity:
    return Quantity(quantity.shape, "real", max(quantity.low, -REACH), min(quantity.high, REACH))


@dataclass(frozen=True)
class Purse:
    """Where a site keeps what it has given away: its ledger, and the noised contributions themselves.

    Attributes:
        ledger: Refuses what would exceed the site's cap.
        kept: Folder of one run; a release that is asked for again leaves again as it was.
    """

    ledger: Ledger
    kept: Path

    def release(
        self,
        name: str,
        request: bytes,
        arrays: Arrays,
        quantities: Mapping[str, Quantity],
        *,
        study: str,
        event: Gaussian,
        honest: int,
    ) -> Arrays:
        """The noised contribution: charged first, or, if it was made before, as it was then.

        Args:
            name: Of the release, e.g. "round 3"; once a run.
            request: 32 bytes that stand for everything that was asked.
            arrays: The contribution.
            quantities: As the statistic declares them.
            study: Who asks.
            event: As it is charged; its noise is over what one unit can change.
            honest: Sites whose noise is counted on.

        Raises:
            DoorError: If the release was made for another request.
            PrivacyError: If the ledger refuses.
        """
        label = name.replace(" ", "-")
        before = sorted(self.kept.glob(f"{label}.*.safetensors")) if self.kept.exists() else []
        path = self.kept / f"{label}.{request.hex()[:32]}.safetensors"
        if path in before:
            return files.read_arrays(path)
        if before:
            raise DoorError(
                f"'{name}' of this run was released for another request; a release is made once: "
                "resume the run from where it stood, or start a new one"
            )
        reservation = self.ledger.reserve(study, self.kept.name, name, [event])
        noised = add_noise(arrays, quantities, multiplier=event.noise_multiplier, honest=honest)
        self.kept.mkdir(parents=True, exist_ok=True, mode=0o700)
        files.write_arrays(path, noised)
        self.ledger.commit(reservation)
        return noised
