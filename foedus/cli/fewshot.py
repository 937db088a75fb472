"""foedus fewshot: adapt a federated model at a site from a handful of labelled examples."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer
from rich.markup import escape
from rich.table import Table

from foedus.cli.output import JsonOption, console, number, print_json
from foedus.cli.studies import RUNS, Runs
from foedus.config import nearest
from foedus.errors import ConfigError

if TYPE_CHECKING:
    from foedus import study
    from foedus.runs import RunFolder

app = typer.Typer(help="Adapt a federated model from a handful of labelled examples.", no_args_is_help=True)
Method = Annotated[Literal["prototypical", "ridge", "maml"], typer.Option("--method", help="Kind of head.")]
SiteFolder = Annotated[
    Path, typer.Option("--site", "--support", help="Folder with a site.toml and the labelled examples.")
]
Classes = Annotated[
    str | None,
    typer.Option(
        "--classes", help="Names of the classes there, comma-separated; the study's when not given."
    ),
]
NWay = Annotated[int, typer.Option("--n-way", min=2, help="Classes in an episode.")]
NShot = Annotated[int, typer.Option("--n-shot", min=1, help="Labelled examples of each class to adapt from.")]
NQuery = Annotated[int, typer.Option("--n-query", min=1, help="Examples of each class to be judged on.")]
Episodes = Annotated[int, typer.Option("--episodes", min=2, help="Draws that the mean is over.")]


@app.command("evaluate")
def evaluate(
    run: Annotated[str, typer.Argument(help="A finished run that had a few-shot stage.")],
    site: SiteFolder,
    method: Method = "ridge",
    n_way: NWay = 5,
    n_shot: NShot = 5,
    n_query: NQuery = 15,
    episodes: Episodes = 600,
    classes: Classes = None,
    runs: Runs = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Accuracy over random episodes at a site, with its 95 % interval. Nothing leaves this machine.

    Example: foedus fewshot evaluate cheques-20261121-101500-1f2e --site sites/newbank --n-shot 1
    """
    from foedus import adaptation
    from foedus.runs import find_run

    found = adaptation.evaluate(
        find_run(runs, run),
        site,
        classes=_split(classes),
        method=method,
        n_way=n_way,
        n_shot=n_shot,
        n_query=n_query,
        episodes=episodes,
    )
    if as_json:
        print_json(asdict(found))
        return
    interval = f"{number(found.accuracy)} ± {found.ci95:.3f}"
    console.print(
        f"{method}, {n_way}-way {n_shot}-shot over {found.episodes} episodes: {interval}, ECE {number(found.ece)}"
    )


@app.command("compare")
def compare(
    run: Annotated[str, typer.Argument(help="A finished run that had a few-shot stage.")],
    site: SiteFolder,
    methods: Annotated[
        str, typer.Option("--methods", help="Kinds of heads, comma-separated; all when not given.")
    ] = "",
    n_way: NWay = 5,
    n_shot: NShot = 5,
    n_query: NQuery = 15,
    episodes: Episodes = 600,
    classes: Classes = None,
    runs: Runs = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Methods on the same random episodes at a site, and whether any difference is more than chance.

    Example: foedus fewshot compare cheques-20261121-101500-1f2e --site sites/newbank --n-shot 1
    """
    from foedus import adaptation
    from foedus.runs import find_run

    found = adaptation.compare(
        find_run(runs, run),
        site,
        classes=_split(classes),
        methods=_methods(methods),
        n_way=n_way,
        n_shot=n_shot,
        n_query=n_query,
        episodes=episodes,
    )
    if as_json:
        print_json(found)
        return
    console.print(_comparison_table(found))
    if episodes < 600:
        console.print(f"{episodes} episodes are few; differences below 1 point take 600.")


@app.command("fit")
def fit(
    run: Annotated[
        str, typer.Argument(help="A finished run that had a few-shot stage, or the folder of its bundle.")
    ],
    site: SiteFolder,
    out: Annotated[
        Path | None, typer.Option("--out", help="The adapted head is written here (safetensors).")
    ] = None,
    register: Annotated[
        Path | None,
        typer.Option("--register", help="The --heads folder of a service, which then answers with it."),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="With --register: served as STUDY.NAME.")] = "own",
    method: Method = "ridge",
    classes: Classes = None,
    names: Annotated[
        bool,
        typer.Option(
            "--names", help="Start from what the classes' names or texts say (backbones that read)."
        ),
    ] = False,
    keep_cases: Annotated[
        bool,
        typer.Option(
            help="Keep the features of the cases in the file: prediction sets and rejection need them."
        ),
    ] = True,
    hold_out_test: Annotated[
        bool,
        typer.Option("--hold-out-test", help="Leave the site's test rows out, so that they can audit it."),
    ] = False,
    runs: Runs = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Fit a head on the labelled examples at a site, save it, and say what so many cases can promise.

    Example: foedus fewshot fit cheques-20261121-101500-1f2e --site sites/newbank --out head.safetensors
    """
    from foedus import adaptation

    target = _target(out, register, name)
    found = adaptation.fit(
        _run_or_bundle(run, runs),
        site,
        classes=_split(classes),
        method=method,
        out=target,
        names=names,
        keep_cases=keep_cases,
        hold_out_test=hold_out_test,
    )
    if as_json:
        print_json(found)
        return
    counts = ", ".join(f"{name} {n}" for name, n in found["examples"].items())
    console.print(escape(f"{method} head on {counts} written to {target}"))
    for sentence in found["guarantees"]["sentences"]:
        console.print(f"- {sentence}", highlight=False)
    if keep_cases:
        console.print(
            "The file holds the features of these cases (--no-keep-cases leaves them out): keep it here."
        )
    console.print("It has not been audited: foedus fewshot audit looks at it, and an auditor approves it.")


@app.command("audit")
def audit(
    run: Annotated[str, typer.Argument(help="The run, or the folder of the bundle, it was fitted on.")],
    site: SiteFolder,
    register: Annotated[Path, typer.Option("--register", help="The --heads folder of the service.")],
    name: Annotated[str, typer.Option("--name", help="Of the head: served as STUDY.NAME.")] = "own",
    policy: Annotated[
        Path | None,
        typer.Option("--policy", help="The auditor's policy for a site's own heads; the run's by default."),
    ] = None,
    runs: Runs = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Audit a registered head on labelled rows it has not seen. Exit code 1 if a gate fails. Nothing leaves.

    Example: foedus fewshot audit releases/heart/0001 --support sites/ward --register heads --name ward
    """
    from foedus.cli.output import verdict_lines
    from foedus.head_audit import audit_head

    head = _target(None, register, name)
    report = audit_head(_run_or_bundle(run, runs), site, head, policy=policy)
    if as_json:
        print_json(report.to_dict())
    else:
        console.print(
            f"{report.study}: {report.n} rows it has not seen, {report.positives} {report.positive}"
        )
        for line in verdict_lines(report.to_dict()):
            console.print(line)
        console.print(f"Next, the auditor: foedus approve {head} --key auditor/NAME.key", soft_wrap=True)
    if report.verdict == "fail":
        raise typer.Exit(1)


def _run_or_bundle(name: str, runs: Path) -> "RunFolder":
    from foedus.runs import RunFolder, find_run

    return RunFolder(Path(name)) if (Path(name) / "manifest.json").is_file() else find_run(runs, name)


def _target(out: Path | None, register: Path | None, name: str) -> Path:
    from foedus.study import NAME

    if (out is None) == (register is None):
        raise ConfigError("foedus fewshot fit", ["give --out FILE, or --register FOLDER with --name"])
    if register is None:
        return out or Path()
    if not re.fullmatch(NAME, name):
        raise ConfigError(
            "--name", [f"'{name}' cannot be a name; use letters, digits, dot, dash, underscore"]
        )
    return register / f"{name}.safetensors"


def _split(classes: str | None) -> list[str] | None:
    return None if classes is None else [name.strip() for name in classes.split(",")]


def _methods(asked: str) -> list["study.Method"]:
    from foedus import study

    known: list[study.Method] = list(get_args(study.Method))
    names = [name.strip() for name in asked.split(",")] if asked else list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(
            "--methods", [f"'{name}' is unknown; {nearest(name, list(known))}" for name in unknown]
        )
    return [method for method in known if method in names]


def _comparison_table(found: dict[str, Any]) -> Table:
    title = f"{found['n_way']}-way {found['n_shot']}-shot at {found['site']}, {found['episodes']} episodes"
    table = Table(title=escape(title), title_justify="left", pad_edge=False, collapse_padding=True)
    for name in ("method", "accuracy", "NLL", "ECE", "less the best", "settled"):
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    behind = {row["method"]: row for row in found["paired"]}
    for row in found["methods"]:
        less = behind.get(row["method"])
        apart = "best" if less is None else f"{less['accuracy']:+.3f} ± {less['ci95']:.3f}"
        accuracy = f"{number(row['accuracy'])} ± {row['ci95']:.3f}"
        cells = accuracy, number(row["nll"]), number(row["ece"]), apart
        table.add_row(row["method"], *cells, "" if less is None else ("yes" if less["settled"] else "no"))
    return table
