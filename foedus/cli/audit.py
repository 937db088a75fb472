"""foedus audit: run the fairness audit again, show one, verify a run, compare two."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from foedus.cli.output import JsonOption, console, number, print_json, verdict_lines
from foedus.cli.studies import RUNS, Runs

if TYPE_CHECKING:
    from fairness.findings import AuditReport, Estimate

app = typer.Typer(help="The fairness audit of a run.", no_args_is_help=True)


@app.command("run")
def run_again(
    run: Annotated[str, typer.Argument(help="Run id or folder.")],
    policy: Annotated[
        Path | None, typer.Option("--policy", help="The auditor's policy.toml; the run's own when not given.")
    ] = None,
    runs: Runs = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Audit a run's model on its sites' test data. Exit code 0: pass; 1: fail or inconclusive.

    Example: foedus audit run heart-20261121-101500-1f2e --policy policy.toml
    """
    from foedus import simulation
    from foedus.runs import find_run

    report = simulation.audit_again(find_run(runs, run), policy=policy)
    _show(report.to_dict(), as_json=as_json)
    if report.verdict != "pass":
        raise typer.Exit(1)


@app.command("show")
def show(
    run: Annotated[str, typer.Argument(help="Run id or folder.")],
    runs: Runs = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Show the audit of a run.

    Example: foedus audit show heart-20261121-101500-1f2e
    """
    from foedus import files
    from foedus.runs import AUDIT_FILE, find_run

    _show(files.read_json(find_run(runs, run).path / AUDIT_FILE), as_json=as_json)


@app.command("verify")
def verify(
    run: Annotated[str, typer.Argument(help="Run id or folder.")],
    auditor: Annotated[
        list[Path] | None,
        typer.Option("--auditor", help="NAME.pub of who must have approved it; once for each."),
    ] = None,
    runs: Runs = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Recompute every digest, signature, gate and the report of a run. Exit code 1 if anything does not hold.

    Example: foedus audit verify heart-20261121-101500-1f2e --auditor jane.pub
    """
    from fairness.signing import load_public
    from foedus import approval
    from foedus.runs import find_run

    found = approval.verify(find_run(runs, run), keys=[load_public(path) for path in auditor or []])
    signatures = [each.signature for each in found.approvals]
    if as_json:
        problems = [{"file": problem.file, "reason": problem.reason} for problem in found.problems]
        signed = [{**each.model_dump(), "fingerprint": each.fingerprint} for each in signatures]
        print_json({"ok": found.ok, "verdict": found.verdict, "problems": problems, "approved_by": signed})
    else:
        for problem in found.problems:
            console.print(f"[red]{escape(problem.file)}: {escape(problem.reason)}", soft_wrap=True)
        if found.ok:
            console.print(f"[green]everything holds; verdict: {found.verdict}")
        for each in signatures:
            pinned = "" if auditor else "; compare the fingerprint, or give --auditor"
            who = f"signed by {each.signer} ({each.role}) on {each.time[:10]}: {each.fingerprint}{pinned}"
            console.print(who, soft_wrap=True)
        if not signatures:
            console.print("nobody has approved this run")
    if not found.ok:
        raise typer.Exit(1)


@app.command("compare")
def compare(
    first: Annotated[str, typer.Argument(help="Run id or folder, or an audit.json.")],
    second: Annotated[str, typer.Argument(help="Run id or folder, or an audit.json.")],
    runs: Runs = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Put two audits side by side: every gated figure, and whether it changed by more than chance.

    Example: foedus audit compare heart-20261121-101500-1f2e heart-20261122-090000-77aa
    """
    from fairness.comparison import CAVEAT, compare_audits, to_dict

    one, other = _report(runs, first), _report(runs, second)
    if as_json:
        print_json(to_dict(one, other, names=(first, second)))
        return
    table = Table(title=f"{one.verdict.upper()} and {other.verdict.upper()}", title_justify="left")
    for name in ("gate", "first", "second", "change", ""):
        table.add_column(name, overflow="fold")
    for row in compare_audits(one, other):
        sides = [
            f"{_interval(s.found)} {s.verdict or 'no gate'}" if s else "–" for s in (row.first, row.second)
        ]
        word = {None: "undefined", True: "within uncertainty", False: "changed"}[row.within_uncertainty]
        gate = f"{row.metric} {row.compare} {row.attribute}"
        table.add_row(escape(gate), *map(escape, sides), escape(_interval(row.change)), word)
    console.print(table)
    console.print(CAVEAT)


@app.command("mitigate")
def mitigate(
    run: Annotated[str, typer.Argument(help="Run id or folder.")],
    runs: Runs = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Try what could be done about a run's gaps, on its sites: thresholds, balanced training. Nothing is changed.

    Example: foedus audit mitigate mortgage-20261121-101500-1f2e
    """
    from foedus import mitigating
    from foedus.cli.mitigation import show_mitigation
    from foedus.runs import find_run

    found = mitigating.mitigate(find_run(runs, run))
    if as_json:
        print_json(found.model_dump())
    else:
        show_mitigation(found)


def _report(runs: Path, name: str) -> "AuditReport":
    from pydantic import ValidationError

    from fairness.findings import AuditReport
    from foedus import files
    from foedus.errors import RunError
    from foedus.runs import AUDIT_FILE, find_run

    path = Path(name) if Path(name).is_file() else find_run(runs, name).path / AUDIT_FILE
    try:
        return AuditReport.model_validate(files.read_json(path))
    except ValidationError:
        raise RunError(
            f"{path} does not follow the schema of an audit; run foedus audit run again."
        ) from None


def _interval(found: "Estimate") -> str:
    if found.value is None:
        return "undefined"
    return f"{found.value:.3f} [{number(found.low)}, {number(found.high)}]"


def _show(audit: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(audit)
        return
    for line in verdict_lines(audit):
        console.print(line)
    for attribute in audit["attributes"]:
        _show_attribute(attribute)


def _rate(found: dict[str, Any]) -> str:
    """The figure; of one that may not be written, between which two it lies with its uncertainty."""
    if found.get("hidden") and found["low"] is not None:
        return escape(f"[{found['low']:.2f}, {found['high']:.2f}]")
    return number(found["value"])


def _show_attribute(attribute: dict[str, Any]) -> None:
    shown = ("selection_rate", "tpr", "fpr", "accuracy", "auc")
    title = escape(attribute["attribute"])
    table = Table(title=title, title_justify="left")
    table.add_column("group", no_wrap=True)
    for name in ("n", "positives", *shown):
        table.add_column(name)
    for group in attribute["groups"]:
        name = escape(group["group"])
        if group["suppressed"]:
            table.add_row(f"{name} (suppressed)")
            continue
        cells = (_rate(group["rates"][metric]) for metric in shown)
        table.add_row(name, str(group["n"]), str(group["positives"]), *cells)
    console.print(table)
