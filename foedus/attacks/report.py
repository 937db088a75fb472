"""The empirical privacy audit's report: figures, verdict, and what each figure can and cannot say."""

import json
from dataclasses import asdict, dataclass
from typing import Literal

from foedus.attacks.clipping import ClippingCheck
from foedus.attacks.inversion import Inversion
from foedus.attacks.lira import Figure, MembershipInference
from foedus.attacks.one_run import LowerBound

Verdict = Literal["pass", "fail", "inconclusive"]
TUNED = (
    "The backbone learns, too. The lower bound and the clip cover its part; membership and inversion were tried on "
    "the head alone, over the backbone as it was pre-trained, and say nothing about what the backbone remembers."
)


@dataclass(frozen=True)
class PrivacyAudit:
    """What three attacks achieved against a mechanism that claims (epsilon, delta).

    Attributes:
        epsilon: Claimed, for adding or removing one unit; where units are sampled, of one release to
            someone who knows who is in it.
        delta: Claimed.
        bound: The one-run lower bound on epsilon; it alone decides the verdict.
        membership: LiRA against heads trained through clipping and noise.
        membership_noiseless: LiRA against heads trained without the noise, on the same units.
        inversions: Gradient inversion, by units behind an update.
        clipping: Units with enormous gradients; None where they were not tried.
        of: The releases that the claim is about, in words.
        tuned: The backbone learns, too; membership and inversion are tried on its head alone.
    """

    epsilon: float
    delta: float
    bound: LowerBound
    membership: MembershipInference
    membership_noiseless: MembershipInference
    inversions: tuple[Inversion, ...]
    clipping: ClippingCheck | None = None
    of: str = "the rounds"
    tuned: bool = False

    @property
    def verdict(self) -> Verdict:
        """fail: a lower bound is above the claim, or the clip did not hold. inconclusive: no bound could have
        been above it. pass: otherwise.

        A mechanism that keeps its claim fails with a chance of at most 1 - confidence per bound.
        """
        if self.clipping is not None and not self.clipping.held:
            return "fail"
        if max(self.bound.epsilon_dp, self.bound.epsilon_fdp) > self.epsilon:
            return "fail"
        if max(self.bound.ceiling_dp, self.bound.ceiling_fdp) <= self.epsilon:
            return "inconclusive"
        return "pass"

    def reason(self) -> str:
        """The verdict in one sentence."""
        bound = self.bound
        if self.clipping is not None and not self.clipping.held:
            return self.clipping.text()
        proved = f"epsilon is at least {max(bound.epsilon_dp, bound.epsilon_fdp):.2f} at delta {self.delta:g}"
        if self.verdict == "fail":
            return (
                f"{proved}, above the claim of {self.epsilon:.3g} for {self.of}: noise or clipping is not what was "
                "claimed."
            )
        if self.verdict == "inconclusive":
            ceiling = max(bound.ceiling_dp, bound.ceiling_fdp)
            return (
                f"The claim of {self.epsilon:.3g} for {self.of} is above {ceiling:.2f}, the most that "
                f"{bound.n_canaries} canaries can show; use more canaries."
            )
        return (
            f"{proved}, within the claim of {self.epsilon:.3g} for {self.of}: no bug of that size was found."
        )

    def meanings(self) -> dict[str, str]:
        """For each figure one sentence for an auditor: what it means, what it cannot prove."""
        bound, audience = self.bound, self.membership
        sure = f"{bound.confidence:.0%}"
        return {
            "epsilon_dp": (
                f"With {sure} confidence epsilon is no smaller than {bound.epsilon_dp:.2f}, whatever the mechanism; "
                "it can show that a claim is wrong and never that it is right, and here it cannot exceed "
                f"{bound.ceiling_dp:.2f}."
            ),
            "epsilon_fdp": (
                f"With {sure} confidence a Gaussian mechanism's epsilon is no smaller than {bound.epsilon_fdp:.2f}; "
                f"it is sharper, rests on the noise being Gaussian and on all units being in what is attacked, "
                f"and here cannot exceed {bound.ceiling_fdp:.2f}."
            ),
            "membership": (
                f"An attacker with {audience.n_heads} heads trained on the site's own records tells a unit that "
                "took part (a patient with all records, or a record where each is its own) from one that did not "
                f"with probability {_text(audience.auc)} (a guess: 0.50), and finds "
                f"{_text(audience.tpr_at_1_percent, percent=True)} of members at 1 % false accusations "
                "(a guess: 1 %); another attack may find more."
            ),
            "membership_noiseless": (
                f"The same attack on heads trained without the noise: AUC "
                f"{_text(self.membership_noiseless.auc)}, "
                f"{_text(self.membership_noiseless.tpr_at_1_percent, percent=True)} of members; it shows what "
                "the noise is for, and nothing about the mechanism."
            ),
            "inversions": (
                f"How near one division comes to a record's features (cosine, 1 is the record): {self._cosines()}; "
                "a figure near a guess says that this attack fails, not that all do."
            ),
            **({"tuned": TUNED} if self.tuned else {}),
            **({} if self.clipping is None else {"clipping": self.clipping.text()}),
        }

    def _cosines(self) -> str:
        return "; ".join(
            f"{found.batch_size} unit{'s' if found.batch_size > 1 else ''} in a sum, {found.raw:.2f} from the "
            f"unprotected sum, {found.released:.2f} from what is released, {found.chance:.2f} by a guess"
            for found in self.inversions
        )

    def to_json(self) -> str:
        """All figures with verdict, reason and meanings; keys as the attributes, indented."""
        content = {
            "verdict": self.verdict,
            "reason": self.reason(),
            **asdict(self),
            "clipping_held": None if self.clipping is None else self.clipping.held,
            "meanings": self.meanings(),
        }
        return json.dumps(content, indent=2, allow_nan=False)


def _text(figure: Figure, *, percent: bool = False) -> str:
    scale, unit = (100, " %") if percent else (1, "")
    digits = 1 if percent else 2
    value, low, high = (f"{scale * x:.{digits}f}" for x in (figure.value, figure.low, figure.high))
    return f"{value}{unit} ({low} to {high})"
