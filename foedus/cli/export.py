"""foedus export: a run's whole model as one file that any ONNX runtime serves."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from foedus.cli.output import JsonOption, console, number, print_json
from foedus.cli.studies import RUNS, Runs

if TYPE_CHECKING:
    from foedus.export import Exported


def export(
    run: Annotated[str, typer.Argument(help="A finished run: id or folder.")],
    to: Annotated[
        Path | None, typer.Option("--to", help="The file; model/model.onnx in the run when not given.")
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="8-bit weights; refused if over 1 % of the decisions change.")
    ] = False,
    runs: Runs = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Write a run's whole model (backbone, standardisation, head) as one ONNX file, checked before it is kept.

    Example: foedus export heart-20261121-101500-1f2e --to heart.onnx
    """
    from foedus import export as exporting
    from foedus.runs import find_run

    exporting.require_packages()
    found = exporting.export(find_run(runs, run), to, int8=int8)
    if found.audit != "pass":
        said = "there is no audit of it" if found.audit == "none" else f"its audit says {found.audit}"
        print(
            f"Warning: {said}, and the file is marked audit={found.audit}; do not deploy it before it passes.",
            file=sys.stderr,
        )
    if as_json:
        print_json(asdict(found))
    else:
        _show(found)


def _show(found: "Exported") -> None:
    figures = found.figures
    console.print(escape(f"{found.path} written: {found.size_bytes / 2**20:.1f} MiB, {found.precision}"))
    console.print(
        f"Checked on {figures.n_checked} inputs, {figures.n_records} of them test records: "
        f"{figures.agree:.1%} same decisions; largest difference {figures.max_abs_difference:.1e} (scores), "
        f"{figures.max_probability_difference:.1e} (probabilities)"
    )
    if figures.accuracy_before is not None:
        before, after = number(figures.accuracy_before), number(figures.accuracy_after)
        console.print(f"Accuracy on these test records: {before} in the run, {after} in the file")
