"""The command line as a user meets it: real processes, exit codes, JSON, one kind sentence."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

from foedus.cli import app

ROOT = Path(__file__).parents[3]
FOEDUS = str(Path(sys.executable).with_name("foedus"))


def foedus(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [FOEDUS, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment, check=False)


def test_a_bad_study_is_exit_code_2_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(
        '[study]\nname = "x"\nclasses = ["a", "b"]\n[federation]\nrounds = -1\n'
    )
    done = foedus("simulate", "study.toml", "--sites", ".", cwd=tmp_path)
    assert done.returncode == 2
    assert "federation.rounds: input should be greater than or equal to 0 (found -1)" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_an_error_is_json_for_a_machine(tmp_path: Path) -> None:
    done = foedus("resume", "nope", "--json", cwd=tmp_path)
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["kind"] == "RunError"


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every command by what is typed."""
    for name, found in group.commands.items():
        if isinstance(found, click.Group):
            yield from commands(found, (*path, name))
        else:
            yield " ".join((*path, name)), found


def test_every_command_has_an_example_and_says_what_it_takes() -> None:
    root = typer.main.get_command(app)
    assert isinstance(root, click.Group)
    found = dict(commands(root))
    assert {"run", "coordinator approve", "site join"} <= set(found)
    for name, command in found.items():
        assert f"Example: foedus {name}" in (command.help or ""), name
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name}: {parameter.name}"


def test_an_unknown_demo_names_the_nearest(tmp_path: Path) -> None:
    done = foedus("demo", "haert", cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean 'heart'?" in done.stderr


def test_backbones_are_listed(tmp_path: Path) -> None:
    done = foedus("backbones", "list", "--json", cwd=tmp_path)
    assert done.returncode == 0
    assert {"bundled:efficientnet-lite0", "bundled:minilm-l6"} <= {
        entry["name"] for entry in json.loads(done.stdout)
    }
    shown = foedus("backbones", "list", cwd=tmp_path).stdout  # not a terminal: 80 columns
    for entry in json.loads(done.stdout):
        assert f"│ {entry['name']} " in shown


def test_tune_says_how_it_is_used_and_refuses_what_cannot_be_searched(tmp_path: Path) -> None:
    assert "Example: foedus tune study.toml" in foedus("tune", "--help", cwd=tmp_path).stdout
    text = '[study]\nname = "x"\nclasses = ["a", "b"]\n[search.space]\n"door.epsilon" = [1.0, 2.0]\n'
    (tmp_path / "study.toml").write_text(text)
    done = foedus("tune", "study.toml", "--sites", ".", cwd=tmp_path)
    assert done.returncode == 2
    assert "door.epsilon cannot be searched; what can is federation.lr" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_heart_from_demo_to_audit(tmp_path: Path) -> None:
    done = foedus("demo", "heart", "--seeds", "1", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["results"]["models"]["federated"]["auc"] > 0.85
    assert len(found["results"]["held_out"]) == 4
    assert "<html" in (tmp_path / found["report"]).read_text()[:200]
    run = Path(found["run"]).name
    shown = foedus("audit", "show", run, "--json", cwd=tmp_path)
    assert json.loads(shown.stdout)["verdict"] == found["audit"]["verdict"]
    again = foedus("audit", "run", run, "--json", cwd=tmp_path)
    assert again.returncode == (0 if found["audit"]["verdict"] == "pass" else 1)
    assert json.loads(again.stdout) == found["audit"]
    [listed] = json.loads(foedus("list", "--json", cwd=tmp_path).stdout)
    assert listed["status"] == "finished"
    checked = foedus("site", "check", "demo-data/heart/sites/cleveland", "--json", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.slow
def test_few_shot_commands_run_as_the_readme_writes_them(tmp_path: Path) -> None:
    """All that is missing is the run that RUN stands for."""
    written = re.findall(r"`foedus (fewshot [^`]+)`", (ROOT / "README.md").read_text())
    assert len(written) == 2
    for command in written:
        done = foedus(*command.split(), cwd=tmp_path)
        assert (done.returncode, done.stderr.split(" in ")[0]) == (2, "RunError: there is no run 'RUN'"), (
            command
        )


def test_every_command_the_readme_names_exists(tmp_path: Path) -> None:
    named = set(
        re.findall(
            r"`foedus ([a-z]+(?: (?:check|list|run|show|evaluate|fit|verify|compare|init|sign))?)",
            (ROOT / "README.md").read_text(),
        )
    )
    assert named
    for command in named:
        done = foedus(*command.split(), "--help", cwd=tmp_path)
        assert done.returncode == 0, command
        assert "Example: foedus" in done.stdout or "Commands" in done.stdout, command
