"""Scores of the audited head, and the first pass: where to cut them into bins of equal size."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import logsumexp

from foedus.config import Section, validate
from foedus.errors import AuditError, ConfigError
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.statistic import Arrays, Quantity, Settings, count

GRID: NDArray[np.float64] = np.sinh(np.linspace(-12.0, 12.0, 4095))
"""Inner edges of the first pass: steps of 0.006 around a logit of 0, of 0.6 % far from it,
so that overconfident scores (logits in the hundreds) still fall into different cells."""
N_BINS = 128
CHUNK_ROWS = 65_536
SCORES = "scores"


class _EdgesRequest(Section):
    positive: int = Field(ge=0)


@dataclass(frozen=True)
class AuditEdges:
    """First pass: where to cut the scores so that every bin holds as many people.

    Attributes:
        head: The head that is audited.
        positive: Index of the class whose score is cut.
        n_bins: Bins asked for; fewer come back where scores tie. Not sent to the sites.
    """

    name: ClassVar[str] = "audit-edges"
    head: LinearHead
    positive: int
    n_bins: int = N_BINS

    def settings(self) -> Settings:
        return {"positive": self.positive}

    def arrays(self) -> Arrays:
        return self.head.arrays()

    @classmethod
    def from_wire(cls, settings: Settings, arrays: Arrays) -> Self:
        request = validate(_EdgesRequest, settings, source="the audit request")
        expect_arrays(arrays, {"weight", "bias"})
        return cls(head_from_wire(arrays, request.positive), request.positive)

    def declare(self) -> dict[str, Quantity]:
        return {SCORES: count(len(GRID) + 1)}

    def measure(self, examples: Examples) -> Arrays:
        cells = np.zeros(len(GRID) + 1, np.int64)
        for rows in chunks(len(examples)):
            logit = positive_logit(scores(self.head, examples.features[rows]), self.positive)
            cells += np.bincount(bin_of(logit, GRID), minlength=len(cells))
        return {SCORES: cells}

    def read(self, total: Arrays) -> NDArray[np.float64]:
        """(at most n_bins - 1,) ascending edges; a score equal to an edge falls above it.

        Raises:
            AuditError: If no site has a test example.
        """
        cumulative = np.cumsum(total[SCORES])
        if cumulative[-1] < 1:
            raise AuditError("no site has a test example; the audit needs people to look at")
        wanted = cumulative[-1] * np.arange(1, self.n_bins) / self.n_bins
        cells = np.unique(np.searchsorted(cumulative, wanted, side="left"))
        return GRID[np.minimum(cells, len(GRID) - 1)] if len(cells) else GRID[[len(GRID) // 2]]


def scores(head: LinearHead, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, n_classes) scores, summed in float64 and rounded once.

    In float32 a row's score depends on how many rows are multiplied with it, and moving a row
    to another site could move it across an edge; rounding from float64 makes the counts the
    same however the rows are spread.
    """
    product = features.astype(np.float64) @ head.weight.astype(np.float64).T
    return (product + head.bias.astype(np.float64)).astype(np.float32)


def positive_logit(found: NDArray[np.float32], positive: int) -> NDArray[np.float64]:
    """(n,) log-odds of the positive class against all others."""
    wide = found.astype(np.float64)
    others = np.delete(wide, positive, axis=1)
    return np.asarray(wide[:, positive] - logsumexp(others, axis=1), np.float64)


def logit_of(threshold: float) -> float:
    """The log-odds of a probability."""
    return float(np.log(threshold) - np.log1p(-threshold))


def bin_of(logit: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """(n,) index of each score's bin; a score equal to an edge falls above it."""
    return np.asarray(np.searchsorted(edges, logit, side="right"), np.int64)


def chunks(n: int) -> Iterator[slice]:
    """Slices of at most CHUNK_ROWS rows, so that float64 copies stay small."""
    return (slice(start, start + CHUNK_ROWS) for start in range(0, n, CHUNK_ROWS))


def expect_arrays(arrays: Arrays, names: set[str]) -> None:
    """Refuse anything but exactly these arrays."""
    if set(arrays) != names:
        raise refused(f"arrays are {sorted(arrays)}; expected {sorted(names)}")


def head_from_wire(arrays: Arrays, positive: int) -> LinearHead:
    """The head that arrived, checked.

    Raises:
        ConfigError: If it is not a finite float32 head with this class.
    """
    weight, bias = arrays["weight"], arrays["bias"]
    if weight.dtype != np.float32 or bias.dtype != np.float32:
        raise refused(f"weight is {weight.dtype} and bias {bias.dtype}; expected float32")
    if weight.ndim != 2 or bias.ndim != 1 or len(weight) != len(bias) or len(bias) < 2:
        raise refused(f"weight has shape {weight.shape} and bias {bias.shape}; not a head")
    if not 0 <= positive < len(bias):
        raise refused(f"positive is {positive} but the head has {len(bias)} classes")
    head = LinearHead.from_arrays(arrays)
    if not (np.isfinite(head.weight).all() and np.isfinite(head.bias).all()):
        raise refused("the head has values that are not finite")
    return head


def refused(problem: str) -> ConfigError:
    """The error that says why a site refuses an audit request."""
    return ConfigError("the audit request", [problem])
