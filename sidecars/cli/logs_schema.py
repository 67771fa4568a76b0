"""`sidecars logs schema`: what a line of the access log may hold."""

from typing import Annotated

import orjson
import typer

from accesslog.records.formats import Format
from accesslog.records.schema import schema as schema_of


def schema(
    format: Annotated[  # noqa: A002  # the name of the option
        Format, typer.Option("--format", help="The format of the lines, as `format` of the settings.")
    ] = Format.SIDECARS,
) -> None:
    """Print the JSON Schema (draft 2020-12) of an access log record.

    Example: `sidecars logs schema --format ecs > access.schema.json`
    """
    typer.echo(orjson.dumps(schema_of(format), option=orjson.OPT_INDENT_2))
