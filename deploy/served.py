"""A bundle that answers: verified, opened with the backbone it was trained on, and ready for requests."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.answering import AuditedHead
from deploy.batching import Batcher
from deploy.bundle import HEAD_FILE, POLICY_FILE, SERVING_FILE, STUDY_FILE, Bundle, open_bundle
from deploy.reading import Input, Records, inputs_of, read_records
from deploy.releases import find_current
from deploy.tensors import Tensor
from fairness.policy import load_policy
from fairness.signing import PublicKey, read
from foedus.backbones import Embedder, Standardiser, describe
from foedus.backbones.saving import open_saved
from foedus.confidence import Serving
from foedus.errors import BackboneError, ReleaseError, RunError
from foedus.files import read_arrays
from foedus.head import LinearHead
from foedus.study import Study, load_study


@dataclass(frozen=True)
class Served:
    """A bundle in memory.

    Attributes:
        bundle: As it was verified.
        study: Of the bundle.
        embedder: The backbone.
        head: The audited head.
        batcher: Runs the backbone.
    """

    bundle: Bundle
    study: Study
    embedder: Embedder
    head: AuditedHead
    batcher: Batcher

    @property
    def inputs(self) -> list[Input]:
        """What it reads."""
        return inputs_of(self.embedder.spec.modality, self.study.table)

    def read(self, inputs: Mapping[str, Tensor]) -> Records:
        """The records of a request; see `read_records`."""
        return read_records(self.embedder.spec.modality, self.study.table, inputs)

    @property
    def expired(self) -> bool:
        """Whether an approval's term is over."""
        last = self.bundle.expires
        return last is not None and last < datetime.now(UTC).date()


def load(
    path: Path,
    keys: Sequence[PublicKey],
    *,
    device: str = "cpu",
    max_batch: int = 32,
    on_batch: Callable[[int], None] = lambda n: None,
) -> Served:
    """Verify the bundle that `path` stands for, and open it.

    Args:
        path: A bundle, or a folder of releases.
        keys: Whom to trust.
        device: Where the backbone runs.
        max_batch: Most records the backbone sees at once.
        on_batch: Told of every batch's number of records.

    Raises:
        ReleaseError: If it does not hold, or the backbone here is not the one it was trained with.
    """
    bundle = open_bundle(find_current(path, keys), keys)
    try:
        study = load_study(bundle.path / STUDY_FILE)
        digest = describe(study.backbone, study.table).digest
        if digest != bundle.manifest.backbone_digest:
            raise ReleaseError(
                f"{bundle.path} is not served: '{study.backbone.source}' on this machine has digest {digest[:12]}, and "
                f"the bundle's head was trained on {bundle.manifest.backbone_digest[:12]}; bring those weights"
            )
        embedder = open_saved(study, bundle.path / "model", device=device, batch_size=max_batch)
        head = _head(bundle, study)
    except (BackboneError, RunError) as error:
        raise ReleaseError(f"{bundle.path} is not served: {error}") from error
    batcher = Batcher(_runner(embedder), max_records=max_batch, on_batch=on_batch)
    return Served(bundle, study, embedder, head, batcher)


def _head(bundle: Bundle, study: Study) -> AuditedHead:
    listed = bundle.manifest.files[HEAD_FILE].sha256
    arrays = read_arrays(bundle.path / HEAD_FILE, sha256=listed)
    threshold = load_policy(bundle.path / POLICY_FILE).policy.decision_threshold
    return AuditedHead(
        Standardiser.from_arrays(arrays),
        LinearHead.from_arrays(arrays),
        study.study.classes,
        study.positive_index,
        threshold if study.n_classes == 2 else None,
        read(bundle.path / SERVING_FILE, Serving, "serving settings"),
    )


def _runner(embedder: Embedder) -> Callable[[Sequence[Any]], list[NDArray[np.float32]]]:
    """The backbone over the records of several requests."""

    def run(parts: Sequence[Any]) -> list[NDArray[np.float32]]:
        if len(parts) == 1 or embedder.spec.modality == "table":
            return [embedder.embed(part) for part in parts]
        found = embedder.embed([record for part in parts for record in part])
        ends = np.cumsum([len(part) for part in parts])[:-1]
        return np.split(found, ends)

    return run
