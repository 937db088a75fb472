"""The feature cache: the frozen backbone runs once per example and site, and never again.

Features lie on the site's own disk, readable by its owner only, keyed by the backbone's and
the data's digest; they never cross the door.
"""

import logging
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from foedus.backbones import BackboneSpec, open_backbone
from foedus.data import SiteData
from foedus.errors import BackboneError
from foedus.study import Study

log = logging.getLogger(__name__)

CHUNK = 256
"""Examples embedded between two steps of the progress bar."""


def features(
    folder: Path, data: SiteData, spec: BackboneSpec, study: Study, *, device: str
) -> NDArray[np.float32]:
    """(n, dim) features of every record, float32; from the cache if it is there.

    Args:
        folder: The site's folder; the cache is in its .foedus/features.
        data: The site's records.
        spec: The study's backbone.
        study: For opening the backbone when the cache is cold.
        device: "cpu" or "cuda".

    Raises:
        BackboneError: If the backbone gives values that are not finite.
    """
    if spec.modality == "table":
        return open_backbone(study.backbone, study.table, device=device).embed(data.inputs)
    path = folder / ".foedus" / "features" / f"{spec.digest[:24]}-{data.digest[:24]}.npy"
    if not path.exists():
        _embed(path, data, spec, study, device=device)
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False), np.float32)


def _embed(path: Path, data: SiteData, spec: BackboneSpec, study: Study, *, device: str) -> None:
    """Fill the cache: into a temporary file first, so that a killed pass leaves nothing behind."""
    embedder = open_backbone(study.backbone, study.table, device=device)
    console = Console(stderr=True, quiet=not sys.stderr.isatty())
    total = len(data.labels)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".features.")
    os.close(handle)
    try:
        cache = open_memmap(name, mode="w+", dtype=np.float16, shape=(total, spec.dim))
        for begin in track(
            range(0, total, CHUNK), f"Features of {path.parents[2].name}", console=console, transient=True
        ):
            rows = range(begin, min(begin + CHUNK, total))
            embedded = embedder.embed([data.inputs[row] for row in rows])
            if not np.isfinite(embedded).all() or np.abs(embedded).max(initial=0) > np.finfo(np.float16).max:
                raise BackboneError(
                    f"{spec.source} gave features that are not finite or beyond half precision."
                )
            cache[rows.start : rows.stop] = embedded
        cache.flush()
        del cache
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
    log.info("embedded %s examples with %s", total, spec.source)
