"""A small study on real folders, and `foedus` run on it as its entry point runs it."""

import csv
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foedus.cli import main
from foedus.cli.environment import DEFAULTS

STUDY = """
[study]
name = "toy"
classes = ["no", "yes"]
[backbone]
source = "tabular"
personal = "head"
[federation]
rounds = 2
min_sites = 2
[door]
mode = "open"
[fairness]
policy = "policy.toml"
[[table.columns]]
name = "a"
kind = "number"
[[table.columns]]
name = "b"
kind = "number"
"""
POLICY = """
[policy]
name = "toy"
[attributes]
sex = ["f", "m"]
[[gate]]
metric = "tpr"
compare = "max_difference"
tolerance = 0.2
"""
SITE = """
[site]
name = "{name}"
[data]
kind = "table"
path = "data.csv"
label = "y"
unit = "id"
[policy]
doors = ["open"]
release_site_metrics = true
[groups.sex]
column = "sex"
values = {{ f = "f", m = "m" }}
"""
Row = dict[str, str]


@dataclass(frozen=True)
class Done:
    """How a command ended; `err` holds the log, too."""

    code: int
    out: str
    err: str


class Toy:
    """study.toml, policy.toml and three sites whose label follows from two columns.

    Attributes:
        folder: Where they are; commands run there.
        foedus: Runs a command; a traceback anywhere fails the test.
    """

    def __init__(self, folder: Path, foedus: Callable[..., Done]) -> None:
        self.folder = folder
        self.foedus = foedus
        (folder / "study.toml").write_text(STUDY)
        (folder / "policy.toml").write_text(POLICY)
        for seed, name in enumerate(["east", "north", "west"]):
            site = self.site(name)
            site.mkdir(parents=True)
            (site / "site.toml").write_text(SITE.format(name=name))
            numbers = np.random.default_rng(seed).normal(size=(60, 2)).round(3).tolist()
            write_csv(
                site / "data.csv",
                [
                    {
                        "id": str(i),
                        "a": str(a),
                        "b": str(b),
                        "y": "yes" if a > b else "no",
                        "sex": "fm"[i % 2],
                    }
                    for i, (a, b) in enumerate(numbers)
                ],
            )

    def site(self, name: str) -> Path:
        """A site's folder."""
        return self.folder / "sites" / name

    def change(self, old: str, new: str, *, file: str = "study.toml") -> None:
        """Replace text that must be there."""
        text = (self.folder / file).read_text()
        assert old in text
        (self.folder / file).write_text(text.replace(old, new))

    def spoil(self, site: str, edit: Callable[[list[Row]], list[Row]]) -> None:
        """Rewrite a site's rows; the header stays where no row does."""
        path = self.site(site) / "data.csv"
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        write_csv(path, edit(rows), columns=list(rows[0]))

    def simulate(self, *more: str) -> Done:
        """`foedus simulate` on all sites."""
        return self.foedus("simulate", "study.toml", "--sites", "sites", *more)

    def check(self, site: str) -> tuple[int, dict[str, list[dict[str, str]]]]:
        """The exit code of `foedus site check`, and its lines by what they are on."""
        done = self.foedus("site", "check", f"sites/{site}", "--study", "study.toml", "--json")
        lines: dict[str, list[dict[str, str]]] = {}
        for row in json.loads(done.out)["rows"]:
            lines.setdefault(row["check"], []).append(row)
        return done.code, lines

    def finished(self) -> list[Path]:
        """Runs that say they are."""
        states = {path.parent: json.loads(path.read_text()) for path in self.folder.glob("runs/*/run.json")}
        return [run for run, state in states.items() if state["status"] == "finished"]

    def results(self) -> dict[str, Any]:
        """results.json of the only run, which must be finished and free of NaN."""
        [run] = self.finished()
        texts = [path.read_text() for path in run.glob("*.json")]
        for text in [*texts, *(run / "rounds.jsonl").read_text().splitlines()]:
            _json(text)
        return dict(_json((run / "results.json").read_text()))

    def results_of(self, site: str) -> dict[str, Any]:
        """A site's own figures in results.json."""
        return next(found for found in self.results()["sites"] if found["site"] == site)


def write_csv(path: Path, rows: list[Row], *, columns: list[str] | None = None) -> None:
    """Rows under the header they bring, or under `columns` if there are none."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else columns or [])
        writer.writeheader()
        writer.writerows(rows)


def _json(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def toy(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Toy:
    """A study that works, to be spoilt."""
    monkeypatch.chdir(tmp_path)
    for name, value in DEFAULTS.items():
        monkeypatch.setenv(name, value)

    def foedus(*arguments: str) -> Done:
        caplog.clear()
        monkeypatch.setattr(sys, "argv", ["foedus", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        err += caplog.text
        assert "Traceback" not in err
        return Done(int(ended.value.code or 0), out, err)

    return Toy(tmp_path, foedus)
