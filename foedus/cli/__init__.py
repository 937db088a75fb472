"""The command line: `foedus --help`. Heavy packages are imported by the command that needs them."""

import json
import logging
import sys
from typing import Annotated

import typer

from foedus import __version__
from foedus.cli import (
    approve,
    arguments,
    audit,
    backbones,
    coordinator,
    demo,
    environment,
    export,
    federation,
    feedback,
    fewshot,
    monitor,
    operations,
    privacy,
    release,
    serve,
    sites,
    studies,
    tune,
)
from foedus.errors import FoedusError

arguments.keep_help()
INTERRUPTED = 130
"""The exit status that typer turns Ctrl-C into."""
app = typer.Typer(
    name="foedus",
    help="Fine-tune together, adapt from a handful of examples, and prove it is fair. Only sums leave a site.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command("demo")(demo.demo)
app.command("simulate")(studies.simulate)
app.command("resume")(studies.resume)
app.command("tune")(tune.tune)
app.command("run")(federation.run)
app.command("watch")(federation.watch)
app.command("stop")(federation.stop)
app.command("list")(studies.list_runs)
app.command("approve")(approve.approve)
app.command("release")(release.release)
app.command("serve")(serve.serve)
app.command("monitor")(monitor.monitor)
app.command("export")(export.export)
app.add_typer(backbones.app, name="backbones")
app.add_typer(coordinator.app, name="coordinator")
app.add_typer(sites.app, name="site")
app.add_typer(fewshot.app, name="fewshot")
app.add_typer(feedback.app, name="feedback")
app.add_typer(audit.app, name="audit")
app.add_typer(approve.auditor, name="auditor")
app.add_typer(approve.policy, name="policy")
coordinator.app.command("health")(operations.coordinator_health)
coordinator.app.command("backup")(operations.backup)
coordinator.app.command("restore")(operations.restore)
sites.app.command("health")(operations.site_health)
sites.app.command("verify-audit")(approve.verify_at_site)
app.add_typer(privacy.app, name="privacy")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"foedus {__version__}")
        raise typer.Exit


@app.callback()
def root(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens to stderr.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Set up logging."""
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    logging.getLogger("flwr").propagate = False


def main() -> None:
    """Entry point: runs a command and turns a deliberate error into one message and its exit code."""
    environment.prepare()
    try:
        app()
    except FoedusError as error:
        if "--json" in sys.argv:
            print(json.dumps({"error": {"kind": type(error).__name__, "message": str(error)}}))
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:  # a folder that is a file, rights that are missing: whatever was not foreseen
        where = f"{error.filename}: " if error.filename else ""
        print(f"{where}{error.strerror or error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            print(stopped(sys.argv[1:]), file=sys.stderr)
        raise


def stopped(arguments: list[str]) -> str:
    """What Ctrl-C means for the command that was typed."""
    command = next((word for word in arguments if not word.startswith("-")), "")
    resumable = "stopped; foedus list shows the run, foedus resume goes on from its last round"
    watching = "no longer watching; the run goes on: foedus watch shows it, foedus stop ends it"
    return {
        "simulate": resumable,
        "demo": resumable,
        "resume": resumable,
        "run": watching,
        "watch": watching,
        "tune": "stopped; nothing of the search was kept, and the study is as it was",
    }.get(command, "stopped")
