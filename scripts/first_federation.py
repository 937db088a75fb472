"""Writes docs/first-federation.md: every command a newcomer types to run a first federation, and what it says.

    python scripts/first_federation.py [docs/first-federation.md]

A coordinator and the heart study's four hospitals, on this machine, each with a home of its own.
"""

import os
import sys
import tempfile
from pathlib import Path

from foedus import demos, files
from foedus.demos.loopback import COORDINATOR, Loopback, Typed

ROUNDS = 5
HEAD = """# A first federation, typed

Written by `scripts/first_federation.py`, which types the commands and keeps what they say; a test runs it. Here
one machine plays a coordinator and four hospitals, each in a folder of its own. On real machines the folders are
on different ones, `--host` is the coordinator's name, and requests and kits travel by mail: they hold no secret.
`heart/` is what `foedus demo heart` leaves in `demo-data/`, with `secure-only` for `open` in the study and in each
`site.toml`, so that sums travel under masks, and fewer rounds.
What each step means is in [federation](federation.md).
"""
STEPS = (
    ("The coordinator sets up", ("coordinator", "init")),
    ("Each hospital checks its data", ("site", "check")),
    ("Each hospital makes its keys and a request to join", ("site", "init")),
    (
        "The coordinator approves the requests, after comparing fingerprints by telephone",
        ("coordinator", "approve"),
    ),
    ("Each hospital joins with the kit that comes back", ("site", "join")),
    ("The coordinator's service; keep it running", ("coordinator", "up")),
    ("Each hospital's service; keep it running", ("site", "start")),
    ("Who is there", ("coordinator", "roster")),
    ("A hospital looks again, now that there is somebody to reach", ("site", "check")),
    ("The study runs; the file is the one that ran under `foedus simulate`", ("run",)),
    ("What came of it", ("list",)),
    ("The audit, in a terminal; `report.html` beside it is for reading", ("audit", "show")),
    ("A hospital looks at what it allows, and what it has spent", ("site", "policy")),
    ("", ("site", "ledger")),
)


def write(folder: Path) -> str:
    """The page, from a federation in `folder`, which must be empty."""
    prepared = demos.prepare("heart", folder)
    study = prepared.study_path.read_text(encoding="utf-8")
    files.write_bytes(prepared.study_path, _shorter(study).encode())
    sites = {path.name: path for path in sorted(prepared.sites_path.iterdir())}
    for site in sites.values():
        toml = site / "site.toml"
        text = toml.read_text(encoding="utf-8")
        files.write_bytes(toml, text.replace('["open"]', '["secure-only"]').encode())
    federation = Loopback(folder / COORDINATOR, sites)
    first = next(iter(sites.values()))
    for site in sites.values():
        federation.foedus("site", "check", site)
    with federation:
        federation.foedus("coordinator", "roster", "--home", federation.home)
        federation.foedus("site", "check", first)
        federation.foedus("run", prepared.study_path, "--home", federation.home)
        [run] = federation.run_folders()
        federation.foedus("list", "--home", federation.home)
        federation.foedus("audit", "show", run)
        federation.foedus("site", "policy", first)
        federation.foedus("site", "ledger", first)
    return _page(federation.typed, folder)


def _shorter(study: str) -> str:
    """Through masks, and few rounds, so that the page is quick to make."""
    lines = [f"rounds = {ROUNDS}" if line.startswith("rounds =") else line for line in study.splitlines()]
    return "\n".join(lines).replace('mode = "open"', 'mode = "secure-only"') + "\n"


def _page(typed: list[Typed], folder: Path) -> str:
    remaining, parts = list(typed), [HEAD]
    for title, words in STEPS:
        mine = [line for line in remaining if line.words[: len(words)] == words]
        if title.startswith("A hospital looks again"):
            mine = mine[-1:]
        elif title.startswith("Each hospital checks"):
            mine = mine[:-1]
        remaining = [line for line in remaining if line not in mine]
        text = "\n".join(_shown(line, folder) for line in _few(mine))
        more = "" if len(mine) < 3 else "\nThe others do the same.\n"
        parts.append((f"\n## {title}\n" if title else "") + f"\n```console\n{text}```\n{more}")
    return "".join(parts)


def _few(mine: list[Typed]) -> list[Typed]:
    return mine[:1] if len(mine) > 2 else mine


def _shown(line: Typed, folder: Path) -> str:
    text = (
        f"$ foedus {' '.join(line.words)}\n{line.out.rstrip()}\n"
        if line.out.strip()
        else f"$ foedus {' '.join(line.words)}\n"
    )
    return "\n".join(part.rstrip() for part in text.replace(f"{folder}{os.sep}", "").splitlines()) + "\n"


def main() -> None:
    """Write the page."""
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/first-federation.md").resolve()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve()
        os.chdir(folder)
        files.write_bytes(out, write(folder).encode())
    sys.stdout.write(f"wrote {out}\n")


if __name__ == "__main__":
    main()
