"""`sidecars edge explain`: which route decides on a request, what holds for it, and where that is written."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import orjson
import typer

from common.configfile import ConfigError
from sidecars.cli.edge_check import Day, Folder, day_of
from sidecars.cli.exit import WRONG
from sidecars.cli.printable import printable
from sidecars.cli.report import report


def explain(
    folder: Folder,
    host: Annotated[str, typer.Argument(help="The host of the request.")],
    path: Annotated[str, typer.Argument(help="Its path; a query does not count.")],
    method: Annotated[str, typer.Option("--method", "-X", help="Its method.")] = "GET",
    day: Day = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Explain a request: service, route, callers, limits, logs, and which line of which file decided each.

    Example: `sidecars edge explain examples/edge checkout.example.com /orders/7 --method PUT`

    Each line says who decided: the `service`, its `tier`, a `default` or an `override` of the platform, or
    the `suite` if no file says it.

    Exit codes: 0 a route decides; 1 none does, or the files have problems; 2 bad usage.
    """
    from rich.console import Console
    from rich.markup import escape

    from edge.intent.estate import load_estate
    from edge.intent.explain import explain as explained_by

    try:
        estate = load_estate(folder, day_of(day))
    except ConfigError as error:
        report(error.problems)
    try:
        found = explained_by(estate, host, path, method)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if json:
        typer.echo(orjson.dumps(asdict(found), option=orjson.OPT_INDENT_2))
    else:
        out = Console(highlight=False)
        out.print(
            f"[bold]{escape(printable(f'{method} {found.host}{found.path}'))}[/]  {escape(found.route)}"
        )
        out.print(escape(printable(found.verdict)), soft_wrap=True)
        # Lines, not a table: a narrow terminal would tear the file names apart.
        width = max((len(reason.text) for reason in found.reasons), default=0)
        for reason in found.reasons:
            place = str(folder / Path(reason.place)) if reason.place else ""
            line = f"{reason.what:12}  {reason.text:{width}}  {reason.layer.value:8}  {place}"
            out.print(escape(printable(line.rstrip())), soft_wrap=True)
    if not found.route:
        raise typer.Exit(WRONG)
