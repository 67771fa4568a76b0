"""`sidecars edge check` and `sidecars edge schema`: whether intent files are right, and what they may say."""

from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from common.configfile import ConfigError
from sidecars.cli.report import report

Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="The folder with platform.yaml and services/.", exists=True)
]
Day = Annotated[
    datetime | None,
    typer.Option(
        "--date",
        formats=["%Y-%m-%d"],
        help="The day to check for, as in 2026-12-31: exceptions end. Default: today.",
    ),
]


class SchemaOf(StrEnum):
    """The kinds of intent file."""

    SERVICE = "service"
    PLATFORM = "platform"


def check(folder: Folder, day: Day = None) -> None:
    """Check what teams and the platform want, all files together.

    Example: `sidecars edge check examples/edge`

    A service claims only hosts and paths that its team owns, that no other service claims, and that are not
    reserved. It keeps to the ceilings of the platform, unless an exception that has not ended allows more,
    and undoes nothing that the platform says.

    Exit codes: 0 the files are right; 1 problems were found, one a line; 2 bad usage.
    """
    from edge.intent.estate import load_estate

    try:
        estate = load_estate(folder, day_of(day))
    except ConfigError as error:
        report(error.problems)
    routes = sum(len(service.routes) for service in estate.services)
    typer.echo(
        f"ok: {routes} routes of {len(estate.services)} services, {len(estate.teams)} teams, "
        f"revision {estate.revision}"
    )


def schema(
    kind: Annotated[SchemaOf, typer.Argument(metavar="service|platform", help="The kind of file.")],
) -> None:
    """Print the JSON Schema of service files or of platform files, for editors and other tools.

    Example: `sidecars edge schema service > service.schema.json`, and in a service file the first line
    `# yaml-language-server: $schema=../service.schema.json`
    """
    from edge.intent.platform_file import PlatformFile
    from edge.intent.service_file import ServiceFile

    model = ServiceFile if kind is SchemaOf.SERVICE else PlatformFile
    content: dict[str, Any] = model.model_json_schema(by_alias=True)
    text = {"$schema": "https://json-schema.org/draft/2020-12/schema", **content}
    typer.echo(orjson.dumps(text, option=orjson.OPT_INDENT_2))


def day_of(day: datetime | None) -> date:
    """Return the day of the option `--date`; without it today, where the command runs."""
    return date.today() if day is None else day.date()  # noqa: DTZ011 - people mean their own day
