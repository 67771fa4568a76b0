"""Prints the findings of a check."""

from collections.abc import Iterable
from typing import NoReturn

import typer

from common.configfile import Problem
from sidecars.cli.exit import WRONG
from sidecars.cli.printable import printable


def report(problems: Iterable[Problem]) -> NoReturn:
    """Print `problems`, one a line on stderr, and exit with 1."""
    for problem in problems:
        typer.echo(printable(problem), err=True)
    raise typer.Exit(WRONG)


def warn(problems: Iterable[Problem]) -> None:
    """Print `problems` as warnings: they stop nothing."""
    for problem in problems:
        typer.echo(f"warning: {printable(problem)}", err=True)
