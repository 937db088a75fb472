"""Methods against each other on the same episodes: the difference, with an interval that pairing makes narrow."""

from collections.abc import Mapping
from dataclasses import dataclass

from fewshot.evaluate import EpisodeReport, half_width
from foedus.errors import FewShotError


@dataclass(frozen=True)
class Paired:
    """One method less another over the same episodes.

    Attributes:
        method: The one.
        against: The other.
        accuracy: Mean difference in accuracy; above 0 the one is better.
        ci95: Half width of its 95 % interval (normal, over episodes).
        nll: Mean difference in NLL; below 0 the one is better.
        nll_ci95: Half width of its interval.
    """

    method: str
    against: str
    accuracy: float
    ci95: float
    nll: float
    nll_ci95: float

    @property
    def settled(self) -> bool:
        """Whether the interval on the accuracy leaves 0 out."""
        return abs(self.accuracy) > self.ci95


def paired(reports: Mapping[str, EpisodeReport], *, against: str | None = None) -> list[Paired]:
    """Every other method less one of them.

    Args:
        reports: Of methods that met the same episodes: one sampler, one n_episodes.
        against: Which to compare with; the most accurate when None.

    Raises:
        FewShotError: If `against` is not among them or the numbers of episodes differ.
    """
    if len({len(found.accuracies) for found in reports.values()}) > 1:
        raise FewShotError("the reports are over different numbers of episodes; evaluate with one sampler")
    best = against if against is not None else max(reports, key=lambda name: reports[name].mean)
    if best not in reports:
        raise FewShotError(f"there is no report of '{best}'; there are {', '.join(reports)}")
    base = reports[best]
    return [_less(name, found, best, base) for name, found in reports.items() if name != best]


def _less(name: str, one: EpisodeReport, against: str, other: EpisodeReport) -> Paired:
    accuracy, nll = one.accuracies - other.accuracies, one.nlls - other.nlls
    return Paired(
        method=name,
        against=against,
        accuracy=float(accuracy.mean()),
        ci95=half_width(accuracy),
        nll=float(nll.mean()),
        nll_ci95=half_width(nll),
    )
