"""`sidecars edge diff`: what a change of intent means for callers and for the log."""

from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Annotated, Final

import orjson
import typer

from common.configfile import ConfigError
from sidecars.cli.edge_check import Day, day_of
from sidecars.cli.exit import WRONG
from sidecars.cli.printable import printable
from sidecars.cli.report import report

_COLOURS: Final = {
    "redaction weaker": "red",
    "access wider": "red",
    "limit higher": "yellow",
    "access narrower": "green",
    "limit lower": "green",
}
_MOST_SUBJECTS: Final = 3
"""The most services or routes that a line names."""


def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="The folder before the change.", exists=True)],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The folder after it.", exists=True)],
    fail_if_wider: Annotated[
        bool,
        typer.Option(
            "--fail-if-wider",
            help="Exit with 1 if someone may call what they could not, or the log shows more of a value.",
        ),
    ] = False,
    day: Day = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say in words what a change means: who may call what, limits, logs; what opens or reveals comes first.

    Example: `sidecars edge diff main/edge branch/edge --fail-if-wider`

    Access counts as wider unless the words show that it is not: two expressions that differ, for example.
    NEW must be right (`sidecars edge check`); in OLD, exceptions may have ended.

    Exit codes: 0 compared; 1 with `--fail-if-wider` something is wider, or the files have problems; 2 bad
    usage.
    """
    from rich.console import Console
    from rich.markup import escape

    from edge.intent.diff.estates import diff as changes_of
    from edge.intent.estate import load_estate

    try:
        changes = changes_of(load_estate(old, date.min), load_estate(new, day_of(day)))
    except ConfigError as error:
        report(error.problems)
    if json:
        data = [{**asdict(change), "widens": change.widens} for change in changes]
        typer.echo(orjson.dumps(data, option=orjson.OPT_INDENT_2))
    else:
        out = Console(highlight=False)
        for change in changes:
            kind = change.kind.value
            colour = _COLOURS.get(kind, "dim")
            line = f"{_subjects(change.subjects)}: {change.text}"
            out.print(f"[{colour}]{kind:16}[/]  {escape(printable(line))}", soft_wrap=True)
        if not changes:
            out.print("nothing differs")
    if fail_if_wider and any(change.widens for change in changes):
        raise typer.Exit(WRONG)


def _subjects(names: tuple[str, ...]) -> str:
    more = len(names) - _MOST_SUBJECTS
    return ", ".join(names[:_MOST_SUBJECTS]) + (f" and {more} more" if more > 0 else "")
