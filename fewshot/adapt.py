"""A head adapted once to a support set: fitted, saved in one file, loaded, and asked."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fewshot.closed_form import FITS
from fewshot.whitening import MEAN, TRANSFORM, Whitening
from foedus import files
from foedus.config import nearest
from foedus.errors import FewShotError
from foedus.examples import Examples
from foedus.head import LinearHead
from foedus.statistic import Arrays
from foedus.study import Method

FORMAT = "foedus-adapted-head/1"


@dataclass(frozen=True)
class AdaptedHead:
    """Whitening and a linear head, temperature included.

    Attributes:
        method: How the head was fitted.
        classes: Names of the outputs.
        cases: Support examples of each class: how far its probabilities can be trusted.
        head: Reads whitened features, or the features themselves without a whitening.
        whitening: Learnt from the base classes, or None.
    """

    method: Method
    classes: tuple[str, ...]
    cases: tuple[int, ...]
    head: LinearHead
    whitening: Whitening | None = None

    def predict_proba(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """(n, n_classes), rows sum to 1; features (n, d) as the support's were (standardised or not)."""
        dim = self.head.weight.shape[1]
        if features.ndim != 2 or features.shape[1] != dim:
            raise FewShotError(f"features have shape {features.shape}, expected (n, {dim})")
        seen = features if self.whitening is None else self.whitening.transform(features)
        return self.head.probabilities(seen.astype(np.float32))

    def predict(self, features: NDArray[np.floating]) -> list[str]:
        """The most probable class of each row, by name."""
        return [self.classes[i] for i in self.predict_proba(features).argmax(1)]

    def unstandardised(self, mean: NDArray[np.float64], scale: NDArray[np.float64]) -> "AdaptedHead":
        """The same function of raw features, given that this one reads (x - mean) / scale."""
        if self.whitening is None:
            head, whitening = self.head.unstandardised(mean, scale), None
        else:
            head, whitening = self.head, self.whitening.unstandardised(mean, scale)
        return AdaptedHead(self.method, self.classes, self.cases, head, whitening)

    def arrays(self) -> Arrays:
        """Everything numeric, by name."""
        return self.head.arrays() | ({} if self.whitening is None else self.whitening.arrays())

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
        return cls(chosen, names, counts, LinearHead.from_arrays(arrays), whitening)

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
            with safe_open(str(path), framework="numpy") as file:
                about = json.loads((file.metadata() or {}).get("foedus", "{}"))
                arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            raise FewShotError(f"{path} does not exist; fit a head with `foedus fewshot fit`") from None
        except (SafetensorError, json.JSONDecodeError, OSError):
            raise FewShotError(f"{path} is not a head that Foedus saved; fit it again") from None
        return cls.from_arrays(arrays, about)


def adapt(
    support: Examples,
    method: str,
    *,
    classes: list[str],
    whitening: Whitening | None = None,
) -> AdaptedHead:
    """A head for the classes that occur in the support set.

    Args:
        support: Features (n, d) and labels, indices into `classes`.
        method: "prototypical" or "ridge".
        classes: Names of the study's classes; those without a support example are left out.
        whitening: Learnt from the base classes; None uses the features as they are.

    Raises:
        FewShotError: If the method is unknown, the support has fewer than 2 classes, or its
            features are not finite or do not fit the whitening.
    """
    chosen: Method | None = next((known for known in FITS if known == method), None)
    if chosen is None:
        raise FewShotError(f"method is '{method}'; {nearest(method, list(FITS))}")
    present, labels = np.unique(support.labels, return_inverse=True)
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
    features = support.features if whitening is None else whitening.transform(support.features)
    heads = FITS[chosen](features[None].astype(np.float64), labels.astype(np.int64))
    head = LinearHead(heads.weight[0].astype(np.float32), heads.bias[0].astype(np.float32))
    names = tuple(classes[i] for i in present)
    cases = tuple(int(n) for n in np.bincount(labels))
    return AdaptedHead(chosen, names, cases, head, whitening)
