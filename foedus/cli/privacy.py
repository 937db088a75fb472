"""foedus privacy: a site's ledger, its chain, and attacks on its own training."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from foedus.cli.output import JsonOption, console, print_json
from foedus.cli.studies import RUNS, Runs

app = typer.Typer(
    help="What a site's data have given away, and what an attacker would find.", no_args_is_help=True
)
Folder = Annotated[Path, typer.Argument(help="The site's folder, with the site.toml.")]


@app.command("status")
def show_status(folder: Folder, as_json: JsonOption = False) -> None:
    """Show the site's privacy ledger: what is spent, and the cap no study can raise.

    Example: foedus privacy status sites/cleveland
    """
    from foedus.door import LEDGER_FOLDER
    from foedus.privacy.status import status
    from foedus.site import load_site

    site = load_site(folder)
    chains = status(folder / LEDGER_FOLDER)
    if as_json:
        print_json({"cap": site.policy.epsilon_cap, "ledgers": [asdict(chain) for chain in chains]})
        return
    if not chains:
        console.print(
            f"nothing is spent at '{site.site.name}'; its cap is epsilon {site.policy.epsilon_cap:g}."
        )
        return
    table = Table(title=f"{site.site.name}: epsilon spent, at most", title_justify="left")
    for name in ("ledger", "data", "unit", "spent", "cap", "delta", "releases", "last"):
        table.add_column(name, overflow="fold")
    for chain in chains:
        counts = f"{chain.committed} of {chain.reserved}"
        spent = chain.problem or f"{chain.epsilon:.3f}"
        cells = (chain.data, chain.unit, spent, f"{site.policy.epsilon_cap:g}", f"{chain.delta:g}", counts)
        table.add_row(chain.name[:8], *cells, chain.last[:16])
    console.print(table)


@app.command("verify")
def verify(
    folder: Folder,
    head: Annotated[
        str | None, typer.Option("--head", help="A hash an auditor noted earlier; it must still be there.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check every line of the site's ledgers. Exit code 1 if one was changed, cut or replaced.

    Example: foedus privacy verify sites/cleveland --head 3f2a91bc...
    """
    from foedus.door import LEDGER_FOLDER
    from foedus.privacy.status import heads, status
    from foedus.site import load_site

    load_site(folder)
    chains = status(folder / LEDGER_FOLDER)
    problems = {chain.name: chain.problem for chain in chains if chain.problem}
    known = heads(folder / LEDGER_FOLDER)
    if head is not None and not any(head in hashes for hashes in known.values()):
        problems["head"] = f"no ledger holds the line {head[:12]}…: one was cut back or replaced"
    if as_json:
        print_json(
            {"ok": not problems, "problems": problems, "heads": {n: h[-1] for n, h in known.items() if h}}
        )
    else:
        for name, hashes in known.items():
            console.print(
                f"ledger {name}: {len(hashes)} lines, head {hashes[-1] if hashes else '–'}", soft_wrap=True
            )
        for name, problem in problems.items():
            console.print(f"[red]{name}: {problem}")
        if not problems:
            console.print(
                "[green]every line follows from the one before" if known else "there is no ledger yet"
            )
    if problems:
        raise typer.Exit(1)


@app.command("export")
def export(
    folder: Folder,
    out: Annotated[Path | None, typer.Option("--out", help="A file to write; stdout when not given.")] = None,
) -> None:
    """Write every line of the site's ledgers and what they add up to, by two accountants, as JSON for an auditor.

    Example: foedus privacy export sites/cleveland --out cleveland-ledger.json
    """
    from foedus import files
    from foedus.door import LEDGER_FOLDER
    from foedus.privacy.status import exported
    from foedus.site import load_site

    policy = load_site(folder).policy
    found = exported(folder / LEDGER_FOLDER, cap=policy.epsilon_cap, delta=policy.delta)
    if out is None:
        print_json(found)
    else:
        files.write_json(out, found)
        console.print(f"{out}: {len(found)} ledgers, {sum(len(each['rows']) for each in found)} lines")


@app.command("audit")
def attack(
    study: Annotated[Path, typer.Argument(help="The study.toml of a private study.")],
    site: Annotated[Path, typer.Option("--site", help="The site's folder.")],
    run: Annotated[str | None, typer.Option("--run", help="Centre the features as this run did.")] = None,
    runs: Runs = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Attack the study's training on the site's own data; nothing leaves. Exit code 1 if the claim does not hold.

    Example: foedus privacy audit study.toml --site sites/cleveland
    """
    import json

    from clients.attack import attack as attack_site
    from clients.workplace import open_workplace
    from foedus import files
    from foedus.backbones import Standardiser
    from foedus.runs import HEAD_FILE, find_run
    from foedus.study import load_study

    arrays = files.read_arrays(find_run(runs, run).path / HEAD_FILE) if run else None
    standardiser = Standardiser.from_arrays(arrays) if arrays else None
    found = attack_site(open_workplace(site, load_study(study).to_json()), standardiser)
    if as_json:
        print_json(json.loads(found.to_json()))
    else:
        colour = {"pass": "green", "fail": "red", "inconclusive": "yellow"}[found.verdict]
        console.print(f"[bold {colour}]{found.verdict.upper()}[/] {found.reason()}")
        for meaning in found.meanings().values():
            console.print(f"  {meaning}")
    if found.verdict == "fail":
        raise typer.Exit(1)
