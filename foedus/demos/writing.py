"""Writing a study folder: the study and policy of a demo, and one folder for each site."""

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from foedus.site import SITE_FILE

_BARE_KEY = re.compile(r"^[A-Za-z0-9_-]+$")
_SEED = "seed = 0\n"


def write_study(source: Path, folder: Path, *, seed: int) -> None:
    """Copy study.toml, with its seed set, and policy.toml if there is one, from `source` to `folder`."""
    text = (source / "study.toml").read_text(encoding="utf-8")
    if text.count(_SEED) != 1:
        raise ValueError(f"{source.name}/study.toml must say '{_SEED.strip()}' once")
    (folder / "study.toml").write_text(text.replace(_SEED, f"seed = {seed}\n"), encoding="utf-8")
    policy = source / "policy.toml"
    if policy.exists():
        (folder / "policy.toml").write_bytes(policy.read_bytes())


def write_site(
    sites: Path,
    name: str,
    *,
    data: Mapping[str, Any],
    split: Mapping[str, Any],
    groups: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """The folder of the site `name`, made with its site.toml; the caller adds the data.

    The policy is that of a simulation: sums may leave as they are, and so may the site's own figures.
    """
    folder = sites / name
    folder.mkdir(parents=True)
    tables = {
        "site": {"name": name},
        "data": data,
        **{f"groups.{group}": table for group, table in (groups or {}).items()},
        "split": split,
        "policy": {"doors": ["open"], "release_site_metrics": True},
    }
    header = "# Written by a Foedus demo: a simulated site, which is why its door is open.\n"
    (folder / SITE_FILE).write_text(header + to_toml(tables), encoding="utf-8")
    return folder


def to_toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """TOML text of tables of plain values; a mapping inside a table becomes a sub-table."""
    lines: list[str] = []
    for title, table in tables.items():
        inner = {key: value for key, value in table.items() if isinstance(value, Mapping)}
        lines += ["", f"[{title}]"]
        # JSON strings, numbers, booleans and lists are TOML values as they stand.
        lines += [f"{_key(k)} = {json.dumps(v)}" for k, v in table.items() if k not in inner]
        for key, values in inner.items():
            lines += ["", f"[{title}.{_key(key)}]"]
            lines += [f"{_key(k)} = {json.dumps(v)}" for k, v in values.items()]
    return "\n".join(lines) + "\n"


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A UTF-8 CSV file with a header."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _key(key: str) -> str:
    return key if _BARE_KEY.match(key) else json.dumps(key)
