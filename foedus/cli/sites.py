"""foedus site: what a site's administrator does."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from foedus.cli.output import JsonOption, console, print_json, say

app = typer.Typer(help="A site: check its data, join a federation, take part.", no_args_is_help=True)
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@app.callback()
def site() -> None:
    """A site: check its data, join a federation, take part."""


@app.command("check")
def check(
    folder: Annotated[Path, typer.Argument(help="The folder with the site.toml.")],
    study: Annotated[Path | None, typer.Option("--study", help="Check against this study, too.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a site's data hold, whether this machine can take part, and how to fix what is wrong.

    Nothing about the data leaves this machine. Once the site has joined, the coordinator is asked for its
    time and versions.

    Example: foedus site check sites/cleveland --study study.toml
    """
    from clients.membership import Membership
    from clients.reach import backbone_row, connection_rows, machine_rows
    from foedus.data import check_site
    from foedus.study import load_study

    wanted = load_study(study) if study else None
    report = check_site(folder, wanted)
    around = [backbone_row(wanted)] if wanted else []
    around += [*machine_rows(folder), *connection_rows(Membership(folder))] if folder.is_dir() else []
    report = replace(report, rows=[*report.rows, *around])
    if as_json:
        print_json(report.to_dict())
    else:
        table = Table("", "check", "found", "how to fix", title=escape(str(folder)), title_justify="left")
        for row in report.rows:
            cells = (escape(text) for text in (row.check, row.found, row.how_to_fix))  # [data] is no markup
            table.add_row(f"[{COLOURS[row.status]}]{row.status}[/]", *cells)
        console.print(table)
    if not report.ok:
        raise typer.Exit(1)


@app.command("policy")
def policy(
    folder: Annotated[Path, typer.Argument(help="The folder with the site.toml.")],
    as_json: JsonOption = False,
) -> None:
    """Show what this site allows. Only its own site.toml can change it; no study or coordinator can.

    Example: foedus site policy /srv/foedus/north
    """
    from foedus.site import PolicySection, load_site

    site = load_site(folder)
    allowed, service = site.policy, site.service
    if as_json:
        noted = None if service is None else service.model_dump()
        print_json({**allowed.model_dump(), "service": noted})
        return
    table = Table("policy", "here", "what it means", title=escape(str(folder)), title_justify="left")
    for name, field in PolicySection.model_fields.items():
        here = "set" if name in allowed.model_fields_set else "default"
        value = _shown(getattr(allowed, name))
        table.add_row(
            name, f"{escape(value)} [dim]({here})[/]", escape(" ".join((field.description or "").split()))
        )
    console.print(table)
    pooled = (
        "no [service]: nothing of what a service here notes leaves"
        if service is None
        else f"[service]: sums over blocks of {service.min_records} records or more, noted in '{service.journal}', "
        "may be part of sums of several sites"
    )
    say(escape(pooled))


@app.command("ledger")
def ledger(
    folder: Annotated[Path, typer.Argument(help="The folder with the site.toml.")],
    as_json: JsonOption = False,
) -> None:
    """Show what studies have spent of this site's privacy budget: the same as foedus privacy status.

    Example: foedus site ledger /srv/foedus/north
    """
    from foedus.cli.privacy import show_status

    show_status(folder, as_json=as_json)


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none named"
    return "not set" if value is None else str(value)


@app.command("init")
def init(
    folder: Annotated[Path, typer.Argument(help="The folder with the site.toml.")],
    as_json: JsonOption = False,
) -> None:
    """Make this site's keys, which never leave it, and the request to join.

    Example: foedus site init /srv/foedus/north
    """
    from clients.membership import Membership
    from foedus import files

    request = Membership(folder).request()
    path = folder / f"{request.site}.request.json"
    files.write_bytes(path, request.encode().encode())
    fingerprint = request.fingerprint()
    if as_json:
        print_json({"site": request.site, "request": str(path), "fingerprint": fingerprint})
        return
    say(f"Send {path} to the coordinator, and read it this fingerprint: [bold]{fingerprint}")
    say(f"Next, with the kit that comes back: foedus site join KIT --folder {folder} --fingerprint ...")


@app.command("join")
def join(
    kit: Annotated[Path, typer.Argument(help="The kit from the coordinator.")],
    fingerprint: Annotated[str, typer.Option("--fingerprint", help="As the coordinator read it out.")],
    folder: Annotated[Path, typer.Option("--folder", help="The folder with the site.toml.")] = Path(),
) -> None:
    """Accept a kit: from now on this site connects there, and trusts that roster.

    Example: foedus site join north.kit.json --folder /srv/foedus/north --fingerprint 0c05-c0a3-...
    """
    from clients.membership import Membership
    from foedus.enrolment import Kit
    from foedus.supervise import lives

    site, hint = Membership(folder), "give the NAME.kit.json that the coordinator sent, or ask for it again"
    found = Kit.read(kit, hint=hint)
    runs = lives(site.node / "logs")
    moved = runs and (site.kit().address, site.kit().certificate) != (found.address, found.certificate)
    site.join(found, fingerprint=fingerprint)
    names = (
        ", ".join(sorted(found.roster.sites))
        if found.roster
        else "not yet known: secure sums need three sites"
    )
    say(f"joined '{found.coordinator}' at {found.address}; sites of its secure sums: {names}")
    if runs and not moved:
        say("foedus site start, which runs, goes on with this kit.")
    else:
        again = (
            " again: the coordinator has another address or authority" if moved else ", and keep it running"
        )
        say(f"Next: foedus site start {folder}{again}")


@app.command("start")
def start(folder: Annotated[Path, typer.Argument(help="The folder with the site.toml.")]) -> None:
    """Take part until stopped. This site only connects out, and answers with its own installed code.

    Example: foedus site start /srv/foedus/north
    """
    from clients.membership import FOLDER
    from clients.service import Watcher, service

    with service(folder) as supervisor:
        say(f"taking part; logs are in {folder / FOLDER / 'logs'}; stop with ctrl-C")
        supervisor.run(meanwhile=Watcher(folder, lambda line: say(escape(line))))
