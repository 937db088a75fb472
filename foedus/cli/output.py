"""What people see: tables on stdout, progress on stderr, JSON where a machine reads."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

console = Console()
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a machine.")]
STAGES = {
    "submitted": "Waiting for the server",
    "asked": "Asking sites",
    "enlist": "Opening sites",
    "start": "One-round start",
    "rounds": "Rounds",
    "reports": "Site reports",
    "fewshot": "Few-shot episodes",
    "audit": "Audit",
}


def say(text: str) -> None:
    """A line that is not broken however long it is, so that a command in it can be copied."""
    console.print(text, soft_wrap=True)


def print_json(value: Any) -> None:
    """JSON on stdout."""
    print(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False))


class StageProgress:
    """Shows the stages of a run: a bar on a terminal, plain lines otherwise."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task("", total=None)

    def __call__(self, stage: str, found: dict[str, Any]) -> None:
        if not sys.stderr.isatty():
            self._plain(stage, found)
        elif stage == "round":
            self._bar.update(self._task, completed=found["round"])
        elif stage == "enlist":
            return  # sites show their own bars while the backbone runs
        else:
            self._bar.start()
            total = found.get("total") if stage == "rounds" else None
            self._bar.reset(self._task, total=total, description=f"{self.title}: {STAGES[stage]}")

    def _plain(self, stage: str, found: dict[str, Any]) -> None:
        if stage == "round":
            loss, accuracy = found["validation_loss"], found["validation_accuracy"]
            print(
                f"{self.title}: round {found['round']}: {found['answered']}/{found['asked']} sites, "
                f"validation loss {number(loss)}, accuracy {number(accuracy)}, "
                f"{found['bytes_up'] + found['bytes_down']} bytes, {found['seconds']:.2f} s",
                file=sys.stderr,
            )
        else:
            print(f"{self.title}: {STAGES[stage].lower()}", file=sys.stderr)

    def stop(self) -> None:
        """Clear the bar, if one was shown."""
        if sys.stderr.isatty():
            self._bar.stop()


@contextmanager
def progress(title: str) -> Iterator[StageProgress]:
    """A StageProgress that is cleared at the end, whatever happens."""
    shown = StageProgress(title)
    try:
        yield shown
    finally:
        shown.stop()


def number(value: float | None, digits: int = 3) -> str:
    """A figure, or a dash where it is undefined."""
    return "–" if value is None else f"{value:.{digits}f}"


def models_table(results: dict[str, Any], *, metric: str, title: str | None = None) -> Table:
    """Accuracy (or AUC) per site of every model, and over all test examples together."""
    kinds = [k for k in ("zero_shot", "pooled", "federated", "personal", "local") if results["models"].get(k)]
    table = Table(title=f"{results['study']}: {title or metric.replace('_', ' ')}", title_justify="left")
    table.add_column("site")
    table.add_column("test", justify="right")
    for kind in kinds:
        table.add_column(kind, justify="right")
    for site in results["sites"]:
        cells = [number(site[kind][metric]) if site.get(kind) else "–" for kind in kinds]
        table.add_row(site["site"], str(site["n_test"] or "–"), *cells)
    together = [number(results["models"][kind][metric]) for kind in kinds]
    table.add_section()
    table.add_row("all test examples", str(results["models"]["federated"]["n"]), *together)
    means = [number(results["mean"][k][metric]) if results["mean"].get(k) else "–" for k in kinds]
    table.add_row("mean of sites", "", *means)
    if results["mean"].get("local_everywhere"):
        everywhere = number(results["mean"]["local_everywhere"][metric])
        table.add_row("a local head on all sites' tests, mean", "", *[""] * (len(kinds) - 1), everywhere)
    if results["held_out"]:
        held_out = ", ".join(f"{row['site']} {number(row[metric])}" for row in results["held_out"])
        table.caption = f"trained without the site: {held_out}"
    return table


def labels_table(results: dict[str, Any]) -> Table:
    """Each label's figures on all test examples, and those of all labels together; of several labels a record."""
    found = results["models"]["federated"]
    table = Table(title=f"{results['study']}: the federated model, by label", title_justify="left")
    table.add_column("label")
    kinds = ("precision", "recall", "f1", "auc", "log_loss", "observed_expected")
    for kind in kinds:
        table.add_column(kind.replace("_", " "), justify="right")
    for place, name in enumerate(results["classes"] if found["per_class"] else []):
        table.add_row(escape(name), *(number(found["per_class"][kind][place]) for kind in kinds))
    table.add_section()
    micro = [number(found[f"micro_{kind}"]) for kind in kinds[:3]]
    table.add_row(
        "all labels (micro)", *micro, "", number(found["log_loss"]), number(found["observed_expected"])
    )
    table.caption = f"Hamming loss {number(found['hamming_loss'])}"
    return table


def fewshot_table(fewshot: dict[str, Any]) -> Table:
    """Accuracy of every few-shot method with its 95 % interval."""
    title = f"few-shot at {', '.join(fewshot['sites'])}: {fewshot['n_way']}-way"
    novel = fewshot["novel_classes"]
    classes = f", novel classes {escape(' '.join(novel))}" if novel else ""
    table = Table(title=title + classes, title_justify="left")
    for name in ("method", "shots", "episodes", "accuracy", "95 % interval", "ECE"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for row in fewshot["curve"]:
        interval = f"± {row['ci95']:.3f}"
        cells = (
            str(row["n_shot"]),
            str(row["episodes"]),
            number(row["accuracy"]),
            interval,
            number(row["ece"]),
        )
        table.add_row(row["method"], *cells, style="bold" if row["n_shot"] == fewshot["n_shot"] else "")
    for row in fewshot.get("start") or []:
        figures = (number(row["accuracy"]), f"± {row['ci95']:.3f}", number(row["ece"]))
        table.add_row(f"head: {row['way']}", str(row["n_shot"]), str(row["episodes"]), *figures)
    return table


def verdict_lines(audit: dict[str, Any]) -> list[str]:
    """The gate's verdict and its reasons."""
    colour = {"pass": "green", "fail": "red", "inconclusive": "yellow"}[audit["verdict"]]
    return [
        f"Gate: [bold {colour}]{audit['verdict'].upper()}[/]",
        *(f"  {escape(reason)}" for reason in audit["reasons"]),
    ]


def privacy_lines(privacy: dict[str, Any]) -> list[str]:
    """What a run with noise or masks promises, and what attacks made of it; nothing for an open one."""
    if privacy["mode"] == "open":
        return []
    if privacy["guarantee"] is None:
        return ["Privacy: sums under masks, no differential privacy."]
    attack = privacy["attack"]
    holds = attack["within_claim"] and attack["clipping_held"] is not False
    colour, verdict = ("green", "the claim holds") if holds else ("red", "THE CLAIM DOES NOT HOLD")
    clip = {True: "; the clip held", False: "; the clip did not hold", None: ""}[attack["clipping_held"]]
    where = (
        "in sums under masks" if privacy["mode"] == "secure+ddp" else "each site with all the noise itself"
    )
    return [
        f"Privacy: epsilon {privacy['epsilon']:.3g} at delta {privacy['delta']:g} for each unit of a site, {where}.",
        f"  Attacked, [{colour}]{verdict}[/]: at least {attack['lower_bound']:.2f} of the {attack['claim']:.2f} "
        f"claimed for {attack['of']}{clip}.",
    ]
