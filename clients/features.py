"""The feature cache: the frozen backbone runs once per example and site, and never again.

Features lie on the site's own disk, readable by its owner only, keyed by the backbone's and
the data's digest; they never cross the door.
"""

import logging
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from foedus.backbones import BackboneSpec, open_backbone
from foedus.data import SiteData
from foedus.errors import BackboneError
from foedus.study import Study

if TYPE_CHECKING:
    from foedus.backbones.tunable import Kept, Tunable

log = logging.getLogger(__name__)

CHUNK = 256
"""Examples embedded between two steps of the progress bar."""
Layout = tuple[tuple[int, ...], np.dtype[Any]]


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


def kept(folder: Path, data: SiteData, tunable: "Tunable") -> "Kept":
    """What lies below the cut of a backbone that learns, of every record; from the cache if it is there.

    Args:
        folder: The site's folder; the cache is in its .foedus/features.
        data: The site's records.
        tunable: The backbone.

    Returns:
        Memory-mapped arrays, one row a record: nothing is read before it is needed.

    Raises:
        BackboneError: If the backbone gives values that are not finite.
    """
    stem = folder / ".foedus" / "features" / f"{tunable.digest[:24]}-{data.digest[:24]}"
    layout = tunable.path.layout()
    paths = [stem.with_name(f"{stem.name}-{place}.npy") for place in range(len(layout))]
    if not all(path.exists() for path in paths):
        shapes = [((len(data.labels), *shape), dtype) for shape, dtype in layout]

        def fill(rows: range) -> "Kept":
            return tunable.path.below([data.inputs[row] for row in rows])

        _fill(paths, shapes, fill, total=len(data.labels))
    return tuple(np.load(path, mmap_mode="r", allow_pickle=False) for path in paths)


def _embed(path: Path, data: SiteData, spec: BackboneSpec, study: Study, *, device: str) -> None:
    """Fill the cache; a killed pass leaves nothing behind."""
    embedder = open_backbone(study.backbone, study.table, device=device)
    total = len(data.labels)

    def fill(rows: range) -> "Kept":
        with np.errstate(over="ignore"):  # what does not fit half precision is refused below
            return (embedder.embed([data.inputs[row] for row in rows]).astype(np.float16),)

    _fill([path], [((total, spec.dim), np.dtype(np.float16))], fill, total=total)
    log.info("embedded %s examples with %s", total, spec.source)


def _fill(paths: list[Path], shapes: list[Layout], fill: "Callable[[range], Kept]", *, total: int) -> None:
    """Write each array a chunk at a time, into temporary files first."""
    console = Console(stderr=True, quiet=not sys.stderr.isatty())
    paths[0].parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    names = [_temporary(paths[0].parent) for _ in paths]
    title = f"Features of {paths[0].parents[2].name}"
    try:
        caches = [
            open_memmap(name, mode="w+", dtype=dtype, shape=shape)
            for name, (shape, dtype) in zip(names, shapes, strict=True)
        ]
        for begin in track(range(0, total, CHUNK), title, console=console, transient=True):
            rows = range(begin, min(begin + CHUNK, total))
            for cache, found in zip(caches, fill(rows), strict=True):
                if not np.isfinite(found).all():
                    raise BackboneError(
                        "the backbone gave features that are not finite or beyond half precision."
                    )
                cache[rows.start : rows.stop] = found
        for cache in caches:
            cache.flush()
        del caches
        for name, path in zip(names, paths, strict=True):
            Path(name).replace(path)
    finally:
        for name in names:
            Path(name).unlink(missing_ok=True)


def _temporary(folder: Path) -> str:
    handle, name = tempfile.mkstemp(dir=folder, prefix=".features.")
    os.close(handle)
    return name
