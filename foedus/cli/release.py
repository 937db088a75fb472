"""foedus release: signed bundles of approved runs, and what becomes of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from foedus.cli.approve import ask_passphrase
from foedus.cli.output import JsonOption, console, print_json
from foedus.cli.studies import RUNS, Runs

if TYPE_CHECKING:
    from fairness.signing import PublicKey

Trust = Annotated[
    list[Path] | None,
    typer.Option("--trust", help="A public key (NAME.pub) that counts, or a folder of them; repeat it."),
]


def release(
    run: Annotated[str, typer.Argument(help="An approved run; with another action, a bundle or its folder.")],
    key: Annotated[Path | None, typer.Option("--key", help="The coordinator's private key.")] = None,
    trust: Trust = None,
    to: Annotated[Path, typer.Option("--to", help="Folder of all releases.")] = Path("releases"),
    verify: Annotated[bool, typer.Option("--verify", help="Check a bundle; change nothing.")] = False,
    rollback: Annotated[bool, typer.Option("--rollback", help="Release an earlier version again.")] = False,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Never serve a version again.")] = False,
    history: Annotated[bool, typer.Option("--log", help="Show what became of each version.")] = False,
    version: Annotated[int | None, typer.Option("--version", min=1, help="Which; else the latest.")] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="Kept in the log.")] = None,
    runs: Runs = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Build a signed bundle of an approved run; or verify, roll back or withdraw one. Exit code 1 if refused.

    Example: foedus release heart-20261121-101500-1f2e --key keys/hub.key --trust auditor/jane.pub
    """
    from foedus.errors import ConfigError

    if sum((verify, rollback, withdraw, history)) > 1:
        raise ConfigError("foedus release", ["--verify, --rollback, --withdraw and --log exclude each other"])
    keys = public_keys(trust)
    if verify:
        _verify(Path(run), keys, as_json=as_json)
    elif history:
        _history(Path(run), keys, as_json=as_json)
    elif rollback or withdraw:
        _change(Path(run), key, version, reason, withdraw=withdraw, as_json=as_json)
    else:
        _release(run, key, keys, to, runs, as_json=as_json)


def public_keys(trust: list[Path] | None) -> "list[PublicKey]":
    """The keys in files and folders, each once."""
    from fairness.signing import PUBLIC_SUFFIX, load_public

    files = [
        file
        for path in trust or []
        for file in (sorted(path.glob(f"*{PUBLIC_SUFFIX}")) if path.is_dir() else [path])
    ]
    found = [load_public(file) for file in files]
    return [key for place, key in enumerate(found) if key not in found[:place]]


def _release(
    run: str, key: Path | None, keys: "list[PublicKey]", to: Path, runs: Path, *, as_json: bool
) -> None:
    from fairness.signing import load_signer
    from foedus import releasing
    from foedus.runs import find_run

    signer = load_signer(_needed(key), passphrase=ask_passphrase)
    found = releasing.release(find_run(runs, run), signer, keys=keys, to=to)
    if as_json:
        print_json({"bundle": str(found.path), **found.manifest.model_dump()})
        return
    console.print(
        escape(f"{found.path}: {found.name} version {found.version}, audit {found.manifest.verdict}")
    )
    console.print(escape(f"manifest {found.manifest.digest}, signed by {signer.public.name}"), soft_wrap=True)


def _verify(path: Path, keys: "list[PublicKey]", *, as_json: bool) -> None:
    from deploy.bundle import open_bundle
    from deploy.releases import find_current

    found = open_bundle(find_current(path, keys), keys)
    if as_json:
        print_json({"ok": True, "bundle": str(found.path), **found.manifest.model_dump()})
        return
    console.print(escape(f"{found.path} holds: {len(found.manifest.files)} files, signatures and approval"))


def _history(path: Path, keys: "list[PublicKey]", *, as_json: bool) -> None:
    from deploy.releases import Releases

    entries = Releases(path).entries(keys)
    if as_json:
        print_json([entry.model_dump() for entry in entries])
        return
    for entry in entries:
        why = f": {entry.reason}" if entry.reason else ""
        console.print(escape(f"{entry.time}  version {entry.version}  {entry.state}{why}"))


def _change(
    path: Path, key: Path | None, version: int | None, reason: str | None, *, withdraw: bool, as_json: bool
) -> None:
    from deploy.releases import Releases
    from fairness.signing import load_signer
    from foedus.errors import ConfigError

    if not reason:
        raise ConfigError("foedus release", ["say why with --reason; it is kept in the log"])
    signer, releases = load_signer(_needed(key), passphrase=ask_passphrase), Releases(path)
    if withdraw:
        entry = releases.withdraw(signer, version=version or releases.current(), reason=reason)
    else:
        entry = releases.rollback(signer, version=version, reason=reason)
    if as_json:
        print_json(entry.model_dump())
        return
    console.print(f"version {entry.version} is {entry.state}")


def _needed(key: Path | None) -> Path:
    from foedus.errors import ConfigError

    if key is None:
        raise ConfigError("foedus release", ["--key is missing; give the coordinator's private key"])
    return key
