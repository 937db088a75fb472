"""What the tests of the deployment files share."""

import shlex
from collections.abc import Callable

import click
import pytest
import typer

from foedus.cli import app


@pytest.fixture
def is_a_command() -> Callable[[list[str] | str], None]:
    """Fails unless these words, without "foedus", name a command of ours with its options and arguments."""

    def check(words: list[str] | str) -> None:
        rest = shlex.split(words) if isinstance(words, str) else [str(word) for word in words]
        command: click.Command = typer.main.get_command(app)
        context = click.Context(command, info_name="foedus")
        while isinstance(command, click.Group):
            name, found, rest = command.resolve_command(context, rest)
            assert found is not None
            command, context = found, click.Context(found, info_name=name, parent=context)
        command.make_context(context.info_name, rest, parent=context.parent)  # parses, and runs nothing

    return check
