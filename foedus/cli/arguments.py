"""Arguments that say in `--help` what they are: click 8.5 clears the help that typer 0.20 gives one."""

from typing import Any

import typer.main
from typer.core import TyperArgument


class Argument(TyperArgument):
    """Typer's own, which keeps its help."""

    def __init__(self, *, help: str | None = None, **given: Any) -> None:
        super().__init__(help=help, **given)
        self.help = help


def keep_help() -> None:
    """Have typer make these from now on."""
    made: Any = typer.main
    made.TyperArgument = Argument
