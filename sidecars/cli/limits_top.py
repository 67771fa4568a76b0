"""`sidecars limits top`: the keys asked for and refused most often, live."""

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common.configfile import ConfigError
from sidecars.cli.report import report

if TYPE_CHECKING:  # loaded by the command
    from rich.console import RenderableType

    from sidecars.settings.root import Settings


def top(
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="The settings file of ratelimit.", exists=True),
    ] = None,
    compat: Annotated[
        bool, typer.Option("--compat", help="The settings are the environment of envoyproxy/ratelimit.")
    ] = False,
    keys: Annotated[int, typer.Option(help="The most keys of each table.", min=1, max=50)] = 15,
    seconds: Annotated[float, typer.Option(help="Time between two looks.", min=0.5, max=3600)] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print the tables once.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON once.")] = False,
) -> None:
    """Show the keys that a running ratelimit is asked for most often, and those it refuses, until Ctrl-C.

    Example: `sidecars limits top -c sidecars.yaml`

    The counts are those of the last one or two minutes, of all workers of the process; other hosts have their
    own. They are estimates: see `ratelimit.hot_keys`.

    Exit codes: 0 shown; 1 the process does not answer, or does not count keys; 2 bad usage.
    """
    from sidecars.cli.exit import WRONG
    from sidecars.cli.limits_running import settings_in
    from sidecars.client.pages import NoAnswerError
    from sidecars.settings.load import ENVIRONMENT

    if (config is not None) == compat:
        raise typer.BadParameter("give one of --config and --compat", param_hint="--config")
    try:
        settings = settings_in(ENVIRONMENT if config is None else config, dict(os.environ))
    except ConfigError as error:
        report(error.problems)
    try:
        if json:
            _print_json(_hot_keys(settings, keys))
        elif once:
            _print(_hot_keys(settings, keys))
        else:
            _watch(settings, keys, seconds)
    except NoAnswerError as error:
        typer.echo(f"the admin port {settings.admin.listen} does not answer: {error}", err=True)
        raise typer.Exit(WRONG) from None


def _hot_keys(settings: "Settings", most: int) -> dict[str, list[dict[str, Any]]]:
    """Return the hottest and the most limited keys over all workers. Raises NoAnswerError."""
    from sidecars.client.pages import NoAnswerError, admin_page
    from sidecars.console.pages.limits import merged
    from sidecars.console.source import of_each_worker

    page = asyncio.run(admin_page(settings, "/limits/hot"))
    if page.status != 200:
        raise NoAnswerError(f"it answers {page.status}: does it run ratelimit?")
    answers = [found for _, found in of_each_worker(page.json()) if isinstance(found, dict)]
    return {
        name: merged(answers, name, by, most) for name, by in (("hottest", "hits"), ("limited", "limited"))
    }


def _watch(settings: "Settings", keys: int, seconds: float) -> None:
    from rich.live import Live

    with (
        suppress(KeyboardInterrupt),
        Live(_tables(_hot_keys(settings, keys)), auto_refresh=False, screen=True) as live,
    ):
        while True:
            time.sleep(seconds)
            live.update(_tables(_hot_keys(settings, keys)), refresh=True)


def _print(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    from rich.console import Console

    Console(highlight=False).print(_tables(found))


def _print_json(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    import orjson

    typer.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2))


def _tables(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> "RenderableType":
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    from sidecars.cli.printable import printable

    tables = []
    for name, title in (("hottest", "asked for most often"), ("limited", "refused most often")):
        table = Table("key", "limit", "hits", "refused", title=title, title_justify="left", box=None)
        for one in found[name]:
            table.add_row(
                escape(printable(one["descriptor"])),
                escape(printable(one["rule"])),
                f"{one['hits']:,}",
                f"{one['limited']:,}" if one["limited"] else "",
            )
        tables.append(table if table.row_count else f"{title}: none")
    return Group(*tables)
