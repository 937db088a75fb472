"""Do the attacks pass what keeps its claim, and catch what does not? And does a sum through the door hide records?

    python benchmarks/privacy_attacks.py [--seeds 50] [--epsilons 0.5 1 3 8]

`bounds`: the one-run lower bound (20,000 canaries, delta 1e-5) on 20 rounds with the noise that the door
draws, sized for each claim; and with noise two and three times too small. Goals: no bound above the
claim on any honest seed, and every one above it at three times too small.

`inversion`: closed-form gradient inversion of centred EfficientNet-Lite0 features of scikit-learn's digits, at
the noise of each claim. Goals: cosine of at least .99 from the raw update of one record, and at most .15
from what is released.

`membership`: LiRA on heads trained on the same records, at the noise of each claim and without any.
"""

import argparse
import json
import time
from typing import Any

import numpy as np
from private_accuracy import digits

from foedus.attacks.heads import Training
from foedus.attacks.inversion import invert_updates
from foedus.attacks.lira import infer_membership
from foedus.attacks.one_run import LowerBound, audit_mechanism
from foedus.attacks.release import Release
from foedus.backbones import public_standardiser
from foedus.examples import Examples
from foedus.privacy.accountant import Gaussian, calibrate
from foedus.privacy_check import Claim, release_of

DELTA, ROUNDS, CANARIES, LR, RECORDS = 1e-5, 20, 20_000, 5.0, 300
TOO_SMALL = (1.0, 2.0, 3.0)


def door(epsilon: float, *, too_small: float = 1.0) -> Release:
    """One round's noise as the door draws it, for a claim over all rounds."""
    noise = calibrate(epsilon, DELTA, steps=ROUNDS) / too_small
    return release_of(Claim("the rounds", Gaussian(noise, steps=ROUNDS), DELTA), clip_norm=1.0)


def bounds(epsilons: list[float], seeds: int) -> list[dict[str, Any]]:
    """For each claim and each size of the noise: how many bounds are above the claim, and where they lie."""
    found = []
    for epsilon in epsilons:
        for too_small in TOO_SMALL:
            each = [highest(_bound(door(epsilon, too_small=too_small), seed)) for seed in range(seeds)]
            found.append(
                {
                    "claim": epsilon,
                    "noise_too_small_by": too_small,
                    "seeds": seeds,
                    "above_the_claim": sum(bound > epsilon for bound in each),
                    "bound": {
                        name: round(float(f(each)), 2)
                        for name, f in (("min", min), ("mean", np.mean), ("max", max))
                    },
                }
            )
    return found


def _bound(release: Release, seed: int) -> LowerBound:
    rng = np.random.default_rng(seed)
    return audit_mechanism(
        release, CANARIES, n_canaries=CANARIES, clip_norm=1.0, delta=DELTA, rng=rng, rounds=ROUNDS
    )


def highest(bound: LowerBound) -> float:
    """The larger of the two bounds, which is what decides."""
    return max(bound.epsilon_dp, bound.epsilon_fdp)


def centred() -> Examples:
    """Records as a private study's head sees them: length one, centred, length one."""
    case = digits()
    x = np.vstack([part.features for part in case.sites])
    labels = np.concatenate([part.labels for part in case.sites])
    public = public_standardiser(case.dim, None)
    rows = np.random.default_rng(0).permutation(len(x))[:RECORDS]
    x = public.apply(x)
    x = x - x.mean(axis=0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return Examples(x[rows].astype(np.float32), labels[rows])


def inversion(examples: Examples, epsilon: float) -> list[dict[str, float]]:
    """Cosines by units behind one update."""
    training = Training(1, LR, 1.0)
    rng = np.random.default_rng(0)
    found = [
        invert_updates(examples, size, n_classes=10, training=training, release=door(epsilon), rng=rng)
        for size in (1, 8, 64)
    ]
    return [
        {
            "units": each.batch_size,
            "raw": round(each.raw, 3),
            "released": round(each.released, 3),
            "chance": round(each.chance, 3),
        }
        for each in found
    ]


def membership(examples: Examples, release: Release | None) -> dict[str, float]:
    """Area under the curve, and members found at 1 % false alarms."""
    found = infer_membership(
        examples,
        n_classes=10,
        training=Training(ROUNDS, LR, 1.0),
        rng=np.random.default_rng(0),
        **({} if release is None else {"release": release}),
    )
    return {"auc": round(found.auc.value, 3), "tpr_at_1_percent": round(found.tpr_at_1_percent.value, 4)}


def goals(found: dict[str, Any]) -> dict[str, bool]:
    """Each goal, and whether it was met."""
    honest = [row for row in found["bounds"] if row["noise_too_small_by"] == 1]
    third = [row for row in found["bounds"] if row["noise_too_small_by"] == max(TOO_SMALL)]
    one = [rows[0] for rows in found["inversion"].values()]
    return {
        "no honest bound above its claim": all(row["above_the_claim"] == 0 for row in honest),
        "noise three times too small always found": all(
            row["above_the_claim"] == row["seeds"] for row in third
        ),
        "inversion of one record, raw, at least .99": min(row["raw"] for row in one) >= 0.99,
        "inversion of one record, released, at most .15": max(row["released"] for row in one) <= 0.15,
    }


def main() -> None:
    """Measure and print JSON; exit code 1 if a goal is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--epsilons", type=float, nargs="+", default=[0.5, 1.0, 3.0, 8.0])
    asked = parser.parse_args()
    begun = time.process_time()
    examples = centred()
    found: dict[str, Any] = {
        "bounds": bounds(asked.epsilons, asked.seeds),
        "inversion": {f"{epsilon:g}": inversion(examples, epsilon) for epsilon in asked.epsilons},
        "membership": {
            "without noise": membership(examples, None),
            **{f"{epsilon:g}": membership(examples, door(epsilon)) for epsilon in asked.epsilons},
        },
    }
    found["goals"] = goals(found)
    found["cpu_s"] = round(time.process_time() - begun)
    print(json.dumps(found, indent=1))
    raise SystemExit(0 if all(found["goals"].values()) else 1)


if __name__ == "__main__":
    main()
