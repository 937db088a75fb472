"""A head adapted once to a support set: fitted, saved in one file, loaded, and asked."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fewshot.closed_form import fit_ridge
from fewshot.guarantees import Guarantees, guarantees
from fewshot.methods import FITS
from fewshot.open_set import NONE_OF_THESE
from fewshot.support_set import SupportSet, count_right
from fewshot.whitening import MEAN, TRANSFORM, Whitening
from foedus import files
from foedus.config import nearest
from foedus.errors import FewShotError
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.statistic import Arrays
from foedus.study import Method

FORMAT = "foedus-adapted-head/1"
NEAR = 1e-3
"""A row this near to a case, relative to the case's length, counts as the case: another machine rounds otherwise."""


@dataclass(frozen=True)
class AdaptedHead:
    """Whitening and a linear head, temperature included.

    Attributes:
        method: How the head was fitted.
        classes: Names of the outputs.
        cases: Support examples of each class: how far its probabilities can be trusted.
        head: Reads whitened features, or the features themselves without a whitening.
        whitening: Learnt from the base classes, or None.
        support: The cases it was fitted on, or None: then no prediction sets and nothing is rejected.
    """

    method: Method
    classes: tuple[str, ...]
    cases: tuple[int, ...]
    head: LinearHead
    whitening: Whitening | None = None
    support: SupportSet | None = None

    def predict_proba(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """(n, n_classes), rows sum to 1; features (n, d) as the support's were (standardised or not)."""
        return self.head.probabilities(self.seen(features))

    def predict(self, features: NDArray[np.floating], *, reject: bool = False) -> list[str]:
        """The most probable class of each row, by name; with `reject`, "none of these" far from all of them.

        Raises:
            FewShotError: If nothing can be rejected: no case was kept, or no class has two.
        """
        names = [self.classes[i] for i in self.predict_proba(features).argmax(1)]
        if not reject:
            return names
        strange = self._require_support().rejects(self.seen(features))
        return [NONE_OF_THESE if odd else name for name, odd in zip(names, strange, strict=True)]

    def seen(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """(n, d), as the linear head reads them."""
        dim = self.head.weight.shape[1]
        if features.ndim != 2 or features.shape[1] != dim:
            raise FewShotError(f"features have shape {features.shape}, expected (n, {dim})")
        seen = features if self.whitening is None else self.whitening.transform(features)
        return seen.astype(np.float32)

    def is_case(self, features: NDArray[np.floating]) -> NDArray[np.bool_]:
        """(n,), whether a row is one of the cases it was fitted on, or so near to one that it could be.

        Raises:
            FewShotError: If no case was kept.
        """
        cases, rows = self._require_support().features.astype(np.float64), self.seen(features)
        norms = (cases**2).sum(1)
        found = [
            bool((((cases - row) ** 2).sum(1) <= NEAR**2 * norms).any()) for row in rows.astype(np.float64)
        ]
        return np.array(found, bool)

    def predict_set(
        self, features: NDArray[np.floating], alpha: float = 0.1, *, per_class: bool = False
    ) -> list[list[str]]:
        """The classes of each row that cannot be ruled out, by name (`ClosedFormHead.predict_set`).

        Raises:
            FewShotError: If no case was kept, or alpha is not between 0 and 1.
        """
        sets = self._require_support().sets(self.seen(features), alpha=alpha, per_class=per_class)
        return [[self.classes[i] for i in np.flatnonzero(row)] for row in sets]

    @property
    def guarantees(self) -> Guarantees:
        """What its number of cases can promise."""
        return guarantees(self.cases, right=None if self.support is None else self.support.right)

    def unstandardised(self, mean: NDArray[np.float64], scale: NDArray[np.float64]) -> "AdaptedHead":
        """The same function of raw features, given that this one reads (x - mean) / scale.

        Without a whitening the support is left behind: it was standardised, and queries no longer are.
        """
        if self.whitening is None:
            return replace(self, head=self.head.unstandardised(mean, scale), support=None)
        return replace(self, whitening=self.whitening.unstandardised(mean, scale))

    def arrays(self) -> Arrays:
        """Everything numeric, by name."""
        whitening = {} if self.whitening is None else self.whitening.arrays()
        support = {} if self.support is None else self.support.arrays()
        return self.head.arrays() | whitening | support

    def _require_support(self) -> SupportSet:
        if self.support is None:
            raise FewShotError("the head was saved without its cases; fit it again with them")
        return self.support

    def about(self) -> dict[str, object]:
        """Everything else, ready for JSON."""
        return {
            "format": FORMAT,
            "method": self.method,
            "classes": list(self.classes),
            "cases": list(self.cases),
        }

    @classmethod
    def from_arrays(cls, arrays: Arrays, about: dict[str, object]) -> "AdaptedHead":
        """The head from `arrays()` and `about()`.

        Raises:
            FewShotError: If they are not what those two return.
        """
        classes, cases, method = about.get("classes"), about.get("cases"), about.get("method")
        chosen: Method | None = next((known for known in FITS if known == method), None)
        if (
            about.get("format") != FORMAT
            or chosen is None
            or not isinstance(classes, list)
            or not isinstance(cases, list)
        ):
            raise FewShotError(f"the file does not describe a head of format {FORMAT}; save it again")
        weight, bias = arrays.get("weight"), arrays.get("bias")
        if weight is None or bias is None or weight.shape[:1] != bias.shape or len(bias) != len(classes):
            raise FewShotError(f"weight and bias do not fit {len(classes)} classes; save the head again")
        whitening = Whitening.from_arrays(arrays) if MEAN in arrays or TRANSFORM in arrays else None
        names, counts = tuple(map(str, classes)), tuple(map(int, cases))
        support = SupportSet.from_arrays(arrays, n_classes=len(names))
        return cls(chosen, names, counts, LinearHead.from_arrays(arrays), whitening, support)

    def save(self, path: Path) -> None:
        """Write one safetensors file (JSON in its header), whole or not at all.

        Raises:
            RunError: If it cannot be written; what was at `path` is then as it was.
        """
        header = {"foedus": json.dumps(self.about(), sort_keys=True)}
        arrays = {key: np.ascontiguousarray(value) for key, value in self.arrays().items()}
        files.write_bytes(path, save(arrays, metadata=header))

    @classmethod
    def load(cls, path: Path) -> "AdaptedHead":
        """The head in a file that `save` wrote.

        Raises:
            FewShotError: If the file is missing or is something else.
        """
        try:
            return cls.from_bytes(path.read_bytes())
        except OSError:
            raise FewShotError(f"{path} does not exist; fit a head with `foedus fewshot fit`") from None
        except (SafetensorError, ValueError):
            raise FewShotError(f"{path} is not a head that Foedus saved; fit it again") from None

    @classmethod
    def from_bytes(cls, content: bytes) -> "AdaptedHead":
        """The head in the content of a file that `save` wrote.

        Raises:
            FewShotError: If it does not describe a head.
            SafetensorError, ValueError: If it is something else.
        """
        arrays = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        about = json.loads(header.get("__metadata__", {}).get("foedus", "{}"))
        return cls.from_arrays(arrays, about)


def adapt(
    support: Examples,
    method: str,
    *,
    classes: list[str],
    whitening: Whitening | None = None,
    towards: NDArray[np.floating] | None = None,
) -> AdaptedHead:
    """A head for the classes that occur in the support set.

    Args:
        support: Features (n, d) and labels, indices into `classes`.
        method: One of `fewshot.methods.FITS`.
        classes: Names of the study's classes; those without a support example are left out.
        whitening: Learnt from the base classes; None uses the features as they are.
        towards: (n_classes, d), linear weights of the features as they come, which the ridge is shrunk
            to: what the texts that name the classes say.

    Raises:
        FewShotError: If the method is unknown, the support has fewer than 2 classes, or its
            features are not finite or do not fit the whitening.
    """
    chosen = _known(method, towards)
    present, labels = np.unique(support.labels, return_inverse=True)
    _check(support, present, classes=classes, whitening=whitening)
    seen = support.features if whitening is None else whitening.transform(support.features)
    features, places = seen.astype(np.float64), labels.astype(np.int64)
    if towards is None:
        heads = FITS[chosen](features[None], places)
    else:
        weight = towards[present] if whitening is None else whitening.carried(towards[present])
        heads = fit_ridge(features[None], places, towards=weight[None].astype(np.float64))
    head = LinearHead(heads.weight[0].astype(np.float32), heads.bias[0].astype(np.float32))
    names = tuple(classes[i] for i in present)
    cases = tuple(int(n) for n in np.bincount(places))
    right = count_right(chosen, features, places, heads=heads)
    kept = SupportSet(seen.astype(np.float32), places, right)
    return AdaptedHead(chosen, names, cases, head, whitening, kept)


def _known(method: str, towards: NDArray[np.floating] | None) -> Method:
    chosen: Method | None = next((known for known in FITS if known == method), None)
    if chosen is None:
        raise FewShotError(f"method is '{method}'; {nearest(method, list(FITS))}")
    if towards is not None and chosen != "ridge":
        raise FewShotError(f"method is '{method}', and only 'ridge' is shrunk towards the classes' texts")
    return chosen


def _check(
    support: Examples, present: NDArray[np.int64], *, classes: list[str], whitening: Whitening | None
) -> None:
    if len(present) < 2:
        raise FewShotError(
            f"the support set has {len(present)} class{'' if len(present) == 1 else 'es'}, "
            "expected at least 2; add labelled examples of another class"
        )
    if present[0] < 0 or present[-1] >= len(classes):
        raise FewShotError(f"a support label is outside 0..{len(classes) - 1}; use the classes named")
    if not np.isfinite(support.features).all():
        raise FewShotError("the support features have values that are not finite; remove those examples")
    if whitening is not None and support.features.shape[1] != len(whitening.mean_):
        raise FewShotError(
            f"features have length {support.features.shape[1]} but the whitening has "
            f"{len(whitening.mean_)}; use the backbone it was learnt with"
        )
