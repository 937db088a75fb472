"""foedus feedback: reviewed predictions as new labelled data, in quarantine until checked."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from foedus.cli.output import JsonOption, console, print_json
from foedus.cli.release import Trust, public_keys

app = typer.Typer(
    help="Reviewed predictions as new labelled data at the site, in quarantine until checked.",
    no_args_is_help=True,
)
Folder = Annotated[Path, typer.Option("--folder", help="Where the site keeps its feedback.")]


@app.command("add")
def add(
    bundle: Annotated[Path, typer.Argument(help="What is served: a bundle, or a folder of releases.")],
    reviews: Annotated[Path, typer.Option("--reviews", help="CSV with id, label, reviewer and the inputs.")],
    journal: Annotated[Path, typer.Option("--journal", help="The folder of foedus serve --journal.")],
    folder: Folder = Path("feedback"),
    trust: Trust = None,
    classes: Annotated[
        str | None, typer.Option("--classes", help="Classes beside the model's, comma-separated.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Put reviewed records into quarantine; ids the service never answered are left out.

    Example: foedus feedback add releases/heart --reviews reviews.csv --journal journal --trust keys
    """
    from deploy import feedback
    from deploy.bundle import STUDY_FILE, open_bundle
    from deploy.releases import find_current
    from foedus.journals import read_predictions
    from foedus.study import load_study

    keys = public_keys(trust)
    found = open_bundle(find_current(bundle, keys), keys)
    known = load_study(found.path / STUDY_FILE).study.classes
    more = [name.strip() for name in classes.split(",")] if classes else []
    predictions = read_predictions(journal / found.name)
    taken = feedback.take(reviews, predictions, folder, classes=[*known, *more])
    if as_json:
        print_json(asdict(taken))
        return
    console.print(
        f"{taken.added} records in quarantine ({taken.corrected} correct the service); left out: {taken.known} known "
        f"before, {taken.unknown} the service never answered"
    )


@app.command("check")
def check(
    folder: Folder = Path("feedback"),
    by: Annotated[str, typer.Option("--by", help="Who checked; not who reviewed.")] = "",
    ids: Annotated[
        list[str] | None, typer.Option("--id", help="Which; repeat it. All when not given.")
    ] = None,
    reject: Annotated[bool, typer.Option("--reject", help="They are not good.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Accept records into accepted.csv, which a site.toml can read, or reject them.

    Example: foedus feedback check --folder feedback --by maria
    """
    from deploy import feedback

    n = feedback.check(folder, by=by, ids=ids, accept=not reject)
    counted = feedback.counts(folder)
    if as_json:
        print_json({"checked": n, **counted})
        return
    console.print(f"{n} {'rejected' if reject else 'accepted'}; {counted['quarantine']} still in quarantine")


@app.command("list")
def status(folder: Folder = Path("feedback"), as_json: JsonOption = False) -> None:
    """How many records are in quarantine, accepted, rejected.

    Example: foedus feedback list --folder feedback
    """
    from deploy import feedback

    counted = feedback.counts(folder)
    if as_json:
        print_json(counted)
        return
    console.print(", ".join(f"{n} {name}" for name, n in counted.items()))
