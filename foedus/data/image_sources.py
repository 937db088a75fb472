"""Images at a site: a folder per class, a manifest (CSV or Parquet), or a MedMNIST .npz."""

import hashlib
import json
import os
import posixpath
import zipfile
import zlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foedus.data import index
from foedus.data.cells import Cell, canonical, cell_text
from foedus.data.frames import CSV_SUFFIXES, PARQUET_SUFFIXES, Frame, read_frame
from foedus.data.images import SUFFIXES, ImageArray, ImageFiles
from foedus.data.sources import Notes, Source, asked_columns, label_column
from foedus.errors import DataError
from foedus.files import sha256_file
from foedus.site import SiteConfig

if TYPE_CHECKING:
    from foedus.data.site_data import Inputs

IGNORED = ("thumbs.db", "desktop.ini")
NPZ_SPLITS = {"train": "train", "val": "validation", "test": "test"}


def read(folder: Path, path: Path, site: SiteConfig) -> Source:
    """All images of a site; `path` exists.

    Raises:
        DataError: If they cannot be read as a whole.
    """
    if path.is_dir():
        return _from_folder(folder, path, site)
    if path.suffix.lower() == ".npz":
        return _from_npz(path, site)
    if path.suffix.lower() in (*CSV_SUFFIXES, *PARQUET_SUFFIXES):
        return _from_manifest(folder, path, site)
    raise DataError(
        f"[data] path '{site.data.path}' is not a way Foedus reads images; give a folder with one sub-folder "
        "per class, a CSV or Parquet manifest, or a MedMNIST .npz."
    )


def _from_folder(folder: Path, root: Path, site: SiteConfig) -> Source:
    _refuse_columns(site, "a folder of images")
    _refuse_several(site)
    classes = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not classes:
        raise DataError(
            f"[data] path '{site.data.path}' has no sub-folders; put the images in one sub-folder per class."
        )
    names, labels, bad = list[str](), list[Cell](), dict[int, str]()
    for stray in sorted(p for p in root.iterdir() if p.is_file() and p.suffix.lower() in SUFFIXES):
        bad[len(names)] = "image is in no class folder"
        names.append(stray.name)
        labels.append(None)
    for class_folder in classes:
        for file in _files_below(class_folder):
            if file.is_dir():
                bad[len(names)] = "link to a folder, which is not followed"
            names.append(file.relative_to(root).as_posix())
            labels.append(class_folder.name)
    return _from_files(folder, root, names, labels, Frame({}, len(names)), bad, content="")


def _files_below(folder: Path) -> list[Path]:
    """Visible files, and links to folders, below a folder, sorted."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        visible = [f for f in files if not f.startswith(".") and f.lower() not in IGNORED]
        found += [Path(parent) / name for name in [*visible, *links]]
    return sorted(found)


def _from_manifest(folder: Path, path: Path, site: SiteConfig) -> Source:
    frame = read_frame(path)
    label = label_column(frame, site, [("[data] image", site.data.image)])
    cells = [canonical(cell) for cell in frame.columns[site.data.image]]
    bad = {row: "image path is empty" for row, cell in enumerate(cells) if cell is None} | frame.bad
    names = ["" if cell is None else posixpath.normpath(cell) for cell in cells]
    source = _from_files(
        folder, path.parent, names, frame.columns[label], frame, bad, content=sha256_file(path)
    )
    source.names[:] = [f"{row}: {name}" for row, name in zip(frame.names(), names, strict=True)]
    return source


def _from_files(
    folder: Path,
    root: Path,
    names: list[str],
    labels: list[Cell],
    frame: Frame,
    bad: dict[int, str],
    *,
    content: str,
) -> Source:
    """Records whose images are files `names` below `root`; `content` goes into the digest."""
    inside = _guard(folder, root)
    for row, name in enumerate(names):
        if row not in bad and not inside(root / name):
            bad[row] = "image path leads outside the site's folder"
        elif row not in bad and not (root / name).is_file():
            bad[row] = "image file does not exist"
    entries = index.verify(folder, {n: root / n for row, n in enumerate(names) if row not in bad})
    for row, name in enumerate(names):
        if row not in bad and (problem := entries[name].problem) is not None:
            bad[row] = problem
    contents = [entries[name].sha256 if name in entries else "" for name in names]

    def take(rows: NDArray[np.int64]) -> "tuple[Inputs, Notes]":
        return ImageFiles([root / names[row] for row in rows.tolist()]), {}

    files = sorted((name, entry.size_bytes, entry.sha256) for name, entry in entries.items())
    digest = hashlib.sha256(json.dumps([content, files]).encode()).hexdigest()
    return Source(list(names), labels, frame, contents, bad, take, None, digest)


def _guard(folder: Path, root: Path) -> Any:
    """Tells whether a file, links followed, lies in the site's folder or where [data] path points."""
    allowed = (folder.resolve(), root.resolve())

    @cache
    def resolved(parent: Path) -> Path:
        return parent.resolve()

    def inside(file: Path) -> bool:
        try:
            real = file.resolve() if file.is_symlink() else resolved(file.parent) / file.name
        except (OSError, RuntimeError):  # a loop of links
            return False
        return any(real.is_relative_to(place) for place in allowed)

    return inside


def _from_npz(path: Path, site: SiteConfig) -> Source:
    _refuse_columns(site, "an .npz of images")
    arrays = _npz_arrays(path)
    images, labels, names, splits = [], list[Cell](), list[str](), list[str]()
    for key, split in NPZ_SPLITS.items():
        images.append(_npz_images(arrays[f"{key}_images"], key))
        found = _npz_labels(arrays[f"{key}_labels"], len(images[-1]), key, mark=site.data.label_separator)
        labels += found
        names += [f"{key} {i}" for i in range(len(found))]
        splits += [split] * len(found)
    if len({block.shape[1:] for block in images}) > 1:
        raise DataError(f"'{path.name}' holds images of several sizes; train, val and test must have one.")
    pixels = np.concatenate(images)
    contents = [hashlib.sha256(picture.tobytes()).hexdigest() for picture in pixels]

    def take(rows: NDArray[np.int64]) -> "tuple[Inputs, Notes]":
        return ImageArray(pixels if len(rows) == len(pixels) else pixels[rows]), {}

    return Source(names, labels, Frame({}, len(names)), contents, {}, take, splits, sha256_file(path))


def _npz_arrays(path: Path) -> dict[str, NDArray[Any]]:
    expected = [f"{key}_{what}" for key in NPZ_SPLITS for what in ("images", "labels")]
    try:
        if not zipfile.is_zipfile(path):
            raise zipfile.BadZipFile
        with np.load(path, allow_pickle=False) as file:
            absent = [key for key in expected if key not in file.files]
            if absent:
                raise DataError(
                    f"'{path.name}' has no array {', '.join(absent)}; "
                    f"a MedMNIST .npz has {', '.join(expected)}."
                )
            return {key: file[key] for key in expected}
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile):
        raise DataError(
            f"'{path.name}' is not a readable .npz of plain arrays; it may be cut off (download it again) or "
            "hold Python objects, which are never loaded."
        ) from None


def _npz_images(images: NDArray[Any], key: str) -> NDArray[np.uint8]:
    shape = " x ".join(map(str, images.shape))
    flat = images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)
    if images.dtype != np.uint8 or not flat:
        raise DataError(
            f"{key}_images is {shape} {images.dtype}; expected n x H x W or n x H x W x 3 uint8 "
            "(volumes, e.g. the 3D sets of MedMNIST, are not read)."
        )
    return images


def _npz_labels(labels: NDArray[Any], n_images: int, key: str, *, mark: str | None) -> list[Cell]:
    """Each image's label or, where a site names a separator, the numbers of the columns that hold a 1."""
    if mark is not None and labels.ndim == 2 and len(labels) == n_images and np.isin(labels, (0, 1)).all():
        return [mark.join(map(str, np.flatnonzero(row))) for row in labels]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or len(labels) != n_images:
        shape = " x ".join(map(str, labels.shape))
        raise DataError(
            f"{key}_labels is {shape} for {n_images} images; expected one label per image "
            "(several per image, as in ChestMNIST: columns of 0 and 1, with [data] label_separator)."
        )
    return [cell_text(value) for value in labels.tolist()]


def _refuse_several(site: SiteConfig) -> None:
    if site.data.label_separator is not None:
        raise DataError(
            "[data] label_separator: a folder per class gives every image one class; list the images in a manifest "
            "(CSV or Parquet with a column for the path and one for the labels)."
        )


def _refuse_columns(site: SiteConfig, what: str) -> None:
    asked = asked_columns(site)
    if asked:
        keys = ", ".join(key for key, _ in asked)
        raise DataError(
            f"{keys}: {what} has no columns; list the images in a manifest (CSV or Parquet with a column for "
            "the path and one for each of these)."
        )
