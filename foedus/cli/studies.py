"""foedus simulate, resume, list."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Table

from foedus.cli.output import (
    JsonOption,
    console,
    fewshot_table,
    labels_table,
    models_table,
    number,
    print_json,
    privacy_lines,
    progress,
    verdict_lines,
)

Runs = Annotated[Path, typer.Option("--runs", help="Folder that holds the runs.")]
RUNS = Path("runs")
Served = Annotated[
    Path | None, typer.Option("--home", help="The coordinator's folder, for runs on its server.")
]


def simulate(
    study: Annotated[Path, typer.Argument(help="The study.toml.")],
    sites: Annotated[Path, typer.Option("--sites", help="Folder with one sub-folder a site.")],
    runs: Runs = RUNS,
    engine: Annotated[
        Literal["local", "ray"], typer.Option("--engine", help="local: one process; ray: Flower's runtime.")
    ] = "local",
    reference: Annotated[
        bool, typer.Option(help="Add the pooled reference, which a real federation could not know.")
    ] = True,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Also train without each site in turn.")
    ] = False,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Train nothing; say what it will send, compute, keep and give away."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a whole study on this machine, with sites as folders on disk.

    Example: foedus simulate study.toml --sites sites/
    """
    if plan:
        from foedus import planning
        from foedus.cli.plans import show_plan

        found = planning.estimate(study, sites)
        show_plan(found, as_json=as_json)
        raise typer.Exit(1 if found.missing else 0)
    from foedus import simulation

    with progress(study.stem) as shown:
        run, _ = simulation.simulate(
            study, sites, runs=runs, engine=engine, reference=reference, held_out=held_out, stage=shown
        )
    show(run.path, as_json=as_json)


def resume(
    run: Annotated[str, typer.Argument(help="Run id or folder.")],
    runs: Runs = RUNS,
    home: Served = None,
    as_json: JsonOption = False,
) -> None:
    """Go on with an interrupted run from its last round.

    Example: foedus resume heart-20261121-101500-1f2e
    """
    from foedus import simulation
    from foedus.runs import find_run

    if home is not None:
        from foedus.cli.federation import follow
        from server import conducting
        from server.home import Home

        opened = Home.open(home)
        folder = find_run(opened.runs, run)
        conducting.resume(opened, folder)
        follow(folder, as_json=as_json)
        return
    folder = find_run(runs, run)
    with progress(folder.study().study.name) as shown:
        simulation.resume(folder, stage=shown)
    show(folder.path, as_json=as_json)


def list_runs(runs: Runs = RUNS, home: Served = None, as_json: JsonOption = False) -> None:
    """List runs: status, rounds, accuracy, verdict.

    Example: foedus list --home coordinator
    """
    from foedus import files
    from foedus.runs import AUDIT_FILE, RESULTS_FILE, STATE_FILE
    from foedus.runs import list_runs as find

    if home is not None:
        from server.home import Home

        runs = Home.open(home).runs
    rows = []
    for run in find(runs):
        results = files.read_json(run.path / RESULTS_FILE) if (run.path / RESULTS_FILE).exists() else None
        audit = files.read_json(run.path / AUDIT_FILE) if (run.path / AUDIT_FILE).exists() else None
        accuracy = results["models"]["federated"]["accuracy"] if results else None
        state = run.state()
        rows.append(
            {
                "run": run.run_id,
                "status": state["status"],
                "rounds": len(run.rounds()),
                "accuracy": accuracy,
                "verdict": audit["verdict"] if audit else None,
                "problem": state.get("problem"),
            }
        )
    for name in sorted(
        {path.parent.name for path in runs.glob(f"*/{STATE_FILE}")} - {r["run"] for r in rows}
    ):
        print(f"{runs / name / STATE_FILE} cannot be read; restore it from a backup", file=sys.stderr)
    if as_json:
        print_json(rows)
        return
    if not rows:
        start = "foedus demo or foedus simulate" if home is None else f"foedus run STUDY --home {home}"
        console.print(f"no runs in {runs}; start one with {start}")
        return
    table = Table()
    table.add_column("run", no_wrap=True, min_width=max(len(row["run"]) for row in rows))
    for name in ("status", "rounds", "accuracy", "verdict"):
        table.add_column(name)
    for row in rows:
        cells = (str(row["rounds"]), number(row["accuracy"]), row["verdict"] or "–")
        table.add_row(row["run"], row["status"], *cells)
    console.print(table)
    for row in rows:
        if row["problem"]:
            console.print(f"{row['run']}: {escape(row['problem'])}")


def summary(run_path: Path) -> dict[str, Any]:
    """Everything a finished run found, for a machine."""
    from foedus import files
    from foedus.runs import AUDIT_FILE, FEWSHOT_FILE, REPORT_FILE, RESULTS_FILE

    found: dict[str, Any] = {"run": str(run_path), "report": str(run_path / REPORT_FILE)}
    for key, name in (("results", RESULTS_FILE), ("fewshot", FEWSHOT_FILE), ("audit", AUDIT_FILE)):
        path = run_path / name
        found[key] = files.read_json(path) if path.exists() else None
    return found


def show(run_path: Path, *, as_json: bool) -> None:
    """Print what a finished run found."""
    from foedus.traffic import SUM_FILE

    found = summary(run_path)
    if as_json:
        print_json(found)
    elif (run_path / SUM_FILE).exists():
        console.print(
            f"{run_path / SUM_FILE}: what all sites that serve saw; foedus monitor --home compares it"
        )
    else:
        show_summary(found)


def show_summary(found: dict[str, Any]) -> None:
    """The short tables at the end of a run."""
    results = found["results"]
    several = results.get("task") == "multilabel"
    console.print(models_table(results, metric="accuracy", title="all labels right" if several else None))
    if several:
        console.print(models_table(results, metric="macro_f1"))
        console.print(labels_table(results))
    if results["models"]["federated"]["auc"] is not None and (several or len(results["classes"]) == 2):
        console.print(models_table(results, metric="auc"))
    for site in results["refused"]:
        console.print(f"[yellow]{site['site']} did not take part: {escape(site['reason'])}")
    if found["fewshot"]:
        console.print(fewshot_table(found["fewshot"]))
    for line in verdict_lines(found["audit"]) if found["audit"] else []:
        console.print(line)
    for line in privacy_lines(results["privacy"]):
        console.print(line)
    console.print(f"Report: {found['report']}")
