"""foedus auditor, policy, approve: keys and signatures of the people who answer for an audit."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from foedus.cli.output import JsonOption, console, print_json
from foedus.cli.studies import RUNS, Runs

auditor = typer.Typer(help="The keys of an auditor.", no_args_is_help=True)
policy = typer.Typer(help="The auditor's policy.", no_args_is_help=True)
PASSPHRASE = "FOEDUS_PASSPHRASE"  # noqa: S105 - the name of the variable
"""Environment variable that holds the passphrase of a private key; asked for on a terminal when not set."""
Key = Annotated[Path, typer.Option("--key", help="Your private key, NAME.key.")]


@auditor.callback()
def _auditor() -> None:
    """The keys of an auditor."""


@auditor.command("init")
def init(
    name: Annotated[str, typer.Option("--name", help="Who you are; it is in every signature.")],
    folder: Annotated[Path, typer.Option("--folder", help="Where the keys are kept.")] = Path("auditor"),
    role: Annotated[str, typer.Option("--role", help="As policies name it in [signoff] roles.")] = "auditor",
    encrypt: Annotated[
        bool, typer.Option("--encrypt", help=f"Ask for a passphrase (or take it from {PASSPHRASE}).")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a key pair to sign policies and approvals with. Give away NAME.pub, and its fingerprint by another way.

    Example: foedus auditor init --name jane --encrypt
    """
    from fairness.signing import PRIVATE_SUFFIX, PUBLIC_SUFFIX, create_key

    passphrase = ask_passphrase(confirm=True) if encrypt else None
    public = create_key(folder, name=name, role=role, passphrase=passphrase)
    private_file, public_file = (str(folder / f"{name}{end}") for end in (PRIVATE_SUFFIX, PUBLIC_SUFFIX))
    if as_json:
        keys = {"private": private_file, "public": public_file, "fingerprint": public.fingerprint}
        print_json({**public.model_dump(), **keys})
        return
    console.print(f"private key: {private_file}", soft_wrap=True)
    console.print(f"public key:  {public_file}", soft_wrap=True)
    console.print(f"fingerprint: {public.fingerprint}", soft_wrap=True)


@policy.callback()
def _policy() -> None:
    """The auditor's policy."""


@policy.command("sign")
def sign(
    file: Annotated[Path, typer.Argument(help="The policy.toml.")], key: Key, as_json: JsonOption = False
) -> None:
    """Sign a policy before anyone looks at the test data; the signature is written beside it.

    Example: foedus policy sign policy.toml --key auditor/jane.key
    """
    from fairness.policy import load_policy
    from fairness.signing import load_signer, sign_file, signature_file

    load_policy(file)
    signature = sign_file(file, load_signer(key, passphrase=ask_passphrase), purpose="foedus policy v1")
    if as_json:
        print_json({"file": str(signature_file(file)), **signature.model_dump()})
        return
    console.print(f"{signature_file(file)}: signed by {signature.signer} ({signature.role})", soft_wrap=True)
    console.print(f"sha256 of the policy: {signature.digest}", soft_wrap=True)


def approve(
    run: Annotated[str, typer.Argument(help="Run id or folder; or the file of a site's own audited head.")],
    key: Key,
    reason: Annotated[str | None, typer.Option("--reason", help="Kept with your signature.")] = None,
    waive: Annotated[
        list[str] | None,
        typer.Option("--waive", help='GATE=REASON, e.g. tpr:sex="..."; "policy=..." for one changed later.'),
    ] = None,
    runs: Runs = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Sign that a run's model may be released, or a site's own head served. Exit code 1 if anything speaks against it.

    Example: foedus approve heart-20261121-101500-1f2e --key auditor/jane.key

    Example: foedus approve heads/ward.safetensors --key auditor/jane.key
    """
    from fairness.registered import Registered
    from fairness.signing import load_signer
    from foedus import approval
    from foedus.errors import ConfigError
    from foedus.runs import find_run

    waived = dict(text.partition("=")[::2] for text in waive or [])
    if not all("=" in text for text in waive or []):
        raise ConfigError(
            "--waive", ["write GATE=REASON, e.g. --waive tpr:sex='few women; reviewed by hand'"]
        )
    signer = load_signer(key, passphrase=ask_passphrase)
    if Path(run).is_file():
        found = Registered(Path(run)).approve(signer, reason=reason, waive=waived)
    else:
        found = approval.approve(find_run(runs, run), signer, reason=reason, waive=waived)
    if as_json:
        print_json(found.model_dump())
        return
    signature, statement = found.signature, found.statement
    console.print(
        f"approved by {signature.signer} ({signature.role}), {signature.fingerprint}", soft_wrap=True
    )
    for waiver in statement.waivers:
        console.print(f"  waived {waiver.gate}: {waiver.reason}", markup=False, soft_wrap=True)
    if statement.expires:
        console.print(f"  holds until {statement.expires}")


def ask_passphrase(*, confirm: bool = False) -> str:
    """From the environment, or from who sits at the terminal."""
    from foedus.errors import ApprovalError

    found = os.environ.get(PASSPHRASE)
    if found is None and not sys.stdin.isatty():
        raise ApprovalError(f"the private key needs a passphrase; set {PASSPHRASE} or use a terminal")
    if found is None:
        found = str(typer.prompt("passphrase", hide_input=True, confirmation_prompt=confirm, err=True))
    if not found:
        raise ApprovalError("the passphrase is empty; give one, or make the key without --encrypt")
    return found


def verify_at_site(
    audit: Annotated[Path, typer.Argument(help="The run folder, or its commitments.json or audit.json.")],
    folder: Annotated[Path, typer.Option("--folder", help="The site's folder, with the site.toml.")],
    as_json: JsonOption = False,
) -> None:
    """At a site: are the counts it kept the ones it committed to? Nothing leaves. Exit code 1 if not.

    Example: foedus site verify-audit runs/heart-20261121-101500-1f2e --folder sites/cleveland
    """
    from fairness.commitments import REPORTS_FOLDER, Commitments, open_at_site
    from foedus.runs import COMMITMENTS_FILE
    from foedus.site import load_site

    site = load_site(folder).site.name
    run = audit if audit.is_dir() else audit.parent
    published = Commitments.read(run / COMMITMENTS_FILE)
    problems = open_at_site(folder, published, site=site)
    kept = str(folder / REPORTS_FOLDER / published.run)
    if as_json:
        print_json({"ok": not problems, "site": site, "kept": kept, "problems": problems})
    else:
        for problem in problems:
            console.print(f"[red]{problem}", soft_wrap=True)
        if not problems:
            console.print(f"[green]the counts in {kept} are those {site} committed to", soft_wrap=True)
    if problems:
        raise typer.Exit(1)
